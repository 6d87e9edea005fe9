"""Random numbers that are the same on every device, torch version and number of processes.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer
tensor arithmetic: a counter and a key go in, 128 random bits come out, nothing is remembered in between. So
any value can be drawn alone, in any order, on any machine. The decoder depends on this: no float operation
whose rounding could differ between devices is used on the way from the counter to the value.

Counter and key
    key       the 64-bit seed
    word 0    number of the 128-bit block within the stream
    word 1    last id of the stream      (32 bits)
    word 2    last but one               (32 bits)
    word 3    last but two (22 bits), then 2 bits number of ids, 2 bits kind of number, 6 bits name
so two different streams, or two kinds of number from one stream, never share a block.

A stream is a name, or a tuple of a name and up to three ids: `Stream.DECODER`,
`(Stream.CANDIDATE, step, block, candidate)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor


class Stream(IntEnum):
    """What the numbers are for. Values are part of the file format: never renumber, only append (below 64)."""

    DECODER = 0  # the noise from which the decoder starts; (DECODER, item) for item > 0
    FIT = 1  # fresh noise of a fit: (FIT, step, sample)
    CANDIDATE = 2  # noise to choose from, and to replay: (CANDIDATE, step, block, candidate)
    THETA = 3  # initial theta
    TIMESTEP = 4  # timesteps of a fit: (TIMESTEP, step, sample)
    QUANTISER = 5  # the rate model's uniform noise: (QUANTISER, step)
    ANCHOR = 6  # whether a sample of a mixed fit is anchored: (ANCHOR, step, sample)
    OTHER = 7  # anything that no file depends on: sampling of inputs, tests


StreamId = int | tuple[int | Tensor, ...]
Shape = int | Sequence[int]

_NORMAL, _UNIFORM, _INTEGER = 0, 1, 2  # the kind of number, bits 24-25 of word 3
_MASK = 0xFFFFFFFF
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ID_BITS = (22, 32, 32)  # of the last but two, the last but one and the last id
_CPU_CHUNK, _GPU_CHUNK = 1 << 15, 1 << 22  # blocks at a time: keeps temporaries in cache, or within 1 GiB


def philox(counter: Sequence[Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of four counter words under a 64-bit key.

    counter: four int64 tensors with values in [0, 2^32) that broadcast against each other.
    Returns four int64 tensors of the broadcast shape, values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(10):
        # The products need 64 unsigned bits; int64 wraps to the same bits, and the mask undoes the sign.
        p0, p1 = c0 * _FACTORS[0], c2 * _FACTORS[1]
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return tuple(torch.broadcast_tensors(c0, c1, c2, c3))


@cache
def normal_table(device: str | torch.device = "cpu") -> Tensor:
    """The 65,536 values a normal draw can take: float32 [65536], ascending, antisymmetric.

    Entry u is the inverse normal distribution function at (u + 0.5) / 65536, rounded to a multiple of 2^-12.
    No unrounded entry lies within 6e-9 (relative) of a rounding boundary, while the double precision formula
    is good to about 1e-16, so every machine computes the same table. Mean exactly 0, variance 0.999979
    (the tails end at ±4.3), which is 1 for every purpose here and is not corrected.
    """
    inverse = NormalDist().inv_cdf
    half = [round(4096 * inverse((u + 0.5) / 65536)) for u in range(32768, 65536)]
    steps = [-k for k in reversed(half)] + half
    return (torch.tensor(steps, dtype=torch.int32).float() / 4096).to(device)


def normal(seed: int, stream: StreamId, shape: Shape, device: str | torch.device = "cpu", offset: int = 0) -> Tensor:
    """Standard normal float32 of `shape`; element k (flattened) depends on (seed, stream, offset + k) alone.

    seed: in [0, 2^64). offset + number of elements: at most 2^35. Values are multiples of 2^-12 in ±4.33.
    """
    return _single(_NORMAL, seed, stream, shape, device, offset)


def uniform(seed: int, stream: StreamId, shape: Shape, device: str | torch.device = "cpu", offset: int = 0) -> Tensor:
    """Uniform float32 in [0, 1), multiples of 2^-24; otherwise as `normal` (at most 2^34 elements)."""
    return _single(_UNIFORM, seed, stream, shape, device, offset)


def integers(
    seed: int, stream: StreamId, high: int, shape: Shape, device: str | torch.device = "cpu", offset: int = 0
) -> Tensor:
    """Uniform int64 in [0, high), 1 <= high <= 2^31; otherwise as `uniform`.

    Drawn as floor(word · high / 2^32): the probability of a value is off by at most a factor 1 ± high / 2^32.
    """
    if not 1 <= high <= 1 << 31:
        raise ValueError(f"high is {high}; it must be in [1, 2^31]")
    return _single(_INTEGER, seed, stream, shape, device, offset) * high >> 32


def normal_batch(seed: int, prefix: StreamId, ids: Tensor | Sequence[int], n: int, offset: int = 0) -> Tensor:
    """Many streams at once: float32 [len(ids), n], whose row r is `normal(seed, (*prefix, ids[r]), n)`.

    prefix: a stream with at most two ids. ids: integers in [0, 2^32), 1-D; the result is on their device.
    Ids on a GPU are taken modulo 2^32 rather than checked, so that nothing waits for the GPU.
    """
    return _batch(_NORMAL, seed, prefix, ids, n, offset)


def uniform_batch(seed: int, prefix: StreamId, ids: Tensor | Sequence[int], n: int, offset: int = 0) -> Tensor:
    """As `normal_batch`, row r being `uniform(seed, (*prefix, ids[r]), n)`."""
    return _batch(_UNIFORM, seed, prefix, ids, n, offset)


def words_batch(seed: int, prefix: StreamId, ids: Tensor | Sequence[int], n: int, offset: int = 0) -> Tensor:
    """As `normal_batch`, with integers in [0, 2^32): int64 [len(ids), n]."""
    return _batch(_INTEGER, seed, prefix, ids, n, offset)


def _batch(kind: int, seed: int, prefix: StreamId, ids: Tensor | Sequence[int], n: int, offset: int) -> Tensor:
    ids = ids if isinstance(ids, Tensor) else torch.tensor(list(ids), dtype=torch.int64)
    if ids.dim() != 1 or ids.is_floating_point():
        raise ValueError(f"ids must be integers in one dimension, not {ids.dtype} {list(ids.shape)}")
    if not ids.is_cuda and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > _MASK):
        raise ValueError("ids must be in [0, 2^32)")
    prefix = prefix if isinstance(prefix, tuple) else (prefix,)
    return _draw(kind, seed, (*prefix, ids.long()[:, None]), n, ids.device, offset)


def _single(kind: int, seed: int, stream: StreamId, shape: Shape, device: str | torch.device, offset: int) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    stream = stream if isinstance(stream, tuple) else (stream,)
    return _draw(kind, seed, stream, math.prod(shape), torch.device(device), offset).reshape(shape)


def _draw(kind: int, seed: int, stream: tuple[int | Tensor, ...], n: int, device: torch.device, offset: int) -> Tensor:
    """[rows, n] numbers of one kind; rows is 1, or the length of the one id that is a [rows, 1] tensor."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}; it must be in [0, 2^64)")
    per_block = 8 if kind == _NORMAL else 4
    if n < 0 or offset < 0 or offset + n > per_block << 32:
        raise ValueError(f"offset {offset} + {n} numbers; a stream holds {per_block} x 2^32")
    words = _stream_words(kind, stream, device)
    rows = torch.broadcast_shapes((1, 1), *(word.shape for word in words))[0]
    dtype = torch.int64 if kind == _INTEGER else torch.float32
    first, last = offset // per_block, -(-(offset + n) // per_block)
    chunk = max(1, (_GPU_CHUNK if device.type == "cuda" else _CPU_CHUNK) // max(1, rows))
    pieces = [torch.empty(rows, 0, dtype=dtype, device=device)]
    for start in range(first, last, chunk):
        block = torch.arange(start, min(start + chunk, last), device=device)[None]
        bits = torch.stack(philox((block, *words), seed), dim=-1)  # [rows, blocks, 4]
        pieces.append(_values(kind, bits).flatten(1))
    skip = offset - first * per_block
    return torch.cat(pieces, dim=1)[:, skip : skip + n].contiguous()


def _values(kind: int, bits: Tensor) -> Tensor:
    """32-bit words [..., 4] as numbers: eight normals or four of the others per block, low halves first."""
    if kind == _NORMAL:
        halves = torch.stack((bits & 0xFFFF, bits >> 16), dim=-1)
        return normal_table(bits.device)[halves]
    return (bits >> 8).float() * 2.0**-24 if kind == _UNIFORM else bits


def _stream_words(kind: int, stream: tuple[int | Tensor, ...], device: torch.device) -> list[Tensor]:
    """Counter words 1, 2, 3 of a stream."""
    name, *ids = stream
    if not 0 <= name < 64 or len(ids) > 3:
        raise ValueError(f"stream {stream}: a name below 64 and at most three ids")
    head = len(ids) << 22 | kind << 24 | int(name) << 26
    ids = [*[0] * (3 - len(ids)), *ids]
    for value, bits in zip(ids, _ID_BITS, strict=True):
        if not isinstance(value, Tensor) and not 0 <= value < 1 << bits:
            raise ValueError(f"stream {stream}: {value} is outside [0, 2^{bits})")
    # full, not tensor: a fill is allowed while a CUDA graph is captured, a copy from the host is not.
    early, middle, late = (
        (value.to(device) & (1 << bits) - 1)
        if isinstance(value, Tensor)
        else torch.full((1, 1), value, dtype=torch.int64, device=device)
        for value, bits in zip(ids, _ID_BITS, strict=True)
    )
    return [late, middle, early | head]
