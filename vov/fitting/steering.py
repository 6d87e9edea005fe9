"""One fit aimed at a rate: while θ̂ costs more bits than wanted, λ rises and the quantiser step grows.

At the best trade of rate against distortion every rate has its own λ, which nobody knows beforehand; an integral
controller of log λ finds it on the way. The step is corrected at once as well: twice the step is one bit an entry less.
θ must know its final step while it is fitted: it settles where rounding at that very step hurts least, and loses some
tenths of a dB when rounded at one that differs by a few per cent. When a PSNR is wanted instead of a rate, the wanted
rate itself follows what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vov.fitting.rate import RateModel

EVERY = 5  # optimiser steps between two measurements of the bits
GAIN = 10.0  # of log λ, for an error of one bit an entry during a whole fit
DAMPING = 0.5  # share of an error that the step takes back at a time
LIMIT = 5.0  # log λ stays within ± this of where it began
FEWEST, MOST = 0.1, 7.0  # bits an entry that a θ can be aimed at
PSNR_TIMES = 12  # how often a fit that is aimed at a PSNR is decoded
DB_PER_BIT = 6.0


class Steering:
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
        if self.psnr and done % self.psnr_every == 0:
            change = (self.psnr - self.quality(rate.theta_hat(theta, "round"))) / DB_PER_BIT
            self.state[1] = min(MOST, max(FEWEST, self.bits + max(-0.5, min(0.5, change))))
        if done % EVERY == 0:
            error = max(-1.0, min(1.0, self.spent(rate.symbols(theta)) - self.bits))
            self.state[0] = max(-LIMIT, min(LIMIT, float(self.state[0]) + self.gain * error))
            rate.set_step(rate.step_value * 2 ** (DAMPING * error))
