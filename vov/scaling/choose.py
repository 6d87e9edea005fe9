"""Which candidates: the best of many inner products with a wanted direction, as a step of the sampler. See `search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vov.bitstream.noise_code import MAX_ATOMS, SHIFTS, NoiseCode
from vov.noise import Stream, uniform_batch
from vov.scaling import kernel
from vov.scaling.replay import CPU_VALUES, GPU_VALUES, Candidates, Replay, Step, entries


class Chooser(Replay):
    """A sampler's `after_step` that chooses the noise it injects.

    direction: (step, x̂0) → the score's direction [1, C, T, h, w], in standard deviations of the step's noise, and
        what a unit of score is worth (see `allocate`).
    gumbel: whether to sample rather than to take the best.
    Attributes: found, the symbols per coded step; energy [steps, blocks], |direction|²; worth, that times value².
    """

    def __init__(self, code: NoiseCode, sigmas: Sequence[float], seed: int, item: int,
                 direction: Callable[[Step, Tensor], tuple[Tensor, float]], gumbel: bool = False, on_theta_end=None):
        super().__init__(code, sigmas, seed, item, on_theta_end)
        self.direction, self.gumbel = direction, gumbel
        self.found = [np.zeros(0, np.int32) for _ in range(code.steps)]
        self.energy, self.worth = np.zeros(code.plan.shape), np.zeros(code.plan.shape)

    def symbols(self, i: int, row: int, step: Step, x: Tensor, x0: Tensor) -> np.ndarray:
        made = self.candidates
        wanted = torch.zeros(made.blocks * made.block, device=x.device)
        direction, value = self.direction(step, x0)
        wanted[: made.size] = direction.reshape(-1)
        wanted = wanted.view(made.blocks, made.block)
        self.energy[row] = wanted.square().sum(1).cpu().numpy()
        self.worth[row] = self.energy[row] * value**2
        rows, numbers = entries(self.code.plan[row])
        share = torch.from_numpy(1 / np.sqrt(self.code.plan[row].clip(1))).to(x.device, torch.float32)[:, None]
        found = [self._pick(i, where, which, scores(made, i, which, where, wanted[where]), share[where])
                 for where, which in made.batches(rows, numbers)]
        self.found[row] = torch.cat(found).to("cpu", torch.int32).numpy()
        return self.found[row]

    def _pick(self, i: int, blocks: Tensor, atoms: Tensor, score: Tensor, share: Tensor) -> Tensor:
        """Symbols [rows] from scores [rows, K]; of equal ones the first."""
        if self.code.signed:
            score = torch.stack((score, -score), dim=-1).flatten(1)  # in the order of the symbols
        if self.gumbel:
            ids = blocks * MAX_ATOMS + atoms
            u = uniform_batch(self.seed, (Stream.OTHER, 3, self.base + i), ids, score.shape[1])
            score = score * share - torch.log(-torch.log(u.clamp(2.0**-25, 1 - 2.0**-25)))
        best = score == score.amax(1, keepdim=True)
        places = torch.arange(score.shape[1], device=score.device)
        return torch.where(best, places, score.shape[1] - 1).amin(1)


def scores(candidates: Candidates, step: int, atoms: Tensor, blocks: Tensor, wanted: Tensor) -> Tensor:
    """Inner products of wanted[r] [block] with every candidate of atom atoms[r] in block blocks[r]: [rows, 2^bits]."""
    code, count = candidates.code, 1 << candidates.code.bits
    if code.kind == SHIFTS:
        turned = torch.fft.rfft(wanted * candidates.signs(step, blocks, atoms))
        vector = torch.fft.rfft(candidates.draw(step, blocks, atoms))
        return torch.fft.irfft(turned * vector.conj(), n=candidates.block)[:, :count]
    if not (wanted.is_cuda and kernel.available()):
        return plain_scores(candidates, step, atoms, blocks, wanted)
    out = torch.empty(len(blocks), count, device=wanted.device)
    for atom in atoms.unique().tolist():
        rows = torch.nonzero(atoms == atom)[:, 0]
        out[rows] = kernel.scores(candidates.seed, candidates.base + step, atom * count, count, blocks[rows],
                                  wanted[rows])
    return out


def plain_scores(candidates: Candidates, step: int, atoms: Tensor, blocks: Tensor, wanted: Tensor) -> Tensor:
    """`scores` of independent candidates: all of them drawn, a few at a time, and one matrix product each time."""
    count, width = 1 << candidates.code.bits, wanted.shape[1]
    limit = GPU_VALUES if wanted.is_cuda else CPU_VALUES
    some = max(1, min(count, limit // width))
    rows = max(1, limit // (width * some))
    out = torch.empty(len(blocks), count, device=wanted.device)
    for top in range(0, len(blocks), rows):
        part, first_ids = blocks[top:top + rows], atoms[top:top + rows, None] * count
        for first in range(0, count, some):
            ids = first_ids + torch.arange(first, min(first + some, count), device=wanted.device)
            drawn = candidates.draw(step, part.repeat_interleave(ids.shape[1]), ids.flatten())
            drawn = drawn.view(len(part), -1, width)
            out[top:top + rows, first:first + some] = torch.einsum("bkn,bn->bk", drawn, wanted[top:top + rows])
    return out
