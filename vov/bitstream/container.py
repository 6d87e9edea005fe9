"""The .vov file: all that the decoder gets besides the frozen model.

    file      magic 89 'VOV', version byte, varint header length, header, CRC-32 of everything before it, sections
    header    varint number of sections, then the fields of `Header` in order, each by its kind
    section   type byte, varint length, payload, CRC-32 of type and payload
    types     1 items: captions, names and original sizes    2 theta: coded symbols    3 noise: indices (opaque here)
              4 scenes and 5 chunks of a sequence (`sequence_code`)    0x81 sound, as an mp4 of the packets as they came
              bit 7 set: a reader that does not know the type may skip it; otherwise it must refuse the file
    versions  1 has theta and perhaps noise; 2 is a sequence: scenes and chunks instead

Integers are LEB128 varints, floats IEEE float32 little-endian, CRCs the CRC-32 of zip, little-endian. The fields and
the items are in `vov.bitstream.header`, the coded symbols in `vov.bitstream.symbols`.
A file from a stranger gives a valid Bitstream or VovError, never anything else; sizes are bounded before allocation.
`python -m vov.bitstream FILE` prints every field and the bytes of every part.
"""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError
from vov.bitstream.header import (
    MAX_ITEMS,
    SYMBOL_LIMIT,
    WRITER,
    Header,
    Item,
    header_from_bytes,
    header_to_bytes,
    invalid,
    items_from_bytes,
    items_to_bytes,
)
from vov.bitstream.reader import Reader, varint
from vov.bitstream.sequence_code import SequenceCode, from_sections, payload_bytes, to_sections
from vov.bitstream.symbols import decode_symbols, encode_symbols, read_tables
from vov.runtime.files import write_bytes

MAGIC = b"\x89VOV"
ITEMS, THETA, NOISE, SCENES, CHUNKS, COLLECTION, SKIPPABLE, SOUND = 1, 2, 3, 4, 5, 6, 0x80, 0x81
VERSIONS = {1: (ITEMS, THETA, NOISE, COLLECTION), 2: (ITEMS, SCENES, CHUNKS, COLLECTION)}  # what a reader must know
MAX_FILE = 1 << 28  # bytes
COLLECTION_BYTES = 16  # of SHA-256: a pair of equal names takes 2^64 tries to make, with 8 bytes only 2^32


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Bitstream:
    """What a .vov file holds. symbols: int32 [theta_length] in ±128. noise: chosen noise indices, or None.

    extra: payloads of further sections by type (0x80-0xff, which a reader may skip).
    sequence: of a video of many chunks; then symbols and noise are None, and the items are its scenes.
    collection: 16 bytes that name a shared θ (`vov.decoding.collection`) which the model is adapted with; empty: none.
    source: where it was read from, for errors; no part of the file.
    """

    header: Header
    items: tuple[Item, ...]
    symbols: np.ndarray | None
    noise: bytes | None = None
    extra: dict[int, bytes] = dataclasses.field(default_factory=dict)
    sequence: SequenceCode | None = None
    collection: bytes = b""
    source: str = "the file"

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if any(not SKIPPABLE <= kind <= 255 for kind in self.extra):
            raise invalid("extra", "section types must be in [128, 255]", WRITER)
        if not isinstance(self.collection, bytes) or len(self.collection) not in (0, COLLECTION_BYTES):
            raise invalid("collection", f"is {self.collection!r:.60}, not {COLLECTION_BYTES} bytes", WRITER)
        if self.sequence is not None:
            if self.symbols is not None or self.noise is not None or self.header.tree != "video":
                raise invalid("sequence", "has θ and noise in its scenes and chunks, and is a video", WRITER)
            return
        symbols = np.asarray(self.symbols)
        if symbols.shape != (self.header.theta_length,) or not np.issubdtype(symbols.dtype, np.integer):
            raise invalid("theta", f"is {symbols.dtype} {list(symbols.shape)}, not theta_length integers", WRITER)
        if int(symbols.min()) < -SYMBOL_LIMIT or int(symbols.max()) > SYMBOL_LIMIT:
            raise invalid("theta", "has symbols beyond ±128", "clamp them")
        object.__setattr__(self, "symbols", symbols.astype(np.int32))
        if not 1 <= len(self.items) <= (1 if self.header.tree == "video" else MAX_ITEMS):
            raise invalid("items", f"{len(self.items)} items; a video has one, images 1 to {MAX_ITEMS}", WRITER)


