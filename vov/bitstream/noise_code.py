"""The noise section of a .vov file: how many atoms every step and block has, and their indices.

Section = version byte, varints `FIELDS`, varint number of runs, runs (length − 1, atoms) of the plan [coded steps,
blocks] in row order, coded symbols (`vov.bitstream.symbols`) of all items: in the order step, block, atom; a symbol is
index, or 2·index + (1 if negative). `vov.scaling.replay` says what they mean.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from vov import VovError
from vov.bitstream.header import Header
from vov.bitstream.reader import Reader, varint
from vov.bitstream.symbols import MAX_SYMBOLS, decode_symbols, encode_symbols

VERSION = 2  # of the section; version 1 had no `end`
INDEPENDENT, SHIFTS = 0, 1
KINDS = ("independent", "shifts")
MAX_ATOMS = 512  # a sum of so many multiples of 2^-12 below 4.33 is exact in float32, whatever the order
LEVELS = np.array([*range(9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256, 384, 512])
MAX_CELLS = 1 << 20  # coded steps x blocks
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
    "start": (0, 1023),  # level after the first step, in 1024ths: see `replay.levels`; 0: the header's grid as it is
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

    def to_bytes(self) -> bytes:
        """The noise section."""
        flat = self.plan.reshape(-1)
        edges = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1, append=flat[-1] - 1))
        out = [bytes([VERSION]), *(varint(int(getattr(self, name))) for name in FIELDS), varint(len(edges) - 1)]
        out += [varint(int(b - a) - 1) + varint(int(flat[a])) for a, b in itertools.pairwise(edges)]
        return b"".join(out) + encode_symbols(self.symbols.reshape(-1))

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
        plan = _read_plan(reader, cells)
        total = int(plan.sum(dtype=np.int64)) * items
        if total > MAX_SYMBOLS:
            raise reader.error("plan", f"asks for {total} symbols, more than {MAX_SYMBOLS}")
        symbols = decode_symbols(reader.take(reader.remaining, "indices"), total, f"{source}: indices")
        try:
            code = NoiseCode(**values, plan=plan.reshape(-1, blocks), symbols=symbols.reshape(items, -1))
        except VovError as error:
            raise VovError(f"{source}: {error}") from error
        if total and not 0 <= int(symbols.min()) <= int(symbols.max()) < code.alphabet:
            raise reader.error("indices", f"go beyond {code.alphabet} candidates")
        code._refuse_misfit(header, size, items, sampled, reader)
        return code

    def _refuse_misfit(self, header: Header, size: int, items: int, sampled: int, reader: Reader) -> None:
        """Raises VovError when this code does not fit a file of `sampled` sampler steps and `size` values an item."""
        if self.kind == SHIFTS and 1 << self.bits > (self.block or size):
            raise reader.error("bits", f"{self.bits}: the latent has only {size} shifts")
        if (self.start or self.end) and (header.sigmas or sampled <= bool(self.start) + bool(self.end)):
            raise reader.error("start", "and end need a step between them and no explicit levels")
        if self.start and self.end >= self.start:
            raise reader.error("end", f"is {self.end}, not below start, {self.start}")
        if header.sampler != "euler":
            raise reader.error("noise", f"cannot be used with the {header.sampler} sampler")
        if items * sampled > 1 << 22:
            raise reader.error("items", f"{items} of {sampled} steps need more streams than there are")


def _invalid(name: str, problem: str) -> VovError:
    return VovError(f"noise section: {name}: {problem}; check the scaling settings, or the file is damaged")


def block_count(size: int, block: int) -> int:
    """Blocks of `block` values (0: one block) that cover `size` values; the last may be cut short."""
    return -(-size // block) if block else 1


def _read_plan(reader: Reader, cells: int) -> np.ndarray:
    """The plan [cells] from its runs."""
    plan, done = np.zeros(cells, np.int32), 0
    for _ in range(reader.varint("number of runs", cells, 1)):
        length = reader.varint("run", cells - done - 1 if cells > done else -1) + 1
        plan[done : done + length] = reader.varint("atoms", MAX_ATOMS)
        done += length
    if done != cells:
        raise reader.error("plan", f"has {done} of {cells} cells")
    return plan
