"""The .vov file: all that the decoder gets besides the frozen model.

    file      magic 89 'VOV', version byte, varint header length, header, CRC-32 of everything before it, sections
    header    varint number of sections, then the fields of `Header` in order, each by its kind
    section   type byte, varint length, payload, CRC-32 of type and payload
    types     1 items: captions, names and original sizes    2 theta: coded symbols    3 noise: indices (opaque here)
              bit 7 set: a reader that does not know the type may skip it; otherwise it must refuse the file

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
from vov.bitstream.symbols import decode_symbols, encode_symbols, read_tables
from vov.files import write_bytes

MAGIC = b"\x89VOV"
VERSION = 1
ITEMS, THETA, NOISE, SKIPPABLE = 1, 2, 3, 0x80
MAX_FILE = 1 << 28  # bytes


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Bitstream:
    """What a .vov file holds. symbols: int32 [theta_length] in ±128. noise: chosen noise indices, or None.

    extra: payloads of further sections by type (0x80-0xff, which a reader may skip).
    """

    header: Header
    items: tuple[Item, ...]
    symbols: np.ndarray
    noise: bytes | None = None
    extra: dict[int, bytes] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "items", tuple(self.items))
        symbols = np.asarray(self.symbols)
        if symbols.shape != (self.header.theta_length,) or not np.issubdtype(symbols.dtype, np.integer):
            raise invalid("theta", f"is {symbols.dtype} {list(symbols.shape)}, not theta_length integers", WRITER)
        if int(symbols.min()) < -SYMBOL_LIMIT or int(symbols.max()) > SYMBOL_LIMIT:
            raise invalid("theta", "has symbols beyond ±128", "clamp them")
        object.__setattr__(self, "symbols", symbols.astype(np.int32))
        if not 1 <= len(self.items) <= (1 if self.header.tree == "video" else MAX_ITEMS):
            raise invalid("items", f"{len(self.items)} items; a video has one, images 1 to {MAX_ITEMS}", WRITER)
        if any(not SKIPPABLE <= kind <= 255 for kind in self.extra):
            raise invalid("extra", "section types must be in [128, 255]", WRITER)


@dataclass(frozen=True)
class PartSizes:
    """Bytes of a .vov file by part; they add up to the file. captions: texts and sizes of all items.

    table: of theta's coder. framing: magic, version, section types, lengths and CRCs.
    """

    header: int
    captions: int
    table: int
    theta: int
    noise: int
    extra: int
    framing: int

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
    sections = {ITEMS: items_to_bytes(bitstream.items), THETA: encode_symbols(bitstream.symbols)}
    if bitstream.noise is not None:
        sections[NOISE] = bitstream.noise
    return frame(header_to_bytes(bitstream.header), sections | bitstream.extra)


def from_bytes(data: bytes, source: str = "bitstream") -> Bitstream:
    """The inverse of `to_bytes`; `source` names the file in errors. Raises VovError, and only that."""
    try:
        header_bytes, sections = unframe(data, source)
        for kind, name in ((ITEMS, "captions"), (THETA, "theta")):
            if kind not in sections:
                raise Reader(b"", source).error(name, "is missing")
        header = header_from_bytes(Reader(header_bytes, source))
        items = items_from_bytes(Reader(sections[ITEMS], source))
        symbols = decode_symbols(sections[THETA], header.theta_length, f"{source}: theta")
        extra = {kind: payload for kind, payload in sections.items() if kind >= SKIPPABLE}
        return Bitstream(header, items, symbols, sections.get(NOISE), extra)
    except VovError as error:
        if str(error).startswith(f"{source}:"):
            raise
        raise VovError(f"{source}: {error}") from error


def frame(header: bytes, sections: dict[int, bytes]) -> bytes:
    """Header and section payloads in their frames, with all CRCs. Checks nothing of what is in them."""
    header = varint(len(sections)) + header
    out = [MAGIC + bytes([VERSION]) + varint(len(header)) + header]
    out.append(_crc(out[0]))
    for kind, payload in sections.items():
        out += [bytes([kind]), varint(len(payload)), payload, _crc(bytes([kind]) + payload)]
    return b"".join(out)


def unframe(data: bytes, source: str) -> tuple[bytes, dict[int, bytes]]:
    """The inverse of `frame`: (header fields, payloads by type), every CRC checked."""
    reader = Reader(data, source)
    if data[:4] != MAGIC:
        raise reader.error("magic", "is not that of a .vov file", "check the path")
    reader.take(4, "magic")
    version = reader.take(1, "version")[0]
    if version != VERSION:
        raise reader.error("version", f"is {version}, this program reads {VERSION}", "update one or the other")
    length = reader.varint("header length", high=1 << 20)
    header = Reader(reader.take(length, "header"), source)
    _check_crc(reader, data[: reader.position], "header")
    sections = {}
    for _ in range(header.varint("number of sections", high=130)):
        kind = reader.take(1, "section type")[0]
        if kind not in (ITEMS, THETA, NOISE) and kind < SKIPPABLE:
            raise reader.error("section type", f"{kind} is unknown and may not be skipped", "update this program")
        if kind in sections:
            raise reader.error("section type", f"{kind} occurs twice")
        sections[kind] = reader.take(reader.varint(f"section {kind} length", MAX_FILE), f"section {kind}")
        _check_crc(reader, bytes([kind]) + sections[kind], f"section {kind}")
    reader.end("end of file")
    return header.take(header.remaining, "header"), sections


def _part_sizes(data: bytes, source: str) -> PartSizes:
    header, sections = unframe(data, source)
    theta = Reader(sections[THETA], source)
    read_tables(theta, 1)
    sizes = dict(
        header=len(header),
        captions=len(sections[ITEMS]),
        table=theta.position,
        theta=theta.remaining,
        noise=len(sections.get(NOISE, b"")),
        extra=sum(len(payload) for kind, payload in sections.items() if kind >= SKIPPABLE),
    )
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
    for item in stream.items:
        rows.append((f"item {item.name!r}", f"{item.original_width}x{item.original_height}", repr(item.caption)))
    sizes = _part_sizes(data, str(path))
    rows += [
        (f"bytes of {name}", str(size), "") for name, size in (dataclasses.asdict(sizes) | {"file": len(data)}).items()
    ]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{a:{wide[0]}}  {b:{wide[1]}}  {c}".rstrip() for a, b, c in rows)
