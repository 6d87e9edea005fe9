"""Claims about the symbol coder: exact, close to the entropy, fast, and safe with any input."""

import tracemalloc

import numpy as np
import pytest

from vov import VovError
from vov.bitstream.reader import Reader, varint, zigzag
from vov.bitstream.symbols import (
    CONSTANT,
    COUNTS,
    PACKED,
    Table,
    decode_symbols,
    encode_parts,
    encode_symbols,
    read_tables,
)
from vov.fitting.rate import empirical_bits


def clamp(values):
    return np.clip(np.rint(values), -128, 128).astype(np.int32)


SOURCES = {
    "normal": lambda rng, n: clamp(rng.normal(size=n) * 1.4),
    "wide normal": lambda rng, n: clamp(rng.normal(size=n) * 60),
    "laplacian": lambda rng, n: clamp(rng.laplace(size=n) * 2),
    "sparse": lambda rng, n: clamp(rng.laplace(size=n) * 4 * (rng.random(n) < 0.02)),
    "constant": lambda rng, n: np.full(n, -7, np.int32),
    "bimodal": lambda rng, n: clamp(rng.normal(size=n) + np.where(rng.random(n) < 0.3, -100, 110)),
    "uniform": lambda rng, n: rng.integers(-128, 129, n, dtype=np.int32),
    "two symbols": lambda rng, n: (rng.random(n) < 0.9).astype(np.int32),
    "one outlier": lambda rng, n: np.where(np.arange(n) == n // 2, 128, 0).astype(np.int32),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 15, 16, 17, 100, 1024, 131_072, 1 << 20])
def test_symbols_survive_at_about_their_entropy(source, n):
    symbols = SOURCES[source](np.random.default_rng(n), n)
    table, payload = encode_parts(symbols)
    found = decode_symbols(table + payload, n)
    assert found.dtype == np.int32 and np.array_equal(found, symbols)
    limit = 1.005 * empirical_bits(symbols) / 8 + 16
    read = Table.read(Reader(table, "table"))
    if read.kind == PACKED:  # a few scattered symbols: then no table of counts is worth its bytes
        assert len(table) + len(payload) <= limit + len(Table.of_counts(symbols).to_bytes())
    else:
        assert len(payload) <= limit
    assert len(table) <= 261


def test_few_symbols_cost_few_bytes():
    rng = np.random.default_rng(0)
    assert len(encode_symbols(np.full(131_072, 5))) == 2
    assert len(encode_symbols(np.zeros(1, int))) == 2
    assert len(encode_parts(rng.integers(-1, 2, 1000))[0]) <= 5
    gaps = np.where(rng.random(5000) < 0.01, 128, rng.integers(-2, 3, 5000))  # runs of unused values are short
    gaps[0] = -128
    assert len(encode_parts(gaps)[0]) <= 16


def test_uniform_indices_cost_their_bits():
    """Noise indices: 10 bits each, no table."""
    indices = np.random.default_rng(0).integers(0, 1024, 4000)
    indices[:2] = 0, 1023
    assert len(encode_symbols(indices)) <= 5000 + 4
    wide = np.array([-(2**31), 2**31 - 1, 0])
    assert np.array_equal(decode_symbols(encode_symbols(wide), 3), wide)


def test_rows_have_their_own_tables():
    """Quantised latents: one table per channel, one stream."""
    rng = np.random.default_rng(0)
    rows = np.stack([clamp(rng.normal(size=4000) * scale) for scale in (0, 0.3, 1, 8, 40)])
    data = encode_symbols(rows)
    assert np.array_equal(decode_symbols(data, rows.shape), rows)
    assert len(data) <= sum(empirical_bits(row) for row in rows) / 8 * 1.005 + 16 + 350
    assert np.array_equal(decode_symbols(encode_symbols(rows[:, :3]), (5, 3)), rows[:, :3])


@pytest.mark.parametrize("shape", [0, (0, 5), (5, 0)])
def test_nothing_costs_nothing(shape):
    assert encode_symbols(np.zeros(shape, int)) == b""
    assert decode_symbols(b"", shape).size == 0


def test_frequencies_are_exact_and_never_zero():
    rng = np.random.default_rng(0)
    for n, scale in ((20, 1), (5000, 0.2), (5000, 900), (1 << 20, 700)):
        symbols = np.rint(rng.normal(size=n) * scale).astype(int)
        table = Table.of_counts(symbols) or Table.of_counts(symbols % 4096)
        values, cumulative = table.alphabet
        assert cumulative[0] == 0 and cumulative[-1] == cumulative[-2] == 65536
        assert min(np.diff(cumulative[:-1])) >= 1
        assert len(values) == len(cumulative) - 2
        if n < 100_000:
            assert set(symbols if Table.of_counts(symbols) else symbols % 4096) == set(values.tolist())


def test_small_counts_are_kept_exactly():
    symbols = np.repeat(np.arange(5), [1, 7, 16, 31, 9])
    assert Table.of_counts(symbols).codes == bytes([1, 7, 16, 31, 9])


def test_a_table_survives():
    for symbols in (np.array([3, 3, 3]), np.array([-9, 4, 4, 4]), np.arange(-128, 129)):
        table = Table.of_counts(symbols)
        reader = Reader(table.to_bytes(), "table")
        assert Table.read(reader) == table and reader.remaining == 0


def test_golden_bytes():
    """The format as it was first released; a change here makes old files unreadable."""
    few = np.array([0, 1, 0, -1, 2])
    many = np.where(np.arange(60) % 10 == 3, 1, 0)
    gaps = np.where(np.arange(60) == 50, 90, many)
    assert encode_symbols(few).hex() == "090164c0"
    assert encode_symbols(many).hex() == "05001004010040100400"
    assert encode_symbols(gaps).hex() == "ef02002b06005701bac81d0305000000b4955ee6"
    assert encode_symbols(np.stack([many, 0 * many])).hex() == "050000001004010040100400"


def outcome(data, shape):
    """The symbols, or None for a VovError; anything else fails the test."""
    try:
        return decode_symbols(data, shape)
    except VovError as error:
        assert str(error).startswith("coded symbols: ") and "\n" not in str(error) and ";" in str(error)
        return None


def test_any_bytes_decode_to_what_they_encode_or_are_refused():
    rng = np.random.default_rng(1)
    valid = [encode_symbols(SOURCES[name](rng, n)) for name in SOURCES for n in (7, 40, 700)]
    refused = 0
    for trial in range(6000):
        data = bytearray(valid[trial % len(valid)])
        match trial % 4:
            case 0:
                data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            case 1:
                del data[rng.integers(len(data)) :]
            case 2:
                data = bytearray(rng.bytes(rng.integers(60)))
            case 3:
                data[rng.integers(len(data))] = rng.integers(256)
                data += rng.bytes(rng.integers(6))
        n = (7, 40, 700)[trial % 3]
        found = outcome(bytes(data), n)
        refused += found is None
        if found is not None:  # what was accepted is a faithful code of its symbols
            reader = Reader(bytes(data), "fuzz")
            read_tables(reader, 1)
            assert found.shape == (n,) and np.array_equal(decode_symbols(encode_symbols(found), n), found)
    assert refused > 3000


def test_hostile_streams():
    counts = varint(2 << 2 | COUNTS) + zigzag(0) + b"\x01\x01"
    for payload in (b"", bytes(8), bytes(4), b"\xff" * 8, b"\xff" * 4000, bytes(4000)):
        assert outcome(counts + payload, 1000) is None
    assert outcome(counts + bytes(8), 2) is None  # too few for rANS
    assert outcome(varint(4097 << 2 | COUNTS) + zigzag(0) + bytes(5000), 100) is None
    assert outcome(varint(2 << 2 | COUNTS) + zigzag(2**31 - 1) + b"\x01\x01", 100) is None
    assert outcome(varint(33 << 2 | PACKED) + zigzag(0) + bytes(400), 10) is None
    assert outcome(varint(32 << 2 | PACKED) + zigzag(5) + b"\xff" * 40, 10) is None
    assert outcome(varint(CONSTANT) + zigzag(5), 1 << 25) is None
    assert outcome(b"\x80" * 20, 5) is None


def test_a_tiny_file_that_claims_the_most_is_bounded():
    """2^24 symbols in about 50 bytes: legal, a few seconds, and under 256 MiB of Python's memory."""
    symbols = np.zeros(1 << 21, np.int32)
    symbols[5] = 1
    data = encode_symbols(symbols)
    assert len(data) < 60
    tracemalloc.start()
    assert np.array_equal(decode_symbols(data, symbols.size), symbols)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_wrong_input_is_one_line():
    for symbols in (np.zeros(4), np.zeros((2, 2, 2), int), np.array([2**31]), np.zeros((5000, 1), int)):
        with pytest.raises(VovError, match="cannot be coded"):
            encode_symbols(symbols)
