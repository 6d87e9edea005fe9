"""Scores of independent candidates on a GPU: Philox, normals and inner product in one Triton kernel.

A candidate is drawn in registers and forgotten, so 1024 candidates of a 2.1-million-value latent need no memory to
speak of. The normals come from a polynomial, within 2e-4 of `noise.normal_table`: enough to choose by, while the chosen
candidate is drawn again by `vov.runtime.random`, to the bit. Same counters as there.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from vov.runtime.random import Stream

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

    from vov.noise.triton_kernel import candidate_scores

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
    candidate_scores[grid](by_place, blocks, words, parts, counters, count, rows, SPLIT=split, TILE_IDS=TILE_IDS,
                           TILE_COUNTERS=tile, num_warps=4)
    return parts.sum(0)
