"""safetensors files as they should not be: any tensor under any name, other facts, changed bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzzing.edits import beside, dumped, json_beside, text_beside

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