@dataclass(frozen=True)
class PartSizes:
    """Bytes of a .vov file by part; they add up to the file. captions: texts and sizes of all items.

    table: of theta's coder. scenes: what a sequence says of its scenes besides their θ. sound: packets and their mp4,
    type, length and CRC of that section included, for the sound is counted apart.
    shared: the name of a collection.
    framing: magic, version, section types, lengths and CRCs.
    """

    header: int
    captions: int
    table: int
    theta: int
    noise: int
    extra: int
    framing: int
    scenes: int = 0
    sound: int = 0
    shared: int = 0

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def write(path: str | Path, bitstream: Bitstream) -> PartSizes:
    """Writes `path` whole or not at all; returns the bytes of each part."""
    data = to_bytes(bitstream)
    write_bytes(path, data)
    return _part_sizes(data, str(path))


def read(path: str | Path) -> Bitstream:
    """The contents of `path`. Raises VovError when it is missing, damaged, or no .vov file."""
    return from_bytes(_load(path), str(path))


def parts(path: str | Path) -> PartSizes:
    """Bytes of each part of the file at `path`, which must be valid."""
    data = _load(path)
    from_bytes(data, str(path))
    return _part_sizes(data, str(path))


def to_bytes(bitstream: Bitstream) -> bytes:
    """The file as bytes; the same bitstream gives the same bytes (up to zlib's version, in the captions)."""
    sections = {ITEMS: items_to_bytes(bitstream.items)}
    if bitstream.collection:
        sections[COLLECTION] = bitstream.collection
    if bitstream.sequence is not None:
        sections[SCENES], sections[CHUNKS] = to_sections(bitstream.sequence)
        return frame(header_to_bytes(bitstream.header), sections | bitstream.extra, 2)
    if bitstream.symbols is not None:  # it never is where there is no sequence
        sections[THETA] = encode_symbols(bitstream.symbols)
    if bitstream.noise is not None:
        sections[NOISE] = bitstream.noise
    return frame(header_to_bytes(bitstream.header), sections | bitstream.extra)


def from_bytes(data: bytes, source: str = "bitstream") -> Bitstream:
    """The inverse of `to_bytes`; `source` names the file in errors. Raises VovError, and only that."""
    try:
        header_bytes, sections = unframe(data, source)
        needed = {ITEMS: "captions"} | ({SCENES: "scenes", CHUNKS: "chunks"} if data[4] == 2 else {THETA: "theta"})
        for kind, name in needed.items():
            if kind not in sections:
                raise Reader(b"", source).error(name, "is missing")
        header = header_from_bytes(Reader(header_bytes, source))
        items = items_from_bytes(Reader(sections[ITEMS], source))
        extra = {kind: payload for kind, payload in sections.items() if kind >= SKIPPABLE}
        collection = sections.get(COLLECTION, b"")
        if COLLECTION in sections and len(collection) != COLLECTION_BYTES:
            raise Reader(b"", source).error("collection", f"has {len(collection)} bytes, not {COLLECTION_BYTES}")
        if data[4] == 2:
            sequence = from_sections(sections[SCENES], sections[CHUNKS], header, items, source)
            return Bitstream(header, items, None, None, extra, sequence, collection, source)
        symbols = decode_symbols(sections[THETA], header.theta_length, f"{source}: theta")
        return Bitstream(header, items, symbols, sections.get(NOISE), extra, collection=collection, source=source)
    except VovError as error:
        if str(error).startswith(f"{source}:"):
            raise
        raise VovError(f"{source}: {error}") from error


def frame(header: bytes, sections: dict[int, bytes], version: int = 1) -> bytes:
    """Header and section payloads in their frames, with all CRCs. Checks nothing of what is in them."""
    header = varint(len(sections)) + header
    out = [MAGIC + bytes([version]) + varint(len(header)) + header]
    out.append(_crc(out[0]))
    return b"".join([*out, *(_section(kind, payload) for kind, payload in sections.items())])


def _section(kind: int, payload: bytes) -> bytes:
    return b"".join([bytes([kind]), varint(len(payload)), payload, _crc(bytes([kind]) + payload)])


