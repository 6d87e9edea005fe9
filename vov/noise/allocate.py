"""How many atoms each step and block gets: a budget of bytes, spent where it lowers the final error most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vov import VovError
from vov.bitstream.noise_code import NoiseCode

FILLS = 48  # how often what is left of a budget is tried on single cells


def allocate(code: NoiseCode, energy: np.ndarray, worth: np.ndarray, budget: int,
             items: int = 1) -> tuple[NoiseCode, bool]:
    """`code` with the plan that spends at most `budget` bytes in proportion to `worth`, and whether it spends them.

    M atoms of b bits move the noise by about √(2·ln 2·b·M) along the direction. A unit of that lowers the final squared
    error by the length of `Wanted.gain`, so Σ |gain|·√M under ΣM = const is largest at M ∝ |gain|², the `worth` [steps,
    blocks]: how far a step's noise can move the state towards the original. No cell gets more atoms than its `energy`,
    |drift|², can use: to follow the posterior takes |drift|² / 2 nats. Without sign bits a cell has an index or none.
    """
    useful = np.maximum(energy / (2 * math.log(2) * code.width), 1)

    def plan_of(scale: float) -> np.ndarray:
        if not code.signed:
            return (worth * scale >= 1).astype(np.int64)
        wanted = np.minimum(np.minimum(worth * scale, useful), code.most)
        return code.levels[np.abs(code.levels[:, None] - wanted.reshape(1, -1)).argmin(0)].reshape(worth.shape)

    def size_of(plan: np.ndarray) -> int:
        return size(replace(code, plan=plan), items)

    worth = worth / max(worth.max(), 1e-30)
    low, high = 1e-9, 1e9
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if size_of(plan_of(middle)) <= budget else (low, middle)
    plan = plan_of(low)
    if not plan.any():
        raise VovError(f"{budget} bytes of noise are too few for a single index; ask for more")
    spent = size_of(plan_of(1e9)) > budget
    if code.signed and spent:
        plan = _filled(plan, worth, useful, code.levels, budget, size_of)
    return replace(code, plan=plan), spent


def size(code: NoiseCode, items: int = 1) -> int:
    """Bytes that a code without its symbols will have with them: indices are as good as random."""
    packed = -(-int(code.plan.sum()) * items * code.width // 8)
    return len(code.to_bytes()) + 4 + packed


def stretched(code: NoiseCode, budget: int, items: int = 1) -> NoiseCode:
    """`code` with as many atoms in its last coded step as `budget` bytes allow, at least one a cell that has any.

    The other steps keep theirs, and so their symbols. Quality therefore rises steadily with the budget, where plans of
    their own make it jump from size to size.
    """
    last = np.flatnonzero(code.plan.any(1))[-1]

    def of(share: float) -> NoiseCode:
        plan = code.plan.copy()
        plan[last] = np.where(plan[last] > 0, np.clip((share * plan[last]).round(), 1, code.most), 0)
        return replace(code, plan=plan)

    low, high = 0.0, float(code.most)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if size(of(middle), items) <= budget else (low, middle)
    return of(low)


def _filled(plan: np.ndarray, worth: np.ndarray, useful: np.ndarray, levels: np.ndarray, budget: int,
            size_of: Callable[[np.ndarray], int]) -> np.ndarray:
    """A plan that leaves less of the budget: cells take their next level while it fits, those that gain most first;
    what then is left goes to one more cell, between its levels.

    Levels lie up to a factor of two apart, so that one scale for all cells leaves a few per cent of a small budget.
    """
    tries = 0
    while tries < FILLS:
        after, gain = _next(plan, worth, useful, levels)
        for cell in np.argsort(-gain, axis=None, kind="stable")[:FILLS]:
            tries += 1
            more = _with(plan, cell, after.flat[cell])
            if gain.flat[cell] > 0 and size_of(more) <= budget:
                plan = more
                break
        else:
            break
    after, gain = _next(plan, worth, useful, levels)
    cell = int(gain.argmax())
    if gain.flat[cell] > 0:
        fitting = [more for atoms in range(plan.flat[cell] + 1, after.flat[cell])
                   if size_of(more := _with(plan, cell, atoms)) <= budget]
        plan = fitting[-1] if fitting else plan
    return plan


def _next(plan: np.ndarray, worth: np.ndarray, useful: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every cell's next level, and what an atom towards it gains; 0 where it has no use for more."""
    after = levels[np.minimum(np.searchsorted(levels, plan, side="right"), len(levels) - 1)]
    possible = (after > plan) & (after <= np.minimum(2 * useful, levels[-1]))
    return after, np.where(possible, worth / np.maximum(plan, 0.5), 0)


def _with(plan: np.ndarray, cell: int, atoms: int) -> np.ndarray:
    """The plan with so many atoms in one cell."""
    plan = plan.copy()
    plan.flat[cell] = atoms
    return plan
