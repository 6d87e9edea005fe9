"""Strategies that every target shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from hypothesis import strategies as st

WHOLE = (
    st.sampled_from(
        [
            -(2**63), -(2**31), -129, -2, -1, 0, 1, 2, 3, 4, 5, 7, 16, 127, 128, 255, 256, 1000, 4096, 4097, 65535,
            65536, 2**24, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64, 10**30,
        ]
    )
    | st.integers()
)
REAL = (
    st.sampled_from(
        [
            0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-45, 1e-38, 1e-30, 1e-6, 1e6, 1e30, 3.4e38, float("inf"), float("-inf"),
            float("nan"),
        ]
    )
    | st.floats()
)
WORDS = st.sampled_from(
    [
        "", " ", "qkvo", "auto", "none", "float32", "euler", "unipc", "a" * 300, "ä", "猫", "\0", "\n", "../x",
        "/etc/passwd", "a/b", ".", "..", "x.png", "{}", "%s", "nan", "-1", "1e9", "0x10", "１", "①", "\u202e",
        "\ud800", "|", "#", '"', "'", ",", "=", "~", "*", "&a", "!!python/none",
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
        bytes([random.randrange(256)]), bytes([1 << random.randrange(8)]), b"\xff" * 4, b"\0" * 8, b"\x80" * 10, b"-",
        b"0", b",", b"|", b'"', b"\n", b"[", b"e9", b"nan", b"\xc3", value[: random.randrange(1, 9)],
    )
    return edited(
        value,
        [
            (random.choice(kinds), random.randrange(1 << 16), random.choice(what) or b"0")
            for _ in range(random.randrange(1, 4))
        ],
    )


LETTERS = (
    "-", "0", "9" * 12, ",", "|", '"', "'", "\n", "\r", "[", "]", "{", ":", "#", "e9", "nan", "inf", " ", "\t", "../",
    "/", ".", "猫", "é", "\u2028", "\x85", "\x0b", "\0", "&a", "*a", "~", "!", "%", "1", "true", "=", "\\", "x" * 300,
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
    None, True, False, -1, 0, 1, 2, 3, 4097, 2**31, 2**63, 2**64, 10**40, 0.0, -0.5, 1e-45, 1e308, float("nan"),
    float("inf"), "", "x", "qkvo", "auto", "float32", "1", "\0", "\ud800", "../x", "a" * 5000, [], {}, [1], ["x"],
    [[]], {"a": 1}, {"vov": []}, "00" * 8, "0" * 16, "ab" * 8,
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
