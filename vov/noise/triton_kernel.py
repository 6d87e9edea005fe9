"""The Triton kernel behind `vov.noise.kernel`, which imports this module only where Triton is installed.

A jitted function looks the functions it calls up among its module's names, hence a module of its own.
"""

import triton
import triton.language as tl


@triton.jit
def normal(half):
    """√2·erfinv of a 16-bit number's place in (−1, 1), after Giles, "Approximating the erfinv function" (2010)."""
    x = (half.to(tl.float32) + 0.5) * (2.0 / 65536) - 1.0
    w = -tl.log(1.0 - x * x)
    a = w - 2.5
    p = 2.81022636e-08
    p = 3.43273939e-07 + p * a
    p = -3.5233877e-06 + p * a
    p = -4.39150654e-06 + p * a
    p = 0.00021858087 + p * a
    p = -0.00125372503 + p * a
    p = -0.00417768164 + p * a
    p = 0.246640727 + p * a
    p = 1.50140941 + p * a
    b = tl.sqrt(w) - 3.0
    q = -0.000200214257
    q = 0.000100950558 + q * b
    q = 0.00134934322 + q * b
    q = -0.00367342844 + q * b
    q = 0.00573950773 + q * b
    q = -0.0076224613 + q * b
    q = 0.00943887047 + q * b
    q = 1.00167406 + q * b
    q = 2.83297682 + q * b
    return 1.4142135623730951 * x * tl.where(w < 5.0, p, q)


@triton.jit
def add_pair(total, word, data, at, step, live):
    """total += the two normals of a 32-bit word times their values."""
    low = tl.load(data + at, mask=live, other=0.0)
    high = tl.load(data + at + step, mask=live, other=0.0)
    total += normal(word & 0xFFFF) * low[None, :]
    total += normal(word >> 16) * high[None, :]
    return total


@triton.jit
def candidate_scores(data, blocks, words, parts, counters, count, rows,
                     SPLIT: tl.constexpr, TILE_IDS: tl.constexpr, TILE_COUNTERS: tl.constexpr):
    """One tile of candidates against one block; `kernel.scores` lays out the arguments and sums the splits.

    data: the wanted values, float32 [rows, 8, counters]. blocks: int64 [rows]. words: both halves of the seed, word 3
    of the counter, the first id. parts: gets the sums, float32 [splits, rows, count].
    """
    ids = tl.program_id(0) * TILE_IDS + tl.arange(0, TILE_IDS)
    row, split = tl.program_id(1), tl.program_id(2)
    block = tl.load(blocks + row).to(tl.uint32)
    key0, key1 = tl.load(words).to(tl.uint32), tl.load(words + 1).to(tl.uint32)
    word3, first = tl.load(words + 2).to(tl.uint32), tl.load(words + 3).to(tl.uint32)
    base = row.to(tl.int64) * counters * 8
    total = tl.zeros((TILE_IDS, TILE_COUNTERS), tl.float32)
    for start in range(split * SPLIT, tl.minimum(split * SPLIT + SPLIT, counters), TILE_COUNTERS):
        place = start + tl.arange(0, TILE_COUNTERS)
        live = place < counters
        zero = tl.zeros((TILE_IDS, TILE_COUNTERS), tl.uint32)
        c0 = zero + place[None, :].to(tl.uint32)
        c1 = zero + (first + ids.to(tl.uint32))[:, None]
        c2 = zero + block
        c3 = zero + word3
        k0, k1 = key0, key1
        for _ in tl.static_range(10):
            a0, a2 = c0, c2
            c0 = tl.umulhi(a2, zero + 0xCD9E8D57) ^ c1 ^ k0
            c2 = tl.umulhi(a0, zero + 0xD2511F53) ^ c3 ^ k1
            c1 = a2 * (zero + 0xCD9E8D57)
            c3 = a0 * (zero + 0xD2511F53)
            k0 = k0 + tl.full((), 0x9E3779B9, tl.uint32)
            k1 = k1 + tl.full((), 0xBB67AE85, tl.uint32)
        at = base + place
        total = add_pair(total, c0, data, at, counters, live)
        total = add_pair(total, c1, data, at + 2 * counters, counters, live)
        total = add_pair(total, c2, data, at + 4 * counters, counters, live)
        total = add_pair(total, c3, data, at + 6 * counters, counters, live)
    score = tl.sum(total, axis=1)
    tl.store(parts + (split * rows + row) * count + ids, score, mask=ids < count)
