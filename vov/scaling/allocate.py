"""How many atoms each step and block gets: a budget of bytes, spent where it lowers the final error most."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vov import VovError
from vov.bitstream.noise_code import LEVELS, MAX_ATOMS, NoiseCode


def allocate(code: NoiseCode, energy: np.ndarray, worth: np.ndarray, budget: int,
             items: int = 1) -> tuple[NoiseCode, bool]:
    """`code` with the plan that spends at most `budget` bytes in proportion to `worth`, and whether it spends them.

    The score of M atoms is about |direction|·√(2·ln K·M), and a unit of it lowers the final squared error by some
    value v, so Σ v·|direction|·√M under ΣM = const is largest at M ∝ v²·|direction|², the `worth` [steps, blocks].
    v is g·|Jᵀe| / |direction| when J = ∂x̂0/∂x is measured (lookahead), else with J = 1: a step's worth is how far its
    noise can move the state towards the original. No cell gets more atoms than its `energy`, |direction|², can
    use. Without sign bits a cell has an index or has none.
    """
    useful = np.maximum(energy / (2 * math.log(code.alphabet)), 1)

    def plan_of(scale: float) -> np.ndarray:
        if not code.signed:
            return (worth * scale >= 1).astype(np.int64)
        wanted = np.minimum(np.minimum(worth * scale, useful), MAX_ATOMS)
        return LEVELS[np.abs(LEVELS[:, None] - wanted.reshape(1, -1)).argmin(0)].reshape(worth.shape)

    def size_of(plan: np.ndarray) -> int:
        packed = -(-int(plan.sum()) * items * (code.bits + code.signed) // 8)  # indices are as good as random
        return len(replace(code, plan=plan).to_bytes()) + 4 + packed

    worth = worth / max(worth.max(), 1e-30)
    low, high = 1e-9, 1e9
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if size_of(plan_of(middle)) <= budget else (low, middle)
    plan = plan_of(low)
    if not plan.any():
        raise VovError(f"SCALING_BYTES={budget} is too little for a single index; raise it")
    return replace(code, plan=plan), size_of(plan_of(1e9)) > budget