def unframe(data: bytes, source: str) -> tuple[bytes, dict[int, bytes]]:
    """The inverse of `frame`: (header fields, payloads by type), every CRC checked."""
    reader = Reader(data, source)
    if data[:4] != MAGIC:
        raise reader.error("magic", "is not that of a .vov file", "check the path")
    reader.take(4, "magic")
    version = reader.take(1, "version")[0]
    if version not in VERSIONS:
        raise reader.error("version", f"is {version}, this program reads {max(VERSIONS)} and older ones",
                           "update one or the other")
    length = reader.varint("header length", high=1 << 20)
    header = Reader(reader.take(length, "header"), source)
    _check_crc(reader, data[: reader.position], "header")
    sections = {}
    for _ in range(header.varint("number of sections", high=130)):
        kind = reader.take(1, "section type")[0]
        if kind not in VERSIONS[version] and kind < SKIPPABLE:
            raise reader.error("section type", f"{kind} is unknown and may not be skipped", "update this program")
        if kind in sections:
            raise reader.error("section type", f"{kind} occurs twice")
        sections[kind] = reader.take(reader.varint(f"section {kind} length", MAX_FILE), f"section {kind}")
        _check_crc(reader, bytes([kind]) + sections[kind], f"section {kind}")
    reader.end("end of file")
    return header.take(header.remaining, "header"), sections


def _part_sizes(data: bytes, source: str) -> PartSizes:
    header, sections = unframe(data, source)
    sizes = dict(
        header=len(header),
        captions=len(sections[ITEMS]),
        table=0,
        theta=0,
        noise=len(sections.get(NOISE, b"") + sections.get(CHUNKS, b"")),
        extra=sum(len(payload) for kind, payload in sections.items() if kind >= SKIPPABLE and kind != SOUND),
        sound=len(_section(SOUND, sections[SOUND])) if SOUND in sections else 0,
        shared=len(sections.get(COLLECTION, b"")),
    )
    if THETA in sections:
        theta = Reader(sections[THETA], source)
        read_tables(theta, 1)
        sizes |= {"table": theta.position, "theta": theta.remaining}
    elif (sequence := from_bytes(data, source).sequence) is not None:
        coded = sum(len(encode_symbols(scene.symbols)) for scene in sequence.scenes if scene.symbols is not None)
        sizes |= {"theta": coded, "scenes": len(sections[SCENES]) - coded}
    return PartSizes(**sizes, framing=len(data) - sum(sizes.values()))


def _load(path: str | Path) -> bytes:
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise VovError(f"{path}: file size: is above 256 MiB; this is no .vov file, check the path")
        return path.read_bytes()
    except OSError as error:
        raise VovError(f"{path}: file: cannot be read ({error.strerror}); check the path") from error


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _check_crc(reader: Reader, data: bytes, field: str) -> None:
    if reader.take(4, f"{field} checksum") != _crc(data):
        raise reader.error(field, "checksum does not match")


def describe(path: str | Path) -> str:
    """Every header field, the items and the bytes of every part of a file, as a table of text."""
    data = _load(path)
    stream = from_bytes(data, str(path))
    rows = []
    for field in dataclasses.fields(Header):
        value = getattr(stream.header, field.name)
        shown = value.hex() if isinstance(value, bytes) else repr(value) if isinstance(value, str) else str(value)
        rows.append((field.name, shown, field.metadata["help"]))
    rows += _describe_sequence(stream.sequence) if stream.sequence else []
    rows += [("collection", stream.collection.hex(), "names the shared theta")] if stream.collection else []
    for item in stream.items:
        rows.append((f"item {item.name!r}", f"{item.original_width}x{item.original_height}", repr(item.caption)))
    sizes = _part_sizes(data, str(path))
    rows += [
        (f"bytes of {name}", str(size), "") for name, size in (dataclasses.asdict(sizes) | {"file": len(data)}).items()
    ]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{a:{wide[0]}}  {b:{wide[1]}}  {c}".rstrip() for a, b, c in rows)


def _describe_sequence(code: SequenceCode) -> list[tuple[str, str, str]]:
    """Rows of `describe` for scenes and chunks."""
    rows, first = [("frames", str(code.frames), "of the whole video")], 0
    for number, scene in enumerate(code.scenes):
        theta = "no theta" if scene.symbols is None else f"theta of {len(scene.symbols)}"
        rows.append((f"scene {number}", f"{scene.chunks} chunks", theta))
    for number, chunk in enumerate(code.chunks):
        scene = code.scenes[code.scene_of(number)]
        size = payload_bytes(scene.profile, chunk.scale, code.packings[chunk.chained])
        kind = "begins with the frame before" if chunk.chained else "key: stands alone"
        rows.append((f"chunk {number}", f"{size} bytes", f"frames {first} to {first + chunk.frames - 1}, {kind}"))
        first += chunk.frames
    return rows
