"""Integers to bytes and back: a table of counts, and rANS (compressai's) against it.

Used for theta, for the noise indices and for the explicit quantised-latents baseline. Everything is exact integer
arithmetic, so encoder and decoder agree on every machine. Input from a stranger is bounded before anything is
allocated, and either decodes to exactly what was encoded or raises VovError.

Coded symbols = one table per row, then the payload.

    table     varint (length << 2 | kind), zigzag varint minimum, then by kind
      CONSTANT  nothing: every symbol is `minimum`                                       length 0
      PACKED    nothing: symbols - minimum are written in `length` bits each             length 1-32
      COUNTS    one code per symbol value, from `minimum` on                             length 2-4096
      RUNS      the same, but a code 0 is followed by a byte: that many further zeros
    payload   of each PACKED row: its bits, most significant first, zero-padded to a byte;
              then of all COUNTS and RUNS rows together, row after row: rANS streams of at most 2^20 symbols (equal
              parts, to within one symbol), each but the last preceded by its length in bytes (varint)

A code is an 8-bit float for a count: c < 16 is c itself, else (16 + c mod 16) << (c div 16 - 1); rounding a count to
it is off by at most 3 %, which costs about 0.0001 bits per symbol. Zero marks a symbol that does not occur.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from types import ModuleType

import numpy as np

from vov import VovError
from vov.bitstream.reader import Reader, varint, zigzag

MAX_SYMBOLS = 1 << 24  # per call, over all rows
MAX_TABLE = 4096  # distinct values a table of counts may span
MAX_ROWS = 4096
CONSTANT, PACKED, COUNTS, RUNS = range(4)

_PRECISION = 16  # of compressai's rANS
_CHUNK = 1 << 20  # symbols per rANS stream: bounds the memory of the decoder
_RANS_MINIMUM = 16  # compressai's encoder writes out of bounds below 4 symbols; packing is smaller there anyway
_RANS_LOWEST_STATE = 1 << 31


@dataclass(frozen=True)
class Table:
    """How the symbols of one row are coded; kind is CONSTANT, PACKED or COUNTS.

    width: bits per symbol of a PACKED row. codes: of a COUNTS row, one byte per symbol value from `minimum` on.
    """

    kind: int
    minimum: int
    width: int = 0
    codes: bytes = b""

    @staticmethod
    def of_counts(symbols: np.ndarray) -> Table | None:
        """The table of counts of `symbols` (int32 [n], n >= 1); None when they span more than 4096 values."""
        low, high = int(symbols.min()), int(symbols.max())
        if low == high:
            return Table(CONSTANT, low)
        if high - low >= MAX_TABLE:
            return None
        counts = np.bincount((symbols - low).ravel())
        return Table(COUNTS, low, codes=_float_codes(counts))

    @staticmethod
    def of_width(symbols: np.ndarray) -> Table:
        """The table that packs `symbols` (int32 [n], n >= 1) in as many bits as their range needs."""
        low, high = int(symbols.min()), int(symbols.max())
        return Table(PACKED if high > low else CONSTANT, low, width=(high - low).bit_length())

    def to_bytes(self) -> bytes:
        """The table as it stands in the file; of the two ways to write counts the shorter one."""
        if self.kind != COUNTS:
            return varint(self.width << 2 | self.kind) + zigzag(self.minimum)
        runs = _write_runs(self.codes)
        kind, body = (RUNS, runs) if len(runs) < len(self.codes) else (COUNTS, self.codes)
        return varint(len(self.codes) << 2 | kind) + zigzag(self.minimum) + body

    @staticmethod
    def read(reader: Reader) -> Table:
        """The next table. Raises VovError unless `to_bytes` could have written it."""
        head = reader.varint("table", MAX_TABLE << 2 | 3)
        kind, length = head & 3, head >> 2
        minimum = reader.zigzag("table minimum")
        if kind in (CONSTANT, PACKED):
            if not (length == 0 if kind == CONSTANT else 1 <= length <= 32):
                raise reader.error("table", f"has width {length}")
            table = Table(kind, minimum, width=length)
        else:
            if length < 2:
                raise reader.error("table", "holds fewer than two values")
            codes = reader.take(length, "table") if kind == COUNTS else _read_runs(reader, length)
            if not (codes[0] and codes[-1]):
                raise reader.error("table", "begins or ends with a symbol that does not occur")
            table = Table(COUNTS, minimum, codes=codes)
        if minimum + len(table.codes) > 1 << 31:
            raise reader.error("table", "goes beyond 32 bits")
        return table

    @functools.cached_property
    def alphabet(self) -> tuple[np.ndarray, list[int]]:
        """(symbol values by falling frequency int32 [k], compressai's cumulative table: 0 … 65536, 65536).

        Frequencies are in 1 … 65536, sum 65536. The most frequent comes first because compressai's decoder searches
        from the front. The last interval is compressai's escape symbol; it is empty, so that no payload leads to it.
        """
        weights = _float_values(self.codes)
        present = np.flatnonzero(weights)
        frequencies = _frequencies(weights[present])
        order = np.argsort(-frequencies, kind="stable")
        cumulative = np.concatenate(([0], np.cumsum(frequencies[order]), [1 << _PRECISION]))
        return (present[order] + self.minimum).astype(np.int32), cumulative.tolist()


def encode_symbols(symbols: np.ndarray) -> bytes:
    """Integers in ±2^31, [n] or [rows, n] with one table per row, as bytes; `decode_symbols` reads them."""
    return b"".join(encode_parts(symbols))


def encode_parts(symbols: np.ndarray) -> tuple[bytes, bytes]:
    """`encode_symbols` as (tables, payload), to account for them apart.

    Of two ways, counts and packing, the one with fewer bytes in all is taken. With counts the payload is at most 0.5 %
    and 16 bytes above the empirical entropy (0.02 % and 12 bytes for 131,072 symbols of 2 bits), except when nearly
    all of a million symbols are equal: a symbol rarer than 2^-16 is coded as if it were that frequent.
    """
    rows = np.atleast_2d(np.asarray(symbols))
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer) or rows.size > MAX_SYMBOLS or len(rows) > MAX_ROWS:
        raise VovError(f"symbols: {rows.dtype} {list(rows.shape)} cannot be coded; at most 2^24 integers, [rows, n]")
    if rows.size == 0:
        return b"", b""
    if int(rows.min()) < -(1 << 31) or int(rows.max()) >= 1 << 31:
        raise VovError("symbols: values beyond 32 bits cannot be coded; clamp them")
    rows = rows.astype(np.int64)
    choices = [_encode_with([Table.of_width(row) for row in rows], rows)]
    counted = [table for row in rows if (table := Table.of_counts(row))]
    if len(counted) == len(rows) and sum(table.kind == COUNTS for table in counted) * rows.shape[1] >= _RANS_MINIMUM:
        choices.append(_encode_with(counted, rows))
    return min(choices, key=lambda parts: len(parts[0]) + len(parts[1]))


def decode_symbols(data: bytes, shape: int | Sequence[int], source: str = "coded symbols") -> np.ndarray:
    """int32 symbols of `shape` ([n] or [rows, n]) from `encode_symbols`'s bytes; `source` names the file in errors.

    Raises VovError unless `data` is exactly what an encoder with these tables writes for the symbols returned.
    Takes about 100 bytes of memory per symbol of one rANS stream, and the result.
    """
    reader = Reader(data, source)
    rows, n = read_shape(reader, shape)
    tables = read_tables(reader, rows if n else 0)
    return decode_payload(reader, tables, n).reshape(shape)


def read_shape(reader: Reader, shape: int | Sequence[int]) -> tuple[int, int]:
    """`shape` as (rows, n); VovError when it is out of bounds."""
    rows, count = (1, shape) if isinstance(shape, int) else (1, *shape)[-2:]
    if min(rows, count) < 0 or rows > MAX_ROWS or rows * count > MAX_SYMBOLS:
        raise reader.error("number of symbols", f"{shape} is out of bounds")
    return rows, count


def read_tables(reader: Reader, rows: int) -> list[Table]:
    """The tables of `rows` rows, leaving `reader` at the payload."""
    return [Table.read(reader) for _ in range(rows)]


def decode_payload(reader: Reader, tables: list[Table], n: int) -> np.ndarray:
    """int32 [rows, n] from everything that is left in `reader`."""
    out = np.empty((len(tables), n), dtype=np.int32)
    counted = []
    for row, table in enumerate(tables):
        if table.kind == PACKED:
            out[row] = _unpack(reader, table, n)
        elif table.kind == CONSTANT:
            out[row] = table.minimum
        else:
            counted.append(row)
    if counted:
        out[counted] = _rans_decode(reader, [tables[row] for row in counted], n)
    reader.end("payload")
    return out


def _encode_with(tables: list[Table], rows: np.ndarray) -> tuple[bytes, bytes]:
    """(tables, payload) of int64 [rows, n]."""
    payload = [_pack(row - t.minimum, t.width) for t, row in zip(tables, rows, strict=True) if t.kind == PACKED]
    counted = [row for row, table in enumerate(tables) if table.kind == COUNTS]
    if counted:
        payload.append(_rans_encode([tables[row] for row in counted], rows[counted]))
    return b"".join(table.to_bytes() for table in tables), b"".join(payload)


@functools.cache
def _rans() -> ModuleType:
    """compressai's extension module by itself: importing the package would load all its models, for ten seconds."""
    package = importlib.util.find_spec("compressai")
    spec = PathFinder.find_spec("compressai.ans", package.submodule_search_locations) if package else None
    if spec is None or spec.loader is None:
        raise VovError("compressai is not installed; run scripts/setup.sh")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rans_encode(tables: list[Table], rows: np.ndarray) -> bytes:
    places = []
    for table, row in zip(tables, rows, strict=True):
        values = table.alphabet[0]
        place_of = np.zeros(len(table.codes), dtype=np.int32)
        place_of[values.astype(np.int64) - table.minimum] = np.arange(len(values))
        places.append(place_of[row - table.minimum])
    places, indexes, cumulative, sizes, offsets = _rans_inputs(tables, rows.shape[1], np.concatenate(places))
    streams = []
    for part in _chunks(len(places)):
        args = places[part].tolist(), indexes[part].tolist(), cumulative, sizes, offsets
        streams.append(_rans().RansEncoder().encode_with_indexes(*args))
    return b"".join(varint(len(stream)) + stream for stream in streams[:-1]) + streams[-1]


def _rans_decode(reader: Reader, tables: list[Table], n: int) -> np.ndarray:
    total = len(tables) * n
    if total < _RANS_MINIMUM:
        raise reader.error("payload", f"{total} symbols are too few for a table of counts")
    places, indexes, cumulative, sizes, offsets = _rans_inputs(tables, n, np.empty(total, dtype=np.int32))
    chunks = _chunks(total)
    for part in chunks:
        last = part.stop == total
        stream = reader.take(reader.remaining if last else reader.varint("payload", 4 * _CHUNK), "payload")
        if int.from_bytes(stream[:8], "little") < _RANS_LOWEST_STATE or len(stream) % 4:
            raise reader.error("payload", "is not a coded stream")
        # compressai reads on without looking at the length: at most 4 bytes a symbol, here zeros.
        padded = stream + bytes(4 * (part.stop - part.start) + 64)
        index = indexes[part].tolist()
        found = _rans().RansDecoder().decode_with_indexes(padded, index, cumulative, sizes, offsets)
        if _rans().RansEncoder().encode_with_indexes(found, index, cumulative, sizes, offsets) != stream:
            raise reader.error("payload", "does not decode")
        places[part] = found
    first = np.cumsum([0] + [len(table.alphabet[0]) for table in tables[:-1]])
    alphabets = np.concatenate([table.alphabet[0] for table in tables])
    return alphabets[places.reshape(len(tables), n) + first[:, None]]


def _rans_inputs(tables: list[Table], n: int, places: np.ndarray) -> tuple:
    """compressai's arguments: symbols as places in their row's alphabet, index of the row, tables, sizes, offsets."""
    cumulative = [table.alphabet[1] for table in tables]
    indexes = np.repeat(np.arange(len(tables), dtype=np.int32), n)
    return places, indexes, cumulative, [len(c) for c in cumulative], [0] * len(tables)


def _chunks(total: int) -> list[slice]:
    """Equal parts of at most 2^20 symbols, so that none is too small for compressai's encoder."""
    count = -(-total // _CHUNK)
    edges = [total * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _pack(values: np.ndarray, width: int) -> bytes:
    """Non-negative int64 [n] in `width` bits each, most significant first, zero-padded to a byte."""
    places = np.arange(width - 1, -1, -1)
    parts = [values[i : i + (1 << 16)] for i in range(0, len(values), 1 << 16)]
    return b"".join(np.packbits((part[:, None] >> places & 1).astype(np.uint8)).tobytes() for part in parts)


def _unpack(reader: Reader, table: Table, n: int) -> np.ndarray:
    """The inverse of `_pack`, plus the table's minimum; int64 [n] within 32 bits."""
    data = reader.take(-(-n * table.width // 8), "payload")
    weights = 1 << np.arange(table.width - 1, -1, -1)
    out = np.empty(n, dtype=np.int64)
    for start in range(0, n, 1 << 16):  # 2^16 values fill whole bytes whatever the width
        count = min(1 << 16, n - start)
        piece = np.frombuffer(data, np.uint8, -(-count * table.width // 8), start * table.width // 8)
        out[start : start + count] = np.unpackbits(piece, count=count * table.width).reshape(count, -1) @ weights
    if n * table.width % 8 and data[-1] & (1 << -n * table.width % 8) - 1:
        raise reader.error("payload", "is not zero-padded")
    out += table.minimum
    if n and out.max() > 0x7FFFFFFF:
        raise reader.error("payload", "goes beyond 32 bits")
    return out


def _float_codes(counts: np.ndarray) -> bytes:
    """8-bit float codes of non-negative counts, scaled down together if the largest has more than 19 bits."""
    shift = max(0, int(counts.max()).bit_length() - 19)
    scaled = np.where(counts > 0, np.maximum(counts >> shift, 1), 0)
    exponent = np.maximum(np.frexp(scaled)[1] - 5, 0)  # of a 5-bit mantissa; frexp is exact below 2^53
    mantissa = scaled + (1 << exponent >> 1) >> exponent  # 32, when rounded up, is the next exponent's 16
    return np.minimum(16 * exponent + mantissa, 255).astype(np.uint8).tobytes()


def _float_values(codes: bytes) -> np.ndarray:
    """int64 weights in [0, 31 · 2^14] of 8-bit float codes."""
    code = np.frombuffer(codes, np.uint8).astype(np.int64)
    return np.where(code < 16, code, 16 + code % 16 << np.maximum(code // 16 - 1, 0))


def _frequencies(weights: np.ndarray) -> np.ndarray:
    """Integers >= 1 that sum to 65536 in proportion to positive int64 weights [k], 2 <= k <= 4096.

    Largest remainders, first come first served when equal; what the lower bound of 1 costs is taken, one at a time,
    from whichever is largest. Integers throughout: weights stay below 2^19, so products below 2^35.
    """
    total = 1 << _PRECISION
    share, remainder = np.divmod(weights * total, int(weights.sum()))
    missing = total - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:missing]] += 1
    share = np.maximum(share, 1)
    for _ in range(int(share.sum()) - total):
        share[np.argmax(share)] -= 1
    return share


def _write_runs(codes: bytes) -> bytes:
    """Codes with every run of 1-256 zeros as two bytes: 0, length - 1."""
    out = bytearray()
    position = 0
    while position < len(codes):
        out.append(codes[position])
        if codes[position] == 0:
            run = 1
            while run < 256 and codes[position + run : position + run + 1] == b"\0":
                run += 1
            out.append(run - 1)
            position += run
        else:
            position += 1
    return bytes(out)


def _read_runs(reader: Reader, length: int) -> bytes:
    """The inverse of `_write_runs`: exactly `length` codes."""
    out = bytearray()
    while len(out) < length:
        code = reader.take(1, "table")
        out += code if code[0] else bytes(reader.take(1, "table")[0] + 1)
    if len(out) != length:
        raise reader.error("table", "is longer than it says")
    return bytes(out)
