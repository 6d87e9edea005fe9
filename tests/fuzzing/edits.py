"""Strategies that every target shares."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

WHOLE = (
    st.sampled_from(
        [
            -(2**63),
            -(2**31),
            -129,
            -2,
            -1,
            0,
            1,
            2,
            3,
            4,
            5,
            7,
            16,
            127,
            128,
            255,
            256,
            1000,
            4096,
            4097,
            65535,
            65536,
            2**24,
            2**31 - 1,
            2**31,
            2**32,
            2**63,
            2**64 - 1,
            2**64,
            10**30,
        ]
    )
    | st.integers()
)
REAL = (
    st.sampled_from(
        [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            2.0,
            1e-45,
            1e-38,
            1e-30,
            1e-6,
            1e6,
            1e30,
            3.4e38,
            float("inf"),
            float("-inf"),
            float("nan"),
        ]
    )
    | st.floats()
)
WORDS = st.sampled_from(
    [
        "",
        " ",
        "qkvo",
        "auto",
        "none",
        "float32",
        "euler",
        "unipc",
        "a" * 300,
        "ä",
        "猫",
        "\0",
        "\n",
        "../x",
        "/etc/passwd",
        "a/b",
        ".",
        "..",
        "x.png",
        "{}",
        "%s",
        "nan",
        "-1",
        "1e9",
        "0x10",
        "１",
        "①",
        "\u202e",
        "\ud800",
        "|",
        "#",
        '"',
        "'",
        ",",
        "=",
        "~",
        "*",
        "&a",
        "!!python/none",
    ]
)
TEXT = WORDS | st.text(max_size=20)
JUNK = st.recursive(
    st.none() | st.booleans() | WHOLE | REAL | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

EDIT = st.tuples(
    st.sampled_from(["flip", "set", "insert", "delete", "double", "cut"]),
    st.integers(0, 1 << 16),
    st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x80" * 10, b"\x7f"]),
)


def edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """`data` after some changes; places are taken modulo its length."""
    out = bytearray(data)
    for kind, place, what in edits:
        at = place % (len(out) + 1)
        match kind:
            case "flip":
                if at < len(out):
                    out[at] ^= what[0] or 1
            case "set":
                out[at : at + len(what)] = what
            case "insert":
                out[at:at] = what
            case "delete":
                del out[at : at + len(what)]
            case "double":
                out[at:at] = out[at : at + 16]
            case _:
                del out[at:]
    return bytes(out)


def beside(value: Any, random: Random) -> Any:
    """A value whose first bytes (or it, when it is bytes) have one to three changes."""
    if not isinstance(value, bytes):
        at = next(i for i, part in enumerate(value) if isinstance(part, bytes))
        return (*value[:at], beside(value[at], random), *value[at + 1 :])
    kinds = ("flip", "set", "insert", "delete", "double", "cut")
    what = (
        bytes([random.randrange(256)]),
        bytes([1 << random.randrange(8)]),
        b"\xff" * 4,
        b"\0" * 8,
        b"\x80" * 10,
        b"-",
        b"0",
        b",",
        b"|",
        b'"',
        b"\n",
        b"[",
        b"e9",
        b"nan",
        b"\xc3",
        value[: random.randrange(1, 9)],
    )
    return edited(
        value,
        [
            (random.choice(kinds), random.randrange(1 << 16), random.choice(what) or b"0")
            for _ in range(random.randrange(1, 4))
        ],
    )


LETTERS = (
    "-",
    "0",
    "9" * 12,
    ",",
    "|",
    '"',
    "'",
    "\n",
    "\r",
    "[",
    "]",
    "{",
    ":",
    "#",
    "e9",
    "nan",
    "inf",
    " ",
    "\t",
    "../",
    "/",
    ".",
    "猫",
    "é",
    "\u2028",
    "\x85",
    "\x0b",
    "\0",
    "&a",
    "*a",
    "~",
    "!",
    "%",
    "1",
    "true",
    "=",
    "\\",
    "x" * 300,
)


def text_beside(value: Any, random: Random) -> Any:
    """As `beside`, but the bytes stay text in its encoding, three times of four."""
    if not isinstance(value, bytes):
        at = next(i for i, part in enumerate(value) if isinstance(part, bytes))
        return (*value[:at], text_beside(value[at], random), *value[at + 1 :])
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not random.randrange(4) or not text:
        return beside(value, random)
    for _ in range(random.randrange(1, 4)):
        at, cut = random.randrange(len(text) + 1), random.choice((0, 0, 1, 2, 8))
        text = text[:at] + random.choice((*LETTERS, text[: random.randrange(1, 20)])) + text[at + cut :]
    return text.encode("utf-8", "replace")


ANYTHING = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    4097,
    2**31,
    2**63,
    2**64,
    10**40,
    0.0,
    -0.5,
    1e-45,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "qkvo",
    "auto",
    "float32",
    "1",
    "\0",
    "\ud800",
    "../x",
    "a" * 5000,
    [],
    {},
    [1],
    ["x"],
    [[]],
    {"a": 1},
    {"vov": []},
    "00" * 8,
    "0" * 16,
    "ab" * 8,
)


def json_beside(tree: Any, random: Random) -> Any:
    """A JSON value with one inner part gone or replaced."""
    copy = json.loads(json.dumps(tree))
    places = list(_places(copy))
    if not places:
        return random.choice(ANYTHING)
    path = random.choice(places)
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if random.randrange(4):
        inner[path[-1]] = random.choice(ANYTHING)
    else:
        del inner[path[-1]]
    return copy


VALUES = tuple(struct.pack("<f", value) for value in (0.0, 1.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"), -1e30))


def safetensors_beside(data: Any, random: Random) -> Any:
    """A safetensors file with another fact in our metadata, or another tensor."""
    if not isinstance(data, bytes):
        at = random.randrange(len(data))
        change = safetensors_beside if at == len(data) - 1 else text_beside
        return (*data[:at], change(data[at], random), *data[at + 1 :])
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        told = header.pop("__metadata__", None)
        metadata = json.loads((told or {}).get("vov", "{}"))
        tensors = {
            name: (entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
            for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return beside(data, random)
    turn = random.randrange(9)
    if turn < 4 or not tensors:
        metadata = json_beside(metadata, random)
    elif turn < 8:
        _other_tensor(tensors, random)
    else:
        return beside(data, random)
    return safetensors(tensors, None if told is None else {**told, "vov": dumped(metadata)})


def _other_tensor(tensors: Tensors, random: Random) -> None:
    """Changes type, shape, values, name or presence of one tensor."""
    name = random.choice(sorted(tensors))
    kind, shape, data = tensors.pop(name)
    match random.randrange(5):
        case 0:
            tensors[name] = {"F32": "I32", "F16": "BF16", "F64": "I64"}.get(kind, kind), shape, data
        case 1:
            count = int(np.prod(shape, dtype=np.int64))
            tensors[name] = kind, random.choice(((1, *shape), (*shape, 1), (count,), (1, count))), data
        case 2:
            at = random.randrange(len(data) // 4 + 1) * 4
            tensors[name] = kind, shape, (data[:at] + random.choice(VALUES) + data[at + 4 :])[: len(data)]
        case 3:
            tensors[name + random.choice(("x", ".default", ".0"))] = kind, shape, data
        case _:
            pass


def changed(data: bytes, most: int = 4) -> st.SearchStrategy[bytes]:
    """Bytes with 0 to `most` changes."""
    return st.lists(EDIT, max_size=most).map(lambda edits: edited(data, edits))


def replaced(
    base: Mapping[str, Any], fields: Mapping[str, st.SearchStrategy], most: int = 3
) -> st.SearchStrategy[dict]:
    """The mapping with up to `most` of its `fields` drawn anew."""

    @st.composite
    def draw_some(draw) -> dict:
        names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=most, unique=True))
        return dict(base) | {name: draw(fields[name]) for name in names}

    return draw_some()


def damaged(tree: Any) -> st.SearchStrategy[Any]:
    """A JSON value of which one inner part is gone or is something else."""
    places = list(_places(tree))

    @st.composite
    def damage(draw) -> Any:
        copy = json.loads(json.dumps(tree))
        for path in draw(st.lists(st.sampled_from(places), max_size=2)):
            inner = copy
            try:
                for key in path[:-1]:
                    inner = inner[key]
                if draw(st.booleans()):
                    inner[path[-1]] = draw(JUNK)
                else:
                    del inner[path[-1]]
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change has taken it away
        return copy

    return damage()


def _places(tree: Any, path: tuple = ()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def dumped(value: Any) -> str:
    """JSON text even of what JSON has no words for (NaN, lone surrogates)."""
    return json.dumps(value, default=str)


Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]  # name: (type, shape, bytes)
TYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


def safetensors(tensors: Tensors, metadata: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file; checks nothing."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    body = b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = dumped(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """An array as `safetensors` wants it."""
    kinds = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "float16": "F16", "uint8": "U8"}
    return kinds[values.dtype.name], values.shape, values.tobytes()


@st.composite
def any_tensor(draw) -> tuple[str, tuple[int, ...], bytes]:
    """A small tensor of any type, shape and bits."""
    kind = draw(st.sampled_from(sorted(TYPES)))
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 16, 300]), max_size=3)))
    count = int(np.prod(shape, dtype=np.int64)) * TYPES[kind]
    if count > 1 << 16:
        shape, count = (1,), TYPES[kind]
    pattern = draw(st.binary(min_size=1, max_size=16))
    return kind, shape, (pattern * (count // len(pattern) + 1))[:count]


def other_tensors(base: Tensors, names: tuple[str, ...] = ()) -> st.SearchStrategy[Tensors]:
    """The tensors with a few of them gone, replaced, or added under `names`."""

    @st.composite
    def change(draw) -> Tensors:
        found = dict(base)
        for name in draw(st.lists(st.sampled_from([*base, *names]), max_size=2)):
            if draw(st.integers(0, 3)):
                found[name] = draw(any_tensor())
            else:
                found.pop(name, None)
        return found

    return change()
