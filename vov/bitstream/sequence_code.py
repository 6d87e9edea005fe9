"""A video of any length in one file: scenes, each a run of chunks, each the noise of one pass of the model.

A .vov file of version 2 has, besides header and items (the captions, one for each scene), two sections:

    scenes    version byte; varints `NOISE_FIELDS`, in versions 3 and 4 also `branch`; bits of an index in a key chunk
              and in a chained one (bytes); varint number of scenes; per scene: varint number of chunks, coded profile
              [coded steps], varint length d of its θ (0: none), and if there is one: float32 step, coded symbols
    chunks    per chunk, varints: 2·(frames that it contributes) + (1 if it is chained), scale; then per chunk the
              symbols of its noise, each in branch or else bits + 1 bits, most significant first, zero-padded to a
              byte

A chained chunk begins with the last decoded frame of the chunk before, for which no bytes are spent; a key chunk stands
alone. The header's `num_frames` is what the model makes of one chunk; frames beyond those that it contributes are cut.

How many atoms a step has follows from two whole numbers, the scene's profile p of that step and the chunk's scale s:
the entry of `LEVELS` (with a trellis `TRELLIS_LEVELS`) next to 2^((4·(p − 255) + s) / 64); none for p = 0. The scenes
section of versions 1 and 3 holds p, in 16ths of an octave; that of versions 2 and 4 holds q where p = 4q − 1, or 0, in
fewer bytes. So a chunk needs no plan of its own: two bytes say it. The size of a chunk follows too: the list is the
index.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from vov import VovError
from vov.bitstream.header import SYMBOL_LIMIT, Header, Item
from vov.bitstream.noise_code import FIELDS, MAX_ATOMS, SHIFTS, TRELLIS, TRELLIS_ATOMS, TRELLIS_LEVELS, NoiseCode
from vov.bitstream.reader import Reader, varint
from vov.bitstream.symbols import MAX_SYMBOLS, decode_symbols, encode_symbols

FINE, COARSE, TRELLISES = 1, 2, 2  # versions of the scenes section; with a trellis they are higher by TRELLISES
NOISE_FIELDS = ("eta", "first", "steps", "start", "end")  # of `noise_code.FIELDS`, in this order, then `branch`
MAX_CHUNKS = 1 << 16  # a film of 12 hours, 17 frames a chunk; 2^20 would take a minute to read
MAX_SCALE, TRELLIS_SCALE = 640, 832
MAX_PLANNED = 1 << 26  # chunks × steps
TOP, GRID = 255, 4  # of a profile: its highest value, and the grid on which it takes fewer bytes


@dataclass(frozen=True, eq=False)
class Scene:
    """Chunks under one caption, with one profile of atoms and perhaps a θ.

    chunks: how many. profile: int [coded steps], 0 … 255. symbols: int32 [d] of θ in ±128, or None. step: of θ̂.
    """

    chunks: int
    profile: np.ndarray
    symbols: np.ndarray | None = None
    step: float = 1.0


@dataclass(frozen=True, eq=False)
class Chunk:
    """One pass of the model.

    frames: how many frames of the video it contributes. chained: whether it begins with the frame before. scale: see
    the module. symbols: int [atoms], as in `NoiseCode`.
    """

    frames: int
    chained: bool
    scale: int
    symbols: np.ndarray


class Packing(NamedTuple):
    """How the symbols of a kind of chunk are kept: `width` bits each, of at most `most` atoms a step."""

    width: int
    most: int

    @property
    def scales(self) -> int:
        """The largest scale of a chunk."""
        return MAX_SCALE if self.most == MAX_ATOMS else TRELLIS_SCALE


@dataclass(frozen=True, eq=False)
class SequenceCode:
    """The contents of a sequence: what both sections say.

    noise: NOISE_FIELDS and branch. bits: of an index in key and in chained chunks.
    """

    noise: dict[str, int]
    bits: tuple[int, int]
    scenes: tuple[Scene, ...]
    chunks: tuple[Chunk, ...]

    def __post_init__(self) -> None:
        if sum(scene.chunks for scene in self.scenes) != len(self.chunks) or not self.chunks:
            raise VovError("sequence: scenes and chunks do not add up; this is a fault of the program that writes it")

    @property
    def packings(self) -> tuple[Packing, Packing]:
        """Those of key and of chained chunks."""
        return packings(self.noise, self.bits)

    @property
    def frames(self) -> int:
        """Frames of the whole video."""
        return sum(chunk.frames for chunk in self.chunks)

    def scene_of(self, number: int) -> int:
        """The scene that chunk `number` belongs to."""
        return int(np.searchsorted(np.cumsum([scene.chunks for scene in self.scenes]), number, side="right"))

    def code(self, number: int) -> NoiseCode:
        """The noise of chunk `number` as the sampler replays it."""
        chunk, scene = self.chunks[number], self.scenes[self.scene_of(number)]
        return noise_code(self.noise, self.bits[chunk.chained], scene.profile, chunk.scale, chunk.symbols)


def noise_code(noise: dict[str, int], bits: int, profile: np.ndarray, scale: int,
               symbols: np.ndarray | None = None) -> NoiseCode:
    """The `NoiseCode` of one chunk; without symbols, one to be filled."""
    given = np.zeros(0, np.int32) if symbols is None else symbols
    return NoiseCode(kind=TRELLIS if noise["branch"] else SHIFTS, bits=bits, signed=1, block=0, theta_steps=0, **noise,
                     plan=atoms(profile, scale, TRELLIS_ATOMS if noise["branch"] else MAX_ATOMS)[:, None],
                     symbols=given.astype(np.int32)[None])


def packings(noise: dict[str, int], bits: tuple[int, int]) -> tuple[Packing, Packing]:
    """Those of key and of chained chunks, whose indices have so many bits."""
    branch = noise["branch"]
    key, chained = (Packing(branch or one + 1, TRELLIS_ATOMS if branch else MAX_ATOMS) for one in bits)
    return key, chained


@cache
def _table(most: int) -> np.ndarray:
    """Atoms for every exponent n = 0 … TRELLIS_SCALE in 64ths of an octave: the level next to 2^(n / 64), up to `most`.

    Never a tie: 2^(n / 64) is irrational or a power of two, and no power of two lies midway between two levels.
    """
    exact = 2.0 ** (np.arange(TRELLIS_SCALE + 1) / 64)
    levels = TRELLIS_LEVELS[most >= TRELLIS_LEVELS]
    return levels[np.abs(levels[:, None] - exact).argmin(0)]


def atoms(profile: np.ndarray, scale: int, most: int = MAX_ATOMS) -> np.ndarray:
    """How many atoms every coded step has, `most` at most: int64 [coded steps]."""
    exponent = 4 * (profile.astype(np.int64) - TOP) + scale
    return np.where((profile > 0) & (exponent >= 0), _table(most)[np.clip(exponent, 0, TRELLIS_SCALE)], 0)


def payload_bytes(profile: np.ndarray, scale: int, packing: Packing) -> int:
    """Bytes of a chunk's symbols."""
    return -(-int(atoms(profile, scale, packing.most).sum()) * packing.width // 8)


def pack(symbols: np.ndarray, width: int) -> bytes:
    """Whole numbers below 2^width, `width` bits each, most significant first."""
    bits = (symbols.astype(np.int64)[:, None] >> np.arange(width - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def unpack(data: bytes, count: int, width: int) -> np.ndarray:
    """The inverse of `pack`: int32 [count]."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))[: count * width].reshape(count, width).astype(np.int64)
    return (bits << np.arange(width - 1, -1, -1)).sum(1).astype(np.int32)


def to_sections(code: SequenceCode) -> tuple[bytes, bytes]:
    """The payloads of the sections scenes and chunks."""
    version = COARSE if all((on_grid(scene.profile) == scene.profile).all() for scene in code.scenes) else FINE
    branch = code.noise["branch"]
    scenes = [bytes([version + TRELLISES * bool(branch)]), *(varint(code.noise[name]) for name in NOISE_FIELDS),
              varint(branch) if branch else b"", bytes(code.bits), varint(len(code.scenes))]
    for scene in code.scenes:
        scenes += [varint(scene.chunks), _sized(encode_symbols(_written(scene.profile, version)))]
        scenes.append(varint(0 if scene.symbols is None else len(scene.symbols)))
        if scene.symbols is not None:
            scenes += [struct.pack("<f", scene.step), _sized(encode_symbols(scene.symbols))]
    heads = [varint(2 * chunk.frames + chunk.chained) + varint(chunk.scale) for chunk in code.chunks]
    bodies = [pack(chunk.symbols, code.packings[chunk.chained].width) for chunk in code.chunks]
    return b"".join(scenes), b"".join([*heads, *bodies])


def from_sections(scenes: bytes, chunks: bytes, header: Header, items: tuple[Item, ...], source: str) -> SequenceCode:
    """The inverse of `to_sections`. Raises VovError, and only that, for what `to_sections` could not have written."""
    reader = Reader(scenes, f"{source}: scenes")
    version = reader.take(1, "version")[0]
    if not FINE <= version <= COARSE + TRELLISES:
        raise reader.error("version", f"is {version}, not {FINE} to {COARSE + TRELLISES}", "update this program")
    noise = {name: reader.varint(name, FIELDS[name][1], FIELDS[name][0]) for name in NOISE_FIELDS}
    noise["branch"] = reader.varint("branch", FIELDS["branch"][1], 1) if version > TRELLISES else 0
    version -= TRELLISES * bool(noise["branch"])
    key, chained = reader.take(2, "bits")
    bits = key, chained
    if not all(1 <= one <= 24 and noise["branch"] <= one + 1 for one in bits):
        raise reader.error("bits", f"are {bits}, outside [{max(1, noise['branch'] - 1)}, 24]")
    _refuse_levels(noise, header, reader)
    count = reader.varint("number of scenes", MAX_CHUNKS, 1)
    if count != len(items):
        raise reader.error("number of scenes", f"is {count}, but there are {len(items)} captions")
    found = tuple(_read_scene(reader, version, noise["steps"], header) for _ in range(count))
    reader.end("scenes")
    total = sum(scene.chunks for scene in found)
    if total > min(MAX_CHUNKS, MAX_PLANNED // noise["steps"]):
        raise reader.error("chunks", f"are {total}, more than {min(MAX_CHUNKS, MAX_PLANNED // noise['steps'])}")
    read = _read_chunks(Reader(chunks, f"{source}: chunks"), found, packings(noise, bits), header)
    return SequenceCode(noise, bits, found, read)


def on_grid(profile: np.ndarray) -> np.ndarray:
    """The profile next to this one that takes fewer bytes: quarters of an octave. int32 [coded steps], 0 … 255."""
    return np.where(profile > 0, 4 * np.clip((profile + 3) // 4, 1, 64) - 1, 0).astype(np.int32)


def _written(profile: np.ndarray, version: int) -> np.ndarray:
    return (profile if version == FINE else (profile + 1) // 4).astype(np.int32)


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def _refuse_levels(noise: dict[str, int], header: Header, reader: Reader) -> None:
    jumps = bool(noise["start"]) + bool(noise["end"])
    if header.sampler != "euler" or header.sigmas or noise["first"] + noise["steps"] > header.decode_steps:
        raise reader.error("steps", "do not fit the header's sampler")
    if (jumps and header.decode_steps <= jumps) or (noise["start"] and noise["end"] >= noise["start"]):
        raise reader.error("start", "and end need a step between them")


def _read_scene(reader: Reader, version: int, steps: int, header: Header) -> Scene:
    chunks = reader.varint("chunks of a scene", MAX_CHUNKS, 1)
    profile = decode_symbols(reader.take(reader.varint("profile", 1 << 20), "profile"), steps, reader.source)
    highest = TOP if version == FINE else (TOP + 1) // 4
    if int(profile.min()) < 0 or int(profile.max()) > highest:
        raise reader.error("profile", f"goes beyond 0 … {highest}")
    profile = profile if version == FINE else np.where(profile > 0, 4 * profile - 1, 0).astype(np.int32)
    length = reader.varint("length of a scene's theta", MAX_SYMBOLS)
    if not length:
        return Scene(chunks, profile)
    if length != header.theta_length:
        raise reader.error("theta", f"has length {length}, the header says {header.theta_length}")
    (step,) = struct.unpack("<f", reader.take(4, "step of a scene's theta"))
    symbols = decode_symbols(reader.take(reader.varint("theta", 1 << 28), "theta"), length, reader.source)
    if not 2.0**-100 <= step <= 2.0**100 or int(np.abs(symbols).max()) > SYMBOL_LIMIT:
        raise reader.error("theta", "is out of range")
    return Scene(chunks, profile, symbols, step)


def _read_chunks(reader: Reader, scenes: tuple[Scene, ...], packed: tuple[Packing, Packing],
                 header: Header) -> tuple[Chunk, ...]:
    """packed: of key and of chained chunks."""
    heads: list[tuple[Scene, int, bool, int]] = []
    for scene in scenes:
        for _ in range(scene.chunks):
            value = reader.varint("frames of a chunk", 2 * header.num_frames + 1, 2)
            if (value & 1) and (not heads or value >> 1 >= header.num_frames):
                raise reader.error("frames of a chunk", "do not fit one that begins with the frame before")
            heads.append((scene, value >> 1, bool(value & 1), reader.varint("scale", packed[value & 1].scales)))
    total = sum(int(atoms(scene.profile, scale, packed[chained].most).sum()) for scene, _, chained, scale in heads)
    if total > MAX_SYMBOLS:
        raise reader.error("scale", f"asks for {total} indices, more than {MAX_SYMBOLS}")
    chunks = []
    for scene, frames, chained, scale in heads:
        count, width = int(atoms(scene.profile, scale, packed[chained].most).sum()), packed[chained].width
        data = reader.take(-(-count * width // 8), "indices of a chunk")
        symbols = unpack(data, count, width)
        if pack(symbols, width) != data:
            raise reader.error("indices of a chunk", "are not padded with zeros")
        chunks.append(Chunk(frames, chained, scale, symbols))
    reader.end("chunks")
    return tuple(chunks)
