"""Flow matching: σ grids and the sampler.

x_t = (1 − t)·x0 + t·ε runs from the latents (t = 0) to noise (t = 1); a model predicts the velocity
v = ε − x0. Here t and σ are the same number in [0, 1]; a backbone scales it to its own timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vov import VovError
from vov.runtime.random import Stream, normal

Velocity = Callable[[Tensor, float], Tensor]  # (x_t, t) → v
Level = TypeVar("Level", np.ndarray, Tensor, float)


def shift_sigma(sigma: Level, shift: float) -> Level:
    """σ' = s·σ / (1 + (s − 1)·σ): spends more of the schedule near noise (Esser et al. 2024, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_grid(steps: int, shift: float) -> list[float]:
    """The decoder's σ values, `steps` + 1 of them, falling from 1 to 0; rounded to float32 as files keep them."""
    with np.errstate(all="ignore"):
        grid = shift_sigma(np.linspace(1, 0, steps + 1), shift)
    if not np.isfinite(grid).all() or grid[0] != 1:
        raise VovError(f"shift: {shift:g} gives no noise levels from 1 to 0; set `shift` between 0.001 and 1000, or "
                       "the file is damaged")
    return [float(s) for s in grid.astype(np.float32)]


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 − t)·x0 + t·ε; t is [B] and broadcasts over the other dimensions."""
    t = t.view(-1, *[1] * (x0.dim() - 1))
    return (1 - t) * x0 + t * noise


def denoised(x: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """The x0 that a velocity at x_t implies: x_t − t·v."""
    return x - t * velocity


def decoder_noise(seed: int, shape: Sequence[int], item: int = 0, device: str | torch.device = "cpu") -> Tensor:
    """The ε that the decoder starts item `item` from; equal on every device."""
    stream = (Stream.DECODER, item) if item else Stream.DECODER
    return normal(seed, stream, shape, device=device)


def euler(velocity: Velocity, x: Tensor, sigmas: Sequence[float],
          after_step: Callable[[int, Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """Integrates dx/dσ = v from sigmas[0] to sigmas[-1] with Euler steps.

    Args:
        velocity: (x_t, t) → v.
        x: start, usually noise; any shape.
        sigmas: falling levels.
        after_step: (i, x, x̂0) → x, called after step i with the new state; noise is injected here.
    """
    for i, (now, after) in enumerate(pairwise(sigmas)):
        v = velocity(x, now)
        x0 = denoised(x, v, now)
        x = x + (after - now) * v
        if after_step is not None:
            x = after_step(i, x, x0)
    return x


def unipc(velocity: Velocity, x: Tensor, sigmas: Sequence[float], order: int = 2) -> Tensor:
    """UniPC (Zhao et al. 2023, Wan's own solver) through diffusers' scheduler, on the given grid."""
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0,
                                        solver_order=min(order, len(sigmas) - 1))
    scheduler.set_timesteps(sigmas=np.array(sigmas[:-1], np.float64), device=x.device)
    scheduler.set_begin_index(0)  # grids finer than its integer timesteps must not be looked up by value
    for timestep, now in zip(scheduler.timesteps, sigmas[:-1], strict=True):
        x = scheduler.step(velocity(x, now), timestep, x, return_dict=False)[0]
    return x


def sample(velocity: Velocity, x: Tensor, sigmas: Sequence[float], sampler: str = "euler",
           after_step: Callable[[int, Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """Integrates the flow from noise with the named sampler; only Euler's can have an `after_step`."""
    if sampler == "euler":
        return euler(velocity, x, sigmas, after_step)
    if after_step is not None:
        raise ValueError(f"noise cannot be injected into the {sampler} sampler")
    return unipc(velocity, x, sigmas)
