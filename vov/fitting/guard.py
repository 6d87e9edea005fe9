"""A guard against single spikes of the gradient."""

from __future__ import annotations

import torch
from torch import Tensor


class SpikeGuard:
    """Shortens a gradient that is longer than `limit` times the running mean length.

    At the learning rates that a short fit needs, a single spike can throw θ out of its valley for good: Adam's second
    moment forgets slowly, so a spike's step is many times a usual one. A limit relative to the recent past needs no
    tuning to model or loss (compare AutoClip, Seetharaman et al. 2020, and ZClip, Kumar et al. 2025).

    Args:
        limit: 0 switches it off.
    Attributes: mean, the running mean [] (time constant 20 steps); 0 before the first gradient. In place, for graphs.
    """

    def __init__(self, limit: float, device: torch.device):
        self.limit, self.mean = limit, torch.zeros((), device=device)

    @torch.no_grad()
    def __call__(self, gradient: Tensor) -> None:
        """Shortens `gradient`, in place."""
        if not self.limit:
            return
        length = gradient.norm().clamp_min(1e-30)
        self.mean.copy_(torch.where(self.mean > 0, self.mean, length))
        factor = (self.limit * self.mean / length).clamp(max=1.0)
        gradient.mul_(factor)
        self.mean.lerp_(length * factor, 0.05)
