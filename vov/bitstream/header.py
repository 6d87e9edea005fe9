"""The header of a .vov file and the items it codes: their fields, bounds and bytes.

`Header` is the one table of fields: its declarations carry kind, bounds and meaning, and checking, writing and
reading follow them. See `vov.bitstream` for the file around them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from vov import VovError
from vov.bitstream.reader import Reader, varint
from vov.bitstream.symbols import MAX_SYMBOLS

SYMBOL_LIMIT = 128  # theta's symbols lie in ±128, so there are at most 257 of them
MAX_CAPTION, MAX_NAME = 16384, 255  # bytes of UTF-8
MAX_ITEMS, MAX_ITEM_BYTES = 65536, 1 << 24  # of all items together
MAX_PIXELS = 1 << 30  # width x height x frames
PRECISIONS = "float32", "bfloat16", "float16", "float32-fp8", "bfloat16-fp8", "float32-nf4", "bfloat16-nf4"
_U64 = (1 << 64) - 1
WRITER = "this is a fault of the program that writes the file"


def _field(kind: str, low: float = 0, high: float = 0, help: str = "", choices: tuple = (), **more: Any) -> Any:
    """One line of the field table; kinds: integer, float, floats, text, choice, hash."""
    return dataclasses.field(metadata=dict(kind=kind, low=low, high=high, help=help, choices=choices), **more)


@dataclass(frozen=True)
class Header:
    """Every number that decoding depends on. Floats are rounded to float32; bounds are checked on construction.

    A new field may only be appended, with a new VERSION.
    """

    tree: str = _field("choice", choices=("image", "video"), help="which tree decodes the file")
    model_id: str = _field("text", 1, 256, "name of the frozen model")
    fingerprint: bytes = _field("hash", help="of the frozen model's configuration and weights")
    dtype: str = _field("choice", help="what the fit ran the model in, and how frozen weights were stored",
                        choices=PRECISIONS)
    lora_preset: str = _field("text", 1, 64, "which layers are adapted")
    last_k: int = _field("integer", 1, 4096, "how many of the last blocks are adapted")
    rank: int = _field("integer", 1, 4096, "rank of the adapters")
    theta_length: int = _field("integer", 1, MAX_SYMBOLS, "entries of theta")
    proj_seed: int = _field("integer", 0, _U64, "seed of the UniLoRA indices")
    index_hash: bytes = _field("hash", help="of the UniLoRA indices")
    step: float = _field("float", 2.0**-100, 2.0**100, "quantiser step: theta = step x symbol")
    width: int = _field("integer", 1, 16384, "pixels, as the model generates them")
    height: int = _field("integer", 1, 16384, "pixels, as the model generates them")
    num_frames: int = _field("integer", 1, 65536, "frames; 1 for images")
    fps: float = _field("float", 0, 1000, "frames per second; 0 for images")
    resize: str = _field("choice", choices=("crop", "stretch", "pad"), help="how the source was brought to this size")
    sampler: str = _field("choice", choices=("euler", "unipc"), help="ODE solver")
    decode_steps: int = _field("integer", 1, 10000, "solver steps")
    shift: float = _field("float", 0, 1000, "sigma shift; 0: the model's own")
    sigmas: tuple[float, ...] = _field("floats", 0, 1, "explicit sigma grid; empty: from steps and shift", default=())
    seed: int = _field("integer", 0, _U64, "seed of the decoder's noise", default=0)
    guidance: float = _field("float", 0, 1000, "classifier-free guidance scale", default=1.0)
    negative_prompt: str = _field("text", 0, MAX_CAPTION, "for guidance above 1", default="")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.width * self.height * self.num_frames > MAX_PIXELS:
            raise invalid("num_frames", "width x height x num_frames is beyond 2^30", "use fewer frames or pixels")
        if len(self.sigmas) == 1 or any(a <= b for a, b in itertools.pairwise(self.sigmas)):
            raise invalid("sigmas", "are not two or more falling levels", WRITER)


HIGHEST = {field.name: field.metadata["high"] for field in dataclasses.fields(Header)}  # of numbers; of texts in bytes


@dataclass(frozen=True)
class Item:
    """One picture or clip: caption (UTF-8, <= 16 KiB), original size in pixels, name (a relative path)."""

    caption: str
    original_width: int
    original_height: int
    name: str = ""

    def __post_init__(self) -> None:
        _text("caption", self.caption, 0, MAX_CAPTION)
        _text("name", self.name, 0, MAX_NAME)
        parts = self.name.split("/") if self.name else ()
        if any(part in ("", ".", "..") for part in parts) or not self.name.isprintable() or set(self.name) & set("\\:"):
            raise invalid("name", f"{self.name!r} is no plain relative path", "rename the file")
        for name in ("original_width", "original_height"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 65536:
                raise invalid(name, f"is {value!r}, not an integer in [1, 65536]", "check the source")


# --- header fields, by kind -----------------------------------------------------------------------------------------


def invalid(field: str, problem: str, cure: str) -> VovError:
    """The error to raise for a value that does not fit its field."""
    return VovError(f"{field}: {problem}; {cure}")


def _text(name: str, value: Any, low: int, high: int) -> str:
    if not isinstance(value, str) or any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise invalid(name, f"{value!r:.40} is not Unicode text", "check its encoding")
    size = len(value.encode())
    if not low <= size <= high:
        raise invalid(name, f"has {size} bytes of UTF-8, not {low} to {high}", "shorten it" if size else "set it")
    return value


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """`value` as the field stores it; VovError when it does not fit."""
    name, meta = field.name, field.metadata
    low, high = meta["low"], meta["high"]
    match meta["kind"]:
        case "choice":
            if value not in meta["choices"]:
                raise invalid(name, f"is {value!r}", f"choose one of {', '.join(meta['choices'])}")
        case "text":
            _text(name, value, low, high)
        case "hash":
            if not isinstance(value, bytes) or len(value) != 8:
                raise invalid(name, f"is {value!r:.40}, not 8 bytes", WRITER)
        case "integer":
            if not isinstance(value, int | np.integer) or not low <= value <= high:
                raise invalid(name, f"is {value!r}, not an integer in [{low}, {high}]", "check the configuration")
            return int(value)
        case "float":
            return _float32(name, value, low, high)
        case "floats":
            if len(value) > 1024:
                raise invalid(name, f"has {len(value)} entries, more than 1024", "use fewer steps")
            return tuple(_float32(name, entry, low, high) for entry in value)
    return value


def _float32(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, int | float | np.number) or not math.isfinite(value) or not low <= value <= high:
        raise invalid(name, f"is {value!r}, not a number in [{low:g}, {high:g}]", "check the configuration")
    return struct.unpack("<f", struct.pack("<f", value))[0]


def _write_value(meta: Any, value: Any) -> bytes:
    match meta["kind"]:
        case "choice":
            return varint(meta["choices"].index(value))
        case "text":
            return varint(len(value.encode())) + value.encode()
        case "hash":
            return value
        case "integer":
            return varint(value)
        case "float":
            return struct.pack("<f", value)
    return varint(len(value)) + struct.pack(f"<{len(value)}f", *value)


def _read_value(reader: Reader, name: str, meta: Any) -> Any:
    low, high = meta["low"], meta["high"]
    match meta["kind"]:
        case "choice":
            return meta["choices"][reader.varint(name, len(meta["choices"]) - 1)]
        case "text":
            return _read_text(reader, name, reader.varint(name, high, low))
        case "hash":
            return reader.take(8, name)
        case "integer":
            return reader.varint(name, high, low)
        case "float":
            return struct.unpack("<f", reader.take(4, name))[0]
    count = reader.varint(name, 1024)
    return struct.unpack(f"<{count}f", reader.take(4 * count, name))


def _read_text(reader: Reader, name: str, size: int) -> str:
    try:
        return reader.take(size, name).decode()
    except UnicodeDecodeError as error:
        raise reader.error(name, "is not UTF-8") from error


def header_from_bytes(reader: Reader) -> Header:
    """The inverse of `header_to_bytes`; everything in `reader` must be used up."""
    values = {field.name: _read_value(reader, field.name, field.metadata) for field in dataclasses.fields(Header)}
    reader.end("header")
    return Header(**values)


def header_to_bytes(header: Header) -> bytes:
    """The fields of `header` in order, without length and CRC."""
    return b"".join(_write_value(field.metadata, getattr(header, field.name)) for field in dataclasses.fields(header))


# --- items: varint count, then per item width, height, bytes of caption and of name; then the texts -----------------


def items_to_bytes(items: tuple[Item, ...]) -> bytes:
    """A byte 0 and the items as they are, or a byte 1, varint size of that, and it deflated: what is shorter."""
    texts = [(item, item.caption.encode(), item.name.encode()) for item in items]
    plain = varint(len(items)) + b"".join(
        varint(item.original_width) + varint(item.original_height) + varint(len(caption)) + varint(len(name))
        for item, caption, name in texts
    )
    plain += b"".join(caption + name for _, caption, name in texts)
    if len(plain) > MAX_ITEM_BYTES:
        raise invalid("captions", "exceed 16 MiB together", "shorten them or write several files")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    packed = varint(len(plain)) + deflate.compress(plain) + deflate.flush()
    return b"\x01" + packed if len(packed) < len(plain) else b"\x00" + plain


def items_from_bytes(reader: Reader) -> tuple[Item, ...]:
    """The inverse of `items_to_bytes`."""
    if reader.take(1, "captions")[0] not in (0, 1):
        raise reader.error("captions", "are packed in an unknown way")
    plain = _inflate(reader) if reader.data[0] else reader.take(reader.remaining, "captions")
    reader = Reader(plain, reader.source)
    count = reader.varint("number of items", MAX_ITEMS, 1)
    if 4 * count > reader.remaining:
        raise reader.error("number of items", f"{count} do not fit")
    sizes = []
    for _ in range(count):
        size = [reader.varint(name, 65536, 1) for name in ("original_width", "original_height")]
        sizes.append((*size, reader.varint("caption", MAX_CAPTION), reader.varint("name", MAX_NAME)))
    items = []
    for width, height, caption, name in sizes:
        text = _read_text(reader, "caption", caption)
        items.append(Item(text, width, height, _read_text(reader, "name", name)))
    reader.end("captions")
    return tuple(items)


def _inflate(reader: Reader) -> bytes:
    """Raw deflate of a declared size, which is bounded and never exceeded while unpacking."""
    size = reader.varint("captions", MAX_ITEM_BYTES, 1)
    inflate = zlib.decompressobj(-15)
    try:
        plain = inflate.decompress(reader.take(reader.remaining, "captions"), size + 1)
    except zlib.error as error:
        raise reader.error("captions", "do not unpack") from error
    if len(plain) != size or not inflate.eof or inflate.unused_data or inflate.unconsumed_tail:
        raise reader.error("captions", "do not unpack to the size they claim")
    return plain
