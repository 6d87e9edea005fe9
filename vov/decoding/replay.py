"""Inference-time scaling: noise that steers the sampler towards the original, as indices in the file.

The flow's ODE is turned into an SDE with the same marginals (the generalised sampler of DDIM, Song et al. 2021,
eqs. 12 and 16, for x_t = (1 − t)·x0 + t·ε). With s the level of the state x, u < s the next one, x̂0 the model's
guess at x and ε̂ = (x − (1 − s)·x̂0) / s, any g in [0, u] gives

    x' = (1 − u)·x̂0 + √(u² − g²)·ε̂ + g·z,   z ~ N(0, I)                                        (the next state)

g = 0 is the Euler step. With g = eta·u·√(1 − ((1 − s)·u / ((1 − u)·s))²) and eta = 1 it is the step whose law, if x̂0
were the true x0, is the posterior q(x' | x, x0) of the Markov chain that adds noise. That posterior has the same
variance and the mean with x0 in the place of x̂0, so for a candidate z

    log q(x' | x, x0) − log p(x' | x) = <drift, z> − |drift|² / 2,
    drift = [(1 − u) − √(u² − g²)·(1 − s) / s]·(x0 − x̂0) / g                                   (linear in z)

and the likeliest of K candidates is the largest of K inner products (`vov.noise.choose`). Here is the decoder's
half: the noise section, and the same z again from it. Candidates come from `vov.runtime.random`, one by one.

    z of a block = Σ_m ± atom_m / √M,  M = plan[step, block] ("atoms"); 0: z is atom 0's candidate 0, which is free
    independent  candidate j of atom a is the stream (CANDIDATE, step, block, a·2^bits + j)
    shifts       candidate j of atom a is the stream (CANDIDATE, step, block, a) turned by j, times random signs of
                 the same stream: all scores of an atom cost one FFT, and the decoder still draws one vector
    trellis      as shifts, but GROUP atoms share a vector, stream (CANDIDATE, step, block, a // GROUP); atom a takes
                 its signs from bit a % GROUP of 32-bit words of that stream. And an atom costs only `branch` bits:
                 its candidate is named by the last bits of the symbols up to its own, `NoiseCode.labels`
    A step without any atom is an Euler step. One atom without a sign in one block is the paper's scheme.
    step is counted on from item to item, so that items of one file have noise of their own.

The plan and the indices are the file's noise section (`vov.bitstream.noise_code`). Every decision is an integer; floats
enter only through IEEE products and sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vov.bitstream import Header
from vov.bitstream.noise_code import ETA_UNIT, INDEPENDENT, TRELLIS, NoiseCode, block_count
from vov.model.flow import sigma_grid
from vov.runtime.random import Stream, normal_batch, uniform_batch, words_batch

TEXTURE_STEPS = 8
SHORT_CLIP = 0.5  # texture of a clip of one chunk where none is asked for
GROUP = 32  # atoms of a trellis that share a vector: as many as a word has bits for their signs
CPU_VALUES, GPU_VALUES = 1 << 20, 1 << 24  # candidate values that are in memory at once


def levels(header: Header, start: int = 0, end: int = 0) -> list[float]:
    """The sampler's σ values from 1 to 0, rounded to float32.

    start, end: levels in 1024ths. With a `start` the first step goes from 1 straight to it: one step of an anchored θ
    gives x̂0, coded noise carries it on from there. With an `end` the last step goes from it straight to 0, to the
    model's mean of all that is still open, which has a smaller squared error than a sample of it (the distortion-
    perception tradeoff, Blau and Michaeli 2018). The header's steps and shift spread the rest between them.
    """
    if not (start or end):
        return list(header.sigmas) or sigma_grid(header.decode_steps, header.shift)
    top, bottom = (start or 1024) / 1024, end / 1024
    inner = sigma_grid(header.decode_steps - bool(start) - bool(end), header.shift)
    grid = [float(np.float32(bottom + (top - bottom) * s)) for s in inner]
    return [1.0] * bool(start) + grid + [0.0] * bool(end)


def textured(sigmas: Sequence[float], texture: float) -> list[float]:
    """`levels` whose last jump is put off: from the mean (texture 0) to a sample (1) of what the file leaves open.

    The state goes on from the last level s in TEXTURE_STEPS Euler steps to (1 − texture)·s, and jumps to 0 from there.
    The coded steps are as they were, so that any file can be decoded with any texture. Less than 0: as 0.
    """
    if texture <= 0:
        return list(sigmas)
    last = sigmas[-2]
    inner = [float(np.float32(s)) for s in np.linspace(last, (1 - texture) * last, TEXTURE_STEPS + 1)[1:]]
    return [*sigmas[:-1], *(s for s in inner if s), 0.0]


def usual_texture(frames: int, end: int, chunks: int = 1) -> float:
    """The texture of a file that is decoded without one: SHORT_CLIP for a video of one chunk whose last step is a jump.

    There it is better on nearly every metric (studies/texture). Of pictures it costs PSNR, and the borders between
    chunks show more with it.

    frames: of a chunk. end: of the noise code, the level of the jump.
    """
    return SHORT_CLIP if frames > 1 and end > 0 and chunks == 1 else 0.0


@dataclass(frozen=True)
class Step:
    """The coefficients of a stochastic step: x' = (1 − u)·x̂0 + keep·ε̂ + g·z, and drift = `drift`·(x0 − x̂0)."""

    keep: float
    g: float
    drift: float


