"""Scores of independent candidates on a GPU: Philox, normals and inner product in one Triton kernel.

A candidate is drawn in registers and forgotten, so 1024 candidates of a 2.1-million-value latent need no memory to
speak of. The normals come from a polynomial, within 2e-4 of `noise.normal_table`: enough to choose by, while the chosen
candidate is drawn again by `vov.noise`, to the bit. Same counters as there.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from vov.noise import Stream

TILE_IDS, TILE_COUNTERS = 16, 64  # candidates and Philox counters (8 values each) of one step of a program
SPLIT = 1 << 14  # counters that one program walks: a large block is shared out among many


@cache
def available() -> bool:
    """Whether Triton is there and fit for this GPU."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 7


def scores(seed: int, step: int, first: int, count: int, blocks: Tensor, wanted: Tensor) -> Tensor:
    """<wanted[r], stream (CANDIDATE, step, blocks[r], first + j)> for j < count: float32 [rows, count].

    blocks: int64 [rows]. wanted: float32 [rows, width].
    """
    import triton

    rows, width = wanted.shape
    counters = -(-width // 8)
    padded = torch.zeros(rows, counters * 8, device=wanted.device)
    padded[:, :width] = wanted
    by_place = padded.view(rows, counters, 8).permute(0, 2, 1).contiguous()  # [rows, 8, counters]: loads in order
    splits = triton.cdiv(counters, SPLIT)
    parts = torch.empty(splits, rows, count, device=wanted.device)
    # Word 3 of the counter holds the first id, the number of ids (3), the kind (normal: 0) and the stream's name.
    word3 = (step | 3 << 22 | int(Stream.CANDIDATE) << 26) & 0xFFFFFFFF
    tile = min(TILE_COUNTERS, triton.next_power_of_2(counters))
    split = min(SPLIT, triton.cdiv(counters, tile) * tile)
    grid = (triton.cdiv(count, TILE_IDS), rows, splits)
    words = torch.tensor([seed & 0xFFFFFFFF, seed >> 32, word3, first], device=wanted.device)
    _kernel()[grid](by_place, blocks, words, parts, counters, count, rows, SPLIT=split, TILE_IDS=TILE_IDS,
                    TILE_COUNTERS=tile, num_warps=4)
    return parts.sum(0)


@cache
def _kernel():
    """The kernel, compiled at first use: Triton is not needed to import this module."""
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
    def kernel(data, blocks, words, parts, counters, count, rows,
               SPLIT: tl.constexpr, TILE_IDS: tl.constexpr, TILE_COUNTERS: tl.constexpr):
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

    # A jitted function looks its helpers up among the module's names.
    globals().update(normal=normal, add_pair=add_pair, tl=tl)
    return kernel
