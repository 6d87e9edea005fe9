"""What every sample of a fit sees: its noise and its time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vov.model.flow import shift_sigma
from vov.runtime.random import Stream, integers, normal_batch, uniform


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

    def draw(self, step: int, samples: Sequence[int], shape: Sequence[int],
             device: str | torch.device = "cpu") -> Tensor:
        """Fresh ε of these samples, float32 [len(samples), *shape], all drawn at once."""
        ids = torch.tensor(list(samples), dtype=torch.int64, device=device)
        return normal_batch(self.seed, (Stream.FIT, step), ids, math.prod(shape)).view(len(samples), *shape)


class Passes:
    """How the samples of a step are shared out: forward pass p of `count`, of `batch` samples, is process p mod size's.

    Pass p has the samples p·batch … (p + 1)·batch − 1, whatever the number of processes, so one process with twice the
    accumulation sees what two see. Where noise and time are fixed, a sample beyond one for each item is a repetition
    and is left out, in all processes together.

    Args:
        constant: `Training.constant`.
        items: number of things that share θ.
        batch, accumulate: samples of a pass, passes of a process.
        rank, size: this process among all.
    """

    def __init__(self, constant: bool, items: int, batch: int, accumulate: int, rank: int, size: int):
        self.batch, self.count, self.size = batch, accumulate * size, size
        if constant:
            self.batch = min(batch, items)
            self.count = min(self.count, -(-items // self.batch))
        self.mine = range(rank, self.count, size)
        self.rounds = -(-self.count // size)

    @property
    def samples(self) -> int:
        """Samples of a step, of all processes."""
        return self.count * self.batch

    def numbers(self) -> list[int]:
        """The numbers of this process's samples, pass after pass."""
        return [p * self.batch + place for p in self.mine for place in range(self.batch)]


def choose(seed: int, step: int, samples: int, items: int) -> list[int]:
    """Which item each of `samples` samples of a step shows: shuffled passes over all items, on and on."""
    if items == 1:
        return [0] * samples
    chosen, orders = [], {}
    for position in range(step * samples, (step + 1) * samples):
        epoch, place = divmod(position, items)
        if epoch not in orders:
            keys = integers(seed, (Stream.OTHER, 1, epoch), 1 << 30, items)
            orders[epoch] = torch.argsort(keys, stable=True).tolist()
        chosen.append(orders[epoch][place])
    return chosen
