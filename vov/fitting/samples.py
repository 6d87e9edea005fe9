"""What every sample of a fit sees: its noise and its time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vov.model.flow import shift_sigma
from vov.noise import Stream, normal, uniform


class Training:
    """What sample number n of a fit step sees: its noise and its time.

    Both depend on (seed, step, n) alone, so any number of processes that share out the samples sees one batch.

    Args:
        noise: random (fresh ε), anchored (the decoder's), mix (each with probability 1/2).
        timesteps: uniform on (0, 1), shifted (uniform, then `shift_sigma`), grid (the decoder's own σ > 0).
        sigmas: the decoder's grid, falling from 1 to 0.
        shift: of "shifted".
        seed: of the fit.
    """

    def __init__(self, noise: str, timesteps: str, sigmas: Sequence[float], shift: float, seed: int):
        self.noise, self.timesteps, self.shift, self.seed = noise, timesteps, shift, seed
        self.levels = [s for s in sigmas if s > 0]

    @property
    def constant(self) -> bool:
        """True when every sample of one item is the same, so that one sample is the whole batch."""
        return self.noise == "anchored" and self.timesteps == "grid" and len(self.levels) == 1

    def time(self, step: int, sample: int, samples: int = 1) -> float:
        """t of sample `sample` (0 … samples − 1) of step `step`; a grid is walked evenly."""
        if self.timesteps == "grid":
            return self.levels[(step * samples + sample) % len(self.levels)]
        u = float(uniform(self.seed, (Stream.TIMESTEP, step, sample), 1))
        return shift_sigma(u, self.shift) if self.timesteps == "shifted" else u

    def anchored(self, step: int, sample: int) -> bool:
        """Whether this sample uses the decoder's ε."""
        if self.noise == "mix":
            return float(uniform(self.seed, (Stream.ANCHOR, step, sample), 1)) < 0.5
        return self.noise == "anchored"

    def draw(self, step: int, sample: int, shape: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
        """Fresh ε of this sample, float32 `shape`."""
        return normal(self.seed, (Stream.FIT, step, sample), shape, device=device)
