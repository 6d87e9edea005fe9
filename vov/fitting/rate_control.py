"""A fit aimed at a rate, a size or a quality: on the way by λ and the quantiser step, at its end by the step alone.

`RateControl`: while θ̂ costs more bits than wanted, λ rises and the quantiser step grows. At the best trade of rate
against distortion every rate has its own λ, which nobody knows beforehand; an integral controller of log λ finds it on
the way. The step is corrected at once as well: twice the step is one bit an entry less. θ must know its final step
while it is fitted: it settles where rounding at that very step hurts least, and loses some tenths of a dB when rounded
at one that differs by a few per cent. When a PSNR is wanted instead of a rate, the wanted rate itself follows what is
measured.

`with_final_step`: the step of the finished θ is moved, by a few per cent as a rule, until the real file, coded and
counted, has the bytes, or the decoded frames have the PSNR.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vov import VovError, bitstream
from vov.adapter.quantiser import theta_hat
from vov.config import rate_targets
from vov.fitting.fit import Fitted
from vov.fitting.rate import RateModel
from vov.fitting.settings import FitConfig

if TYPE_CHECKING:
    from vov.fitting.encoder import Encoder

log = logging.getLogger(__name__)
EVERY = 5  # optimiser steps between two measurements of the bits
GAIN = 10.0  # of log λ, for an error of one bit an entry during a whole fit
DAMPING = 0.5  # share of an error that the step takes back at a time
LIMIT = 5.0  # log λ stays within ± this of where it began
FEWEST, MOST = 0.1, 7.0  # bits an entry that a θ can be aimed at
PSNR_TIMES = 12  # how often a fit that is aimed at a PSNR is decoded
DB_PER_BIT = 6.0
HALVINGS = 24  # of the interval of the step's logarithm, for sizes
DECODES = 12  # likewise for a PSNR, each a decode
NEIGHBOURS = np.geomspace(1.06, 0.94, 49)  # of a step; a size does not fall quite evenly with it


class RateControl:
    """What a fit is aimed at, and λ's factor. `state`, float32 [2] on `device`, is part of its checkpoint.

    Args:
        bits: wanted, of an entry of θ.
        steps: optimiser steps of the fit; a longer one is steered more slowly.
        spent: symbols int32 [d] → bits of an entry that they cost, in the terms of `bits`.
        psnr: wanted, in dB; 0: the bits are.
        quality: θ̂ [d] → PSNR of what it decodes to.
    """

    def __init__(self, bits: float, steps: int, device: torch.device | str, spent: Callable[[Tensor], float],
                 psnr: float = 0.0, quality: Callable[[Tensor], float] | None = None):
        self.gain, self.spent, self.psnr, self.quality = GAIN * EVERY / steps, spent, psnr, quality
        self.psnr_every = max(1, steps // PSNR_TIMES)
        self.state = torch.tensor([0.0, bits], device=device)

    @property
    def factor(self) -> float:
        """What λ is multiplied by."""
        return math.exp(float(self.state[0]))

    @property
    def bits(self) -> float:
        """Wanted bits of an entry."""
        return float(self.state[1])

    @torch.no_grad()
    def note(self, done: int, rate: RateModel, theta: Tensor) -> None:
        """After `done` optimiser steps: measures what is due, and moves λ and the step of `rate`."""
        if self.psnr and self.quality and done % self.psnr_every == 0:
            change = (self.psnr - self.quality(rate.theta_hat(theta, "round"))) / DB_PER_BIT
            self.state[1] = min(MOST, max(FEWEST, self.bits + max(-0.5, min(0.5, change))))
        if done % EVERY == 0:
            error = max(-1.0, min(1.0, self.spent(rate.symbols(theta)) - self.bits))
            self.state[0] = max(-LIMIT, min(LIMIT, float(self.state[0]) + self.gain * error))
            rate.set_step(rate.step_value * 2 ** (DAMPING * error))


def with_final_step(encoder: Encoder, settings: FitConfig, fitted: Fitted) -> Fitted:
    """The fit with the step that meets the target of `settings`; as it is without one.

    A fit that has no step yet gets one, so that a fit without a rate term can be aimed too.
    Raises VovError when θ cannot have the size, or not the PSNR; says what it can have.
    """
    name = rate_targets.asked(settings)
    if not name:
        return fitted
    middle = fitted.step or RateModel.from_theta(fitted.theta, settings.init_bits).step_value
    finest = RateModel.from_theta(fitted.theta, MOST).step_value
    step = (_for_psnr if name == "target_psnr" else _for_size)(encoder, settings, fitted, middle, finest)
    log.info("`%s`: the quantiser step goes from %.4g to %.4g", name, middle, step)
    return dataclasses.replace(fitted, step=step)


def _for_size(encoder: Encoder, settings: FitConfig, fitted: Fitted, first: float, finest: float) -> float:
    """The step of the largest file that is not larger than asked; first: the one to try first."""
    size, name = encoder.wanted_bytes(settings), f"`{rate_targets.asked(settings)}`"

    def bytes_at(step: float) -> int:
        stream = encoder.bitstream(settings, dataclasses.replace(fitted, step=step))
        return len(bitstream.to_bytes(stream))

    if (1 - rate_targets.SLACK) * size <= bytes_at(first) <= size:
        return first
    coarsest = 4 * float(fitted.theta.abs().max())
    middle = _bisect(lambda step: bytes_at(step) <= size, finest, coarsest, HALVINGS)
    found = {step: bytes_at(step) for step in map(_float32, [middle, *middle * NEIGHBOURS])}
    fits = [step for step, count in found.items() if count <= size]
    if not fits:
        raise VovError(f"{name}: {size:,} bytes are too few: an empty θ takes {bytes_at(coarsest):,}; raise it")
    best = max(fits, key=lambda step: (found[step], -step))
    if found[best] < (1 - rate_targets.SLACK) * size:
        raise VovError(f"{name}: θ of {len(fitted.theta)} entries spends {found[best]:,} of {size:,} bytes at most; "
                       "raise `theta_length`")
    return best


def _for_psnr(encoder: Encoder, settings: FitConfig, fitted: Fitted, first: float, finest: float) -> float:
    """The coarsest step found whose frames have the PSNR asked for, to `rate_targets.NEAR_DB`."""
    wanted, seen = settings.target_psnr, {}
    quality = encoder.quality(settings)

    def value_at(step: float) -> float:
        step = _float32(step)
        seen[step] = quality(theta_hat(fitted.theta, step, "round"))
        return seen[step]

    there = value_at(first)
    if abs(there - wanted) <= rate_targets.NEAR_DB:
        return _float32(first)
    low, high = (first, 4 * float(fitted.theta.abs().max())) if there > wanted else (finest, first)
    if there < wanted and value_at(finest) < wanted - rate_targets.NEAR_DB:
        raise VovError(f"`target_psnr`={wanted:g}: the most that this fit gives is {max(seen.values()):.2f} dB; ask "
                       "for less, or raise `theta_length` or `train_steps`")
    _bisect(lambda step: value_at(step) < wanted, low, high, DECODES)
    near = [step for step, value in seen.items() if abs(value - wanted) <= rate_targets.NEAR_DB]
    if not near:
        step = min(seen, key=lambda step: abs(seen[step] - wanted))
        log.warning("`target_psnr`=%g: %.2f dB is as near as the quantiser allows", wanted, seen[step])
        return step
    return min(near, key=lambda step: (abs(seen[step] - wanted) > rate_targets.NEAR_DB / 2, -step))


def _bisect(beyond: Callable[[float], bool], low: float, high: float, times: int) -> float:
    """The smallest step found that is `beyond`, which `high` is taken to be."""
    for _ in range(times):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if beyond(_float32(middle)) else (middle, high)
    return high


def _float32(step: float) -> float:
    """The step as a header holds it."""
    return float(np.float32(step))
