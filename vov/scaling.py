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

and the likeliest of K candidates is the largest of K inner products (`vov.scaling_search`). Here is the decoder's
half: the noise section, and the same z again from it. Candidates come from `vov.noise`, one by one.

    z of a block = Σ_m ± atom_m / √M,  M = plan[step, block] ("atoms"); 0: z is atom 0's candidate 0, which is free
    independent  candidate j of atom a is the stream (CANDIDATE, step, block, a·2^bits + j)
    shifts       candidate j of atom a is the stream (CANDIDATE, step, block, a) turned by j, times random signs of
                 the same stream: all scores of an atom cost one FFT, and the decoder still draws one vector
    A step without any atom is an Euler step. One atom without a sign in one block is the paper's scheme.
    step is counted on from item to item, so that items of one file have noise of their own.

Noise section = version byte, varints `FIELDS`, varint number of runs, runs (length − 1, atoms) of the plan [coded
steps, blocks] in row order, coded symbols (`vov.coder`) of all items: in the order step, block, atom; a symbol is
index, or 2·index + (1 if negative). Every decision is an integer; floats enter only through IEEE products and sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vov import VovError, coder
from vov.flow import sigma_grid
from vov.header import Header
from vov.noise import Stream, normal_batch, uniform_batch
from vov.reader import Reader, varint

VERSION = 2  # of the section; version 1 had no `end`
INDEPENDENT, SHIFTS = 0, 1
KINDS = ("independent", "shifts")
MAX_ATOMS = 512  # a sum of so many multiples of 2^-12 below 4.33 is exact in float32, whatever the order
MAX_CELLS = 1 << 20  # coded steps x blocks
CPU_VALUES, GPU_VALUES = 1 << 20, 1 << 24  # candidate values that are in memory at once
ETA_UNIT = 64  # eta is kept in 64ths
FIELDS = {  # name: (lowest, highest value)
    "kind": (0, 1),  # of candidates
    "bits": (1, 24),  # per index: 2^bits candidates an atom
    "signed": (0, 1),  # whether an atom has a sign bit
    "block": (0, 1 << 30),  # values of the flattened latent [C, T, h, w] per block; 0: all
    "eta": (0, 64 * ETA_UNIT),  # diffusion strength
    "first": (0, 9999),  # first coded step
    "steps": (1, 10000),  # number of coded steps from there on
    "theta_steps": (0, 10000),  # theta adapts the model in the first so many steps; 0: in all
    "start": (0, 1023),  # level after the first step, in 1024ths: see `levels`; 0: the header's grid as it is
    "end": (0, 1023),  # level before the last step, likewise
}


@dataclass(frozen=True, eq=False)
class NoiseCode:
    """The contents of a noise section.

    plan: atoms per coded step and block, int [steps, blocks] in 0 … 512. symbols: int32 [items, plan.sum()].
    The other fields are those of `FIELDS`; `eta` in 64ths.
    Raises VovError when they do not fit together.
    """

    kind: int
    bits: int
    signed: int
    block: int
    eta: int
    first: int
    steps: int
    theta_steps: int
    start: int
    end: int
    plan: np.ndarray
    symbols: np.ndarray = field(default_factory=lambda: np.zeros((1, 0), np.int32))

    def __post_init__(self):
        for name, (low, high) in FIELDS.items():
            if not low <= getattr(self, name) <= high:
                raise _invalid(name, f"is {getattr(self, name)}, outside [{low}, {high}]")
        plan = self.plan
        if plan.ndim != 2 or len(plan) != self.steps or not plan.size or plan.min() < 0 or plan.max() > MAX_ATOMS:
            raise _invalid("plan", f"is {list(plan.shape)}; one row per coded step, 0 to {MAX_ATOMS} atoms")
        if (int(plan.max()) << self.bits) > 1 << 32:
            raise _invalid("bits", "are too many for so many atoms; use fewer of either")
        if self.kind == SHIFTS and self.block and self.block < 1 << self.bits:
            raise _invalid("bits", f"are too many: a block of {self.block} has no 2^{self.bits} shifts")

    @property
    def alphabet(self) -> int:
        """Symbols are in [0, alphabet)."""
        return 1 << self.bits + self.signed

    def levels(self, header: Header) -> list[float]:
        """The sampler's σ values with this code: `levels` with its start and end."""
        return levels(header, self.start, self.end)

    def to_bytes(self) -> bytes:
        """The noise section."""
        flat = self.plan.reshape(-1)
        edges = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1, append=flat[-1] - 1))
        out = [bytes([VERSION]), *(varint(int(getattr(self, name))) for name in FIELDS), varint(len(edges) - 1)]
        out += [varint(int(b - a) - 1) + varint(int(flat[a])) for a, b in itertools.pairwise(edges)]
        return b"".join(out) + coder.encode(self.symbols.reshape(-1))

    @staticmethod
    def from_bytes(data: bytes, header: Header, size: int, items: int = 1, source: str = "noise") -> NoiseCode:
        """The inverse of `to_bytes` for a file with this header, `size` latent values an item and `items` items.

        Raises VovError, and only that, for anything that `to_bytes` could not have written for such a file.
        """
        reader = Reader(data, source)
        version = reader.take(1, "version")[0]
        if not 1 <= version <= VERSION:
            raise reader.error("version", f"is {version}, this program reads 1 to {VERSION}", "update one or the other")
        values = {name: 0 if name == "end" and version == 1 else reader.varint(name, high, low)
                  for name, (low, high) in FIELDS.items()}
        sampled = len(header.sigmas) - 1 if header.sigmas else header.decode_steps
        if values["first"] + values["steps"] > sampled:
            raise reader.error("steps", f"go beyond the file's {sampled} sampler steps")
        blocks = block_count(size, values["block"])
        cells = values["steps"] * blocks
        if cells > MAX_CELLS:
            raise reader.error("block", f"{values['block']} makes {cells} cells, more than {MAX_CELLS}")
        plan = np.zeros(cells, np.int32)
        done = 0
        for _ in range(reader.varint("number of runs", cells, 1)):
            length = reader.varint("run", cells - done - 1 if cells > done else -1) + 1
            plan[done : done + length] = reader.varint("atoms", MAX_ATOMS)
            done += length
        if done != cells:
            raise reader.error("plan", f"has {done} of {cells} cells")
        total = int(plan.sum(dtype=np.int64)) * items
        if total > coder.MAX_SYMBOLS:
            raise reader.error("plan", f"asks for {total} symbols, more than {coder.MAX_SYMBOLS}")
        symbols = coder.decode(reader.take(reader.remaining, "indices"), total, f"{source}: indices")
        try:
            code = NoiseCode(**values, plan=plan.reshape(-1, blocks), symbols=symbols.reshape(items, -1))
        except VovError as error:
            raise VovError(f"{source}: {error}") from error
        if total and not 0 <= int(symbols.min()) <= int(symbols.max()) < code.alphabet:
            raise reader.error("indices", f"go beyond {code.alphabet} candidates")
        if code.kind == SHIFTS and 1 << code.bits > (code.block or size):
            raise reader.error("bits", f"{code.bits}: the latent has only {size} shifts")
        if (code.start or code.end) and (header.sigmas or sampled <= bool(code.start) + bool(code.end)):
            raise reader.error("start", "and end need a step between them and no explicit levels")
        if code.start and code.end >= code.start:
            raise reader.error("end", f"is {code.end}, not below start, {code.start}")
        if header.sampler != "euler":
            raise reader.error("noise", f"cannot be used with the {header.sampler} sampler")
        if items * sampled > 1 << 22:
            raise reader.error("items", f"{items} of {sampled} steps need more streams than there are")
        return code