def stochastic_step(now: float, after: float, eta: float) -> Step:
    """From level `now` to `after` < `now` at diffusion strength `eta`; g is cut at `after`, and 0 at level 0.

    At now = 1 and eta = 1 the noise is wholly new (g = after): only x̂0 is kept.
    """
    if not after:
        return Step(0.0, 0.0, 0.0)
    ratio = (1 - now) * after / ((1 - after) * now) if after < 1 else 1.0
    g = min(after, eta * after * math.sqrt(max(0.0, 1 - ratio * ratio)))
    keep = math.sqrt(after * after - g * g)
    return Step(keep, g, ((1 - after) - keep * (1 - now) / now) / g if g else 0.0)


def diffuse(x: Tensor, x0: Tensor, after: float, step: Step, z: Tensor) -> Tensor:
    """Turns the state x after an Euler step to level `after` into that of the stochastic step, with noise z."""
    noise = (x - (1 - after) * x0) / after
    return x + (step.keep - after) * noise + step.g * z


class Candidates:
    """The candidate noises of one item: any of them alone, as float32 on `device`.

    Args:
        code: kind, bits and block.
        seed: of the file's header.
        size: values n of the flattened latent.
        base: stream number of this item's step 0.
    """

    def __init__(self, code: NoiseCode, seed: int, size: int, base: int, device: torch.device | str):
        self.code, self.seed, self.size, self.base, self.device = code, seed, size, base, torch.device(device)
        self.block = code.block or size
        self.blocks = block_count(size, code.block)
        self.kept: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def draw(self, step: int, blocks: Tensor, ids: Tensor) -> Tensor:
        """Streams (CANDIDATE, step, blocks[r], ids[r]) of one block's length: [rows, block]."""
        return normal_batch(self.seed, (Stream.CANDIDATE, self.base + step, blocks[:, None]), ids, self.block)

    def vectors(self, step: int, blocks: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What shifts are taken of: (vectors [m, block], which of them is row r's [rows], signs ±1 [rows, block])."""
        if self.code.kind != TRELLIS:
            uniform = uniform_batch(self.seed, (Stream.CANDIDATE, self.base + step, blocks[:, None]), atoms, self.block)
            return self.draw(step, blocks, atoms), torch.arange(len(atoms)), 1 - 2 * (uniform < 0.5).float()
        keys = [(step, *key) for key in zip(blocks.tolist(), (atoms // GROUP).tolist(), strict=True)]
        names = list(dict.fromkeys(keys))
        self.kept = {name: self.kept.get(name) or self._shared(*name) for name in names}
        row = torch.tensor([names.index(key) for key in keys])
        words = torch.stack([self.kept[name][1] for name in names])[row]
        signs = ((words >> (atoms % GROUP).to(words)[:, None]) & 1).float().mul_(-2).add_(1)
        return torch.stack([self.kept[name][0] for name in names]), row, signs

    def _shared(self, step: int, block: int, group: int) -> tuple[Tensor, Tensor]:
        """The vector of a group of atoms, and the words with their signs: [block] each."""
        where = torch.tensor([block], device=self.device)
        ids = torch.tensor([group], device=self.device)
        words = words_batch(self.seed, (Stream.CANDIDATE, self.base + step, where[:, None]), ids, self.block)[0]
        return self.draw(step, where, ids)[0], (words - (1 << 31)).to(torch.int32) ^ -(1 << 31)

    def chosen(self, step: int, blocks: Tensor, atoms: Tensor, index: Tensor) -> Tensor:
        """Candidate index[r] of atom atoms[r] in block blocks[r]: [rows, block]."""
        if self.code.kind == INDEPENDENT:
            return self.draw(step, blocks, (atoms << self.code.bits) + index)
        vectors, row, signs = self.vectors(step, blocks, atoms)
        pairs = zip(row.tolist(), index.tolist(), strict=True)
        return torch.stack([vectors[which].roll(shift) for which, shift in pairs]) * signs

    def batches(self, *columns: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        """Arrays of one length as int64 tensors on the device, as many rows at once as vectors should be in memory."""
        some = max(1, (GPU_VALUES if self.device.type == "cuda" else CPU_VALUES) // self.block)
        for first in range(0, len(columns[0]), some):
            yield tuple(torch.from_numpy(c[first:first + some].astype(np.int64)).to(self.device) for c in columns)

    def assemble(self, step: int, atoms: np.ndarray, symbols: np.ndarray) -> Tensor:
        """z [n] of a step from its atoms per block [blocks] and their symbols, block after block."""
        signed = self.code.signed
        z = torch.zeros(self.blocks, self.block, dtype=torch.float64, device=self.device)
        free = np.flatnonzero(atoms == 0)
        rows, numbers = entries(atoms)
        symbols = np.concatenate((self.code.labels(symbols, numbers), 0 * free))
        rows, numbers = np.concatenate((rows, free)), np.concatenate((numbers, 0 * free))
        for where, which, symbol in self.batches(rows, numbers, symbols):
            part = self.chosen(step, where, which, symbol >> signed)
            if signed:
                part *= (1 - 2 * (symbol & 1)).float()[:, None]
            if self.blocks == 1:
                z += part.sum(0, dtype=torch.float64)
            else:
                z.index_add_(0, where, part.double())
        # Multiples of 2^-12: sums are exact, whatever their order; the rest are IEEE operations, so z is the same to
        # the bit everywhere.
        scale = (1 / np.sqrt(np.maximum(atoms, 1).astype(np.float32))).astype(np.float32)
        return (z.float() * torch.from_numpy(scale).to(self.device)[:, None]).reshape(-1)[: self.size]


def entries(atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(block, atom) of every symbol of a step with `atoms` [blocks], in the file's order."""
    blocks = np.repeat(np.arange(len(atoms)), atoms)
    return blocks, np.arange(len(blocks)) - np.repeat(np.cumsum(atoms) - atoms, atoms)


class Replay:
    """A sampler's `after_step` that injects the noise of one pass.

    code: with the symbols of this pass alone. number: of the pass in its file, whose candidates are its own.
    on_theta_end: called once θ has done its `theta_steps`.
    """

    def __init__(self, code: NoiseCode, sigmas: Sequence[float], seed: int, number: int = 0,
                 on_theta_end: Callable[[], None] | None = None):
        self.code, self.sigmas, self.seed = code, list(sigmas), seed
        self.base = number * (len(self.sigmas) - 1)
        self.on_theta_end = on_theta_end
        self.ends = np.cumsum(code.plan.sum(1, dtype=np.int64))
        self.candidates: Candidates | None = None

    def __call__(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        if self.on_theta_end is not None and self.code.theta_steps == i + 1:
            self.on_theta_end()
        row = i - self.code.first
        if not 0 <= row < self.code.steps:
            return x
        step = stochastic_step(self.sigmas[i], self.sigmas[i + 1], self.code.eta / ETA_UNIT)
        if not step.g or not self.code.plan[row].any():
            return x
        if self.candidates is None:
            self.candidates = Candidates(self.code, self.seed, x[0].numel(), self.base, x.device)
        symbols = self.symbols(i, row, step, x, x0)
        z = self.candidates.assemble(i, self.code.plan[row], symbols).view_as(x)
        return diffuse(x, x0, self.sigmas[i + 1], step, z)

    def symbols(self, i: int, row: int, step: Step, x: Tensor, x0: Tensor) -> np.ndarray:
        """The symbols of coded step `row`, which is sampler step i. The encoder overrides this by its choice."""
        start = self.ends[row - 1] if row else 0
        return self.code.symbols[0, start : self.ends[row]]
