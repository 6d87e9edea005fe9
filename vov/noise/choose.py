"""Which candidates: the best of many inner products with a wanted direction, as a step of the sampler. See `search`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vov.bitstream.noise_code import INDEPENDENT, NoiseCode
from vov.decoding.replay import CPU_VALUES, GPU_VALUES, Candidates, Replay, Step, entries
from vov.noise.aim import Wanted
from vov.noise.trellis import walk

EFFICIENCY = 0.9  # square of how far a step's choices move the state, as a share of what their bits allow


class Chooser(Replay):
    """A sampler's `after_step` that chooses the noise it injects.

    direction: (step, x̂0, how far the noise can move the state) → `aim.Wanted`.
    Attributes: chosen, the symbols per coded step; energy and worth [steps, blocks], |drift|² and |gain|² of `Wanted`.
    """

    def __init__(self, code: NoiseCode, sigmas: Sequence[float], seed: int, number: int,
                 direction: Callable[[Step, Tensor, float], Wanted]):
        super().__init__(code, sigmas, seed, number)
        self.direction = direction
        self.chosen = [np.zeros(0, np.int32) for _ in range(code.steps)]
        self.energy, self.worth = np.zeros(code.plan.shape), np.zeros(code.plan.shape)

    def restore(self, chosen: Sequence[np.ndarray], energy: np.ndarray, worth: np.ndarray) -> None:
        """What a stopped sampling had chosen."""
        self.chosen, self.energy, self.worth = list(chosen), energy.copy(), worth.copy()

    def symbols(self, i: int, row: int, step: Step, x: Tensor, x0: Tensor) -> np.ndarray:
        made = self.candidates
        assert made is not None  # `Replay` has made them by now
        reach = math.sqrt(EFFICIENCY * 2 * math.log(2) * self.code.width * self.code.plan[row].sum())
        wanted, drift, gain = (_blocks(made, part) for part in self.direction(step, x0, reach))
        self.energy[row] = drift.square().sum(1).cpu().numpy()
        self.worth[row] = gain.square().sum(1).cpu().numpy()
        rows, numbers = entries(self.code.plan[row])
        scored = ((where, which, scores(made, i, which, where, wanted[where]))
                  for where, which in made.batches(rows, numbers))
        if self.code.branch:
            self.chosen[row] = walk(self.code, ((atom, one) for _, which, score in scored
                                               for atom, one in zip(which.tolist(), score, strict=True)))
        else:
            picked = [self._pick(score) for _, _, score in scored]
            self.chosen[row] = torch.cat(picked).to("cpu", torch.int32).numpy()
        return self.chosen[row]

    def _pick(self, score: Tensor) -> Tensor:
        """Symbols [rows] from scores [rows, K]; of equal ones the first."""
        if self.code.signed:
            score = torch.stack((score, -score), dim=-1).flatten(1)  # in the order of the symbols
        best = score == score.amax(1, keepdim=True)
        places = torch.arange(score.shape[1], device=score.device)
        return torch.where(best, places, score.shape[1] - 1).amin(1)


def _blocks(made: Candidates, x: Tensor) -> Tensor:
    """A latent as blocks [blocks, block], the last one filled with zeros."""
    return torch.nn.functional.pad(x.reshape(-1), (0, made.blocks * made.block - made.size)).view(made.blocks, -1)


def scores(candidates: Candidates, step: int, atoms: Tensor, blocks: Tensor, wanted: Tensor) -> Tensor:
    """Inner products of wanted[r] [block] with every candidate of atom atoms[r] in block blocks[r]: [rows, 2^bits]."""
    code, count = candidates.code, 1 << candidates.code.bits
    if code.kind != INDEPENDENT:
        vectors, row, signs = candidates.vectors(step, blocks, atoms)
        spectra = torch.fft.rfft(vectors).conj()
        return torch.fft.irfft(torch.fft.rfft(wanted * signs) * spectra[row], n=candidates.block)[:, :count]
    return plain_scores(candidates, step, atoms, blocks, wanted)


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
