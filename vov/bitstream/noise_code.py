"""The noise section of a .vov file: how many atoms every step and block has, and their indices.

Section = version byte, varints `FIELDS`, varint number of runs, runs (length − 1, atoms) of the plan [coded steps,
blocks] in row order, coded symbols (`vov.bitstream.symbols`) of all items: in the order step, block, atom; a symbol is
index, or 2·index + (1 if negative); of a trellis the last `branch` bits of that, see `labels`. `vov.decoding.replay`
says what they mean.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

import numpy as np

from vov import VovError
from vov.bitstream.header import Header
from vov.bitstream.reader import Reader, varint
from vov.bitstream.symbols import MAX_SYMBOLS, decode_symbols, encode_symbols

VERSION = 3  # of the section; version 1 had no `end`, version 2 no `branch`, and is still written where that is 0
INDEPENDENT, SHIFTS, TRELLIS = 0, 1, 2
KINDS = ("independent", "shifts", "trellis")
MAX_ATOMS, TRELLIS_ATOMS = 512, 4096  # of a block and step; those of a trellis have fewer bits each
LEVELS = np.array([*range(9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256, 384, 512])
TRELLIS_LEVELS = np.array([*LEVELS[LEVELS < 128], *(n * 2**k for k in range(4, 9) for n in range(8, 16)), 4096])
MAX_CELLS = 1 << 20  # coded steps x blocks
ETA_UNIT = 64  # eta is kept in 64ths
FIELDS = {  # name: (lowest, highest value)
    "kind": (0, 2),  # of candidates
    "bits": (1, 24),  # per index: 2^bits candidates an atom
    "signed": (0, 1),  # whether an atom has a sign bit
    "block": (0, 1 << 30),  # values of the flattened latent [C, T, h, w] per block; 0: all
    "eta": (0, 64 * ETA_UNIT),  # diffusion strength
    "first": (0, 9999),  # first coded step
    "steps": (1, 10000),  # number of coded steps from there on
    "theta_steps": (0, 10000),  # theta adapts the model in the first so many steps; 0: in all
    "start": (0, 1023),  # level after the first step, in 1024ths: see `replay.levels`; 0: the header's grid as it is
    "end": (0, 1023),  # level before the last step, likewise
    "branch": (0, 25),  # bits that the file has for an atom of a trellis; 0: it is none
}
SINCE = {"end": 2, "branch": 3}  # the first version of a field


@dataclass(frozen=True, eq=False)
class NoiseCode:
    """The contents of a noise section.

    plan: atoms per coded step and block, int [steps, blocks] in 0 … `most`. symbols: int32 [items, plan.sum()].
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
    branch: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in FIELDS.items():
            if not low <= getattr(self, name) <= high:
                raise _invalid(name, f"is {getattr(self, name)}, outside [{low}, {high}]")
        plan = self.plan
        if plan.ndim != 2 or len(plan) != self.steps or not plan.size or plan.min() < 0 or plan.max() > self.most:
            raise _invalid("plan", f"is {list(plan.shape)}; one row per coded step, 0 to {self.most} atoms")
        if self.kind == INDEPENDENT and (int(plan.max()) << self.bits) > 1 << 32:  # 32 bits number a candidate
            raise _invalid("bits", "are too many for so many atoms; use fewer of either")
        if (self.kind == TRELLIS) != (self.branch > 0) or self.branch > self.bits + self.signed:
            raise _invalid("branch", f"is {self.branch}; 1 to {self.bits + self.signed} for a trellis, else 0")
        if self.kind != INDEPENDENT and self.block and self.block < 1 << self.bits:
            raise _invalid("bits", f"are too many: a block of {self.block} has no 2^{self.bits} shifts")

    @property
    def width(self) -> int:
        """Bits of a symbol in the file: symbols are in [0, 2^width)."""
        return self.branch or self.bits + self.signed

    @property
    def most(self) -> int:
        """The most atoms that a block and step can have."""
        return TRELLIS_ATOMS if self.branch else MAX_ATOMS

    @property
    def levels(self) -> np.ndarray:
        """How many atoms the encoder gives to a block and step, ascending: a plan of few numbers takes few bytes."""
        return TRELLIS_LEVELS if self.branch else LEVELS

    def labels(self, symbols: np.ndarray, atoms: np.ndarray) -> np.ndarray:
        """What `symbols` stand for, 2·index + sign or index: themselves, or the trellis walked along them.

        An atom's label is the last bits + signed bits of all symbols so far of its block and step, with zeros before
        them: a shift register, as in trellis-coded quantisation. So each atom chooses among 2^branch of its candidates,
        which ones the atoms before it decide. atoms: the number of each within its block and step, from 0 on.
        """
        if not self.branch:
            return symbols
        found, bits = symbols.astype(np.int64), self.bits + self.signed
        for back in range(1, -(-bits // self.branch)):
            earlier = np.concatenate((np.zeros(back, np.int64), symbols))[: len(symbols)]
            found += np.where(atoms >= back, earlier, 0) << back * self.branch
        return found & ((1 << bits) - 1)

    def of_item(self, number: int) -> NoiseCode:
        """The same code with the symbols of one item alone."""
        return dataclasses.replace(self, symbols=self.symbols[number:number + 1])

    def to_bytes(self) -> bytes:
        """The noise section."""
        flat = self.plan.reshape(-1)
        edges = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1, append=flat[-1] - 1))
        names = [name for name in FIELDS if name != "branch" or self.branch]
        out = [bytes([VERSION if self.branch else 2]), *(varint(int(getattr(self, name))) for name in names),
               varint(len(edges) - 1)]
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
        values = {name: 0 if version < SINCE.get(name, 1) else reader.varint(name, high, low)
                  for name, (low, high) in FIELDS.items()}
        if version > 2 and not values["branch"]:
            raise reader.error("branch", "is 0, which version 2 says")
        sampled = len(header.sigmas) - 1 if header.sigmas else header.decode_steps
        if values["first"] + values["steps"] > sampled:
            raise reader.error("steps", f"go beyond the file's {sampled} sampler steps")
        blocks = block_count(size, values["block"])
        cells = values["steps"] * blocks
        if cells > MAX_CELLS:
            raise reader.error("block", f"{values['block']} makes {cells} cells, more than {MAX_CELLS}")
        plan = _read_plan(reader, cells, TRELLIS_ATOMS if values["branch"] else MAX_ATOMS)
        total = int(plan.sum(dtype=np.int64)) * items
        if total > MAX_SYMBOLS:
            raise reader.error("plan", f"asks for {total} symbols, more than {MAX_SYMBOLS}")
        symbols = decode_symbols(reader.take(reader.remaining, "indices"), total, f"{source}: indices")
        try:
            code = NoiseCode(**values, plan=plan.reshape(-1, blocks), symbols=symbols.reshape(items, -1))
        except VovError as error:
            raise VovError(f"{source}: {error}") from error
        if total and not 0 <= int(symbols.min()) <= int(symbols.max()) < 1 << code.width:
            raise reader.error("indices", f"go beyond {1 << code.width} candidates")
        code._refuse_misfit(header, size, items, sampled, reader)
        return code

    def _refuse_misfit(self, header: Header, size: int, items: int, sampled: int, reader: Reader) -> None:
        """Raises VovError when this code does not fit a file of `sampled` sampler steps and `size` values an item."""
        if self.kind != INDEPENDENT and 1 << self.bits > (self.block or size):
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


def _read_plan(reader: Reader, cells: int, most: int) -> np.ndarray:
    """The plan [cells] from its runs, `most` atoms at most in each."""
    plan, done = np.zeros(cells, np.int32), 0
    for _ in range(reader.varint("number of runs", cells, 1)):
        length = reader.varint("run", cells - done - 1 if cells > done else -1) + 1
        plan[done : done + length] = reader.varint("atoms", most)
        done += length
    if done != cells:
        raise reader.error("plan", f"has {done} of {cells} cells")
    return plan