def _invalid(name: str, problem: str) -> VovError:
    return VovError(f"noise section: {name}: {problem}; check the scaling settings, or the file is damaged")


def block_count(size: int, block: int) -> int:
    """Blocks of `block` values (0: one block) that cover `size` values; the last may be cut short."""
    return -(-size // block) if block else 1


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

    def draw(self, step: int, blocks: Tensor, ids: Tensor) -> Tensor:
        """Streams (CANDIDATE, step, blocks[r], ids[r]) of one block's length: [rows, block]."""
        return normal_batch(self.seed, (Stream.CANDIDATE, self.base + step, blocks[:, None]), ids, self.block)

    def signs(self, step: int, blocks: Tensor, ids: Tensor) -> Tensor:
        """±1 of the same streams."""
        uniform = uniform_batch(self.seed, (Stream.CANDIDATE, self.base + step, blocks[:, None]), ids, self.block)
        return 1 - 2 * (uniform < 0.5).float()

    def chosen(self, step: int, blocks: Tensor, atoms: Tensor, index: Tensor) -> Tensor:
        """Candidate index[r] of atom atoms[r] in block blocks[r]: [rows, block]."""
        if self.code.kind == INDEPENDENT:
            return self.draw(step, blocks, (atoms << self.code.bits) + index)
        place = torch.arange(self.block, device=self.device)
        turned = (place[None] - index[:, None]) % self.block
        return self.draw(step, blocks, atoms).gather(1, turned) * self.signs(step, blocks, atoms)

    def batches(self, *columns: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        """Arrays of one length as int64 tensors on the device, as many rows at once as vectors should be in memory."""
        some = max(1, (GPU_VALUES if self.device.type == "cuda" else CPU_VALUES) // self.block)
        for first in range(0, len(columns[0]), some):
            yield tuple(torch.from_numpy(c[first:first + some].astype(np.int64)).to(self.device) for c in columns)

    def assemble(self, step: int, atoms: np.ndarray, symbols: np.ndarray) -> Tensor:
        """z [n] of a step from its atoms per block [blocks] and their symbols, block after block."""
        signed = self.code.signed
        z = torch.zeros(self.blocks, self.block, device=self.device)
        free = np.flatnonzero(atoms == 0)
        rows, numbers = (np.concatenate(pair) for pair in zip(entries(atoms), (free, 0 * free), strict=True))
        symbols = np.concatenate((symbols, 0 * free))
        for where, which, symbol in self.batches(rows, numbers, symbols):
            part = self.chosen(step, where, which, symbol >> signed)
            if signed:
                part *= (1 - 2 * (symbol & 1)).float()[:, None]
            z.index_add_(0, where, part)
        # Sums are exact, whatever their order, and √ and ÷ are IEEE operations: z is the same to the bit everywhere.
        scale = (1 / np.sqrt(np.maximum(atoms, 1).astype(np.float32))).astype(np.float32)
        return (z * torch.from_numpy(scale).to(self.device)[:, None]).reshape(-1)[: self.size]


def entries(atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(block, atom) of every symbol of a step with `atoms` [blocks], in the file's order."""
    blocks = np.repeat(np.arange(len(atoms)), atoms)
    return blocks, np.arange(len(blocks)) - np.repeat(np.cumsum(atoms) - atoms, atoms)


class Replay:
    """A sampler's `after_step` that injects the noise of a file; one for each item.

    on_theta_end: called once θ has done its `theta_steps`.
    """

    def __init__(self, code: NoiseCode, sigmas: Sequence[float], seed: int, item: int = 0, on_theta_end=None):
        self.code, self.sigmas, self.seed, self.item = code, list(sigmas), seed, item
        self.base = item * (len(self.sigmas) - 1)
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
        return self.code.symbols[self.item, start : self.ends[row]]
