"""Targets: the container, the noise section behind it, and whole files against tiny models."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzzing import edits, models
from tests.fuzzing.judge import Broken, Target
from vov import VovError, bitstream
from vov.adapter.adapt import AdapterSpec, layer_shapes, project
from vov.bitstream import Header, Item
from vov.bitstream.container import ITEMS, NOISE, THETA, frame, unframe
from vov.bitstream.header import header_to_bytes, items_to_bytes
from vov.bitstream.noise_code import FIELDS, TRELLIS, NoiseCode
from vov.bitstream.reader import varint
from vov.bitstream.symbols import MAX_SYMBOLS, encode_symbols
from vov.decoding import decode as decoding

BASES = {
    name: bitstream.read(models.GOLDEN / f"{name}.vov")
    for name in ("video_theta", "video_noise", "album_theta", "image_noise")
}
BYTES = {name: (models.GOLDEN / f"{name}.vov").read_bytes() for name in BASES}


# --- the container: fields of right length and CRC, anything in them ------------------------------------------------


def _mended(name: str) -> st.SearchStrategy[bytes]:
    header, sections = unframe(BYTES[name], name)
    return st.builds(
        lambda head, *parts: frame(head, dict(zip(sections, parts, strict=True))),
        edits.changed(header, 2),
        *(edits.changed(part, 2) for part in sections.values()),
    )


def mended_beside(data: bytes, random: Random) -> bytes:
    """A file of which one part has a few other bytes, all checksums right."""
    header, sections = unframe(data, "fuzz.vov")
    which = random.choice([0, *sections])
    sections = {kind: edits.beside(part, random) if kind == which else part for kind, part in sections.items()}
    return frame(header if which else edits.beside(header, random), sections)


def read_container(data: bytes, folder: Path) -> None:
    """Parses; what is accepted must be written as it was read."""
    found = bitstream.from_bytes(data, "fuzz.vov")
    if bitstream.from_bytes(bitstream.to_bytes(found)).header != found.header:
        raise Broken("the header is not what was written")


# --- the noise section ----------------------------------------------------------------------------------------------


@st.composite
def noise_sections(draw, steps: int, size: int, items: int) -> bytes:
    """A section whose fields may contradict each other, the header and the plan; sometimes with changed bytes."""

    def pick(low: int, high: int) -> int:
        return draw(st.sampled_from(sorted({low, high, min(high, low + 1), min(high, 8)})) | st.integers(low, high))

    near = {
        "steps": (1, steps),
        "first": (0, steps - 1),
        "bits": (1, 8),
        "block": (0, size),
        "eta": (0, 256),
        "theta_steps": (0, steps),
        "start": (0, 1023),
        "end": (0, 1023),
        "branch": (1, 9),
    }
    values = {
        name: pick(*(near.get(name, bounds) if draw(st.integers(0, 7)) else bounds)) for name, bounds in FIELDS.items()
    }
    if draw(st.booleans()):  # most files have neither
        values["start"] = values["end"] = 0
    version = b"\x03" if values["kind"] == TRELLIS else b"\x02"
    if version == b"\x02":
        del values["branch"]
    cells = values["steps"] * (-(-size // values["block"]) if values["block"] else 1)
    runs, done = [], 0
    while done < cells and len(runs) < 6:
        length = draw(st.integers(1, max(1, min(cells - done, 1 << 20)))) if len(runs) < 5 else cells - done
        runs.append((length, draw(st.sampled_from([0, 0, 1, 1, 2, 3, 511, 512, 513, 1024]))))
        done += length
    total = sum(length * atoms for length, atoms in runs) * items
    top = min(1 << values.get("branch", values["bits"] + values["signed"]), 1 << 20)
    symbols = np.random.default_rng(draw(st.integers(0, 99))).integers(0, top, min(total, 1 << 14)).astype(np.int32)
    if total > len(symbols):
        symbols = np.zeros(min(total, MAX_SYMBOLS), np.int32)  # a table of one symbol: a few bytes for any number
    section = b"".join(
        [
            version,
            *(varint(value) for value in values.values()),
            varint(len(runs)),
            *(varint(length - 1) + varint(atoms) for length, atoms in runs),
        ]
    ) + encode_symbols(symbols)
    return draw(edits.changed(section, 2)) if draw(st.integers(0, 3)) == 0 else section


@st.composite
def noise_cases(draw) -> tuple[bytes, Header, int, int]:
    steps, size, items = draw(st.sampled_from([(6, 256, 1), (1, 64, 1), (50, 1024, 3), (6, 17, 2)]))
    base = BASES["video_noise"].header
    sigmas = draw(
        st.just(())
        | st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8, unique=True).map(
            lambda levels: tuple(sorted(levels, reverse=True))
        )
    )
    header = dataclasses.replace(
        base, decode_steps=steps, sigmas=sigmas, sampler=draw(st.sampled_from(["euler", "euler", "unipc"]))
    )
    return draw(noise_sections(steps, size, items)), header, size, items


def read_noise(case: tuple[bytes, Header, int, int], folder: Path) -> None:
    """Reads a section; what is accepted is written and read as the same."""
    section, header, size, items = case
    code = NoiseCode.from_bytes(section, header, size, items, "fuzz.vov: noise")
    again = NoiseCode.from_bytes(code.to_bytes(), header, size, items)
    if not (np.array_equal(again.plan, code.plan) and np.array_equal(again.symbols, code.symbols)):
        raise Broken("a noise code is not what was written")


# --- whole files against a model ------------------------------------------------------------------------------------

SIDE = st.sampled_from([16, 32, 32, 48, 64]) | st.sampled_from([1, 15, 17, 24, 40])
SIZE = st.sampled_from([1, 2, 16, 31, 33, 48, 64, 640, 4096, 16384, 65535, 65536]) | st.integers(1, 65536)
FIELD = {
    "model_id": st.sampled_from(["tiny-wan", "tiny-qwen", "Qwen/Qwen-Image", "../tiny-wan", "x"]),
    "fingerprint": st.binary(min_size=8, max_size=8),
    "tree": st.sampled_from(["image", "video"]),
    "dtype": st.sampled_from(["bfloat16", "float16", "bfloat16-fp8", "float32-nf4"]),
    "lora_preset": st.sampled_from(["qkvo", "qkv", "qkvo_mlp", "all", "\0", "x" * 64]),
    "last_k": st.sampled_from([1, 2, 3, 30, 4096]),
    "rank": st.sampled_from([1, 2, 8, 24, 25, 48, 49, 500, 4096]),
    "theta_length": st.sampled_from([1, 2, 16, 299, 301, 5000, 65536, 1 << 20, MAX_SYMBOLS]),
    "proj_seed": st.sampled_from([0, 43, 2**63, 2**64 - 1]),
    "index_hash": st.binary(min_size=8, max_size=8),
    "step": st.sampled_from([2.0**-100, 1e-6, 1.0, 1e3, 1e10, 2.0**99]),
    "width": SIDE,
    "height": SIDE,
    "num_frames": st.sampled_from([1, 2, 4, 5, 9, 13, 125, 129, 133, 65533, 65536]),
    "fps": st.sampled_from([0.0, 1e-38, 1e-20, 0.5, 29.97, 1000.0]),
    "resize": st.sampled_from(["crop", "stretch", "pad"]),
    "sampler": st.sampled_from(["euler", "unipc"]),
    "decode_steps": st.integers(1, 6),
    "shift": st.sampled_from([0.0, 1e-45, 1e-38, 1e-10, 0.5, 1.0, 3.0, 12.0, 1000.0]),
    "sigmas": st.lists(
        st.sampled_from([0.0, 1e-45, 1e-7, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1, width=32), max_size=6
    ).map(tuple),
    "seed": st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    "guidance": st.sampled_from([0.0, 0.5, 1.0, 1.5, 5.0, 1000.0]),
    "negative_prompt": st.sampled_from(["", "blurry", " ", "猫"]),
}
MENDED = ("rank", "last_k", "theta_length", "proj_seed", "lora_preset")  # what the index hash depends on


@functools.cache
def index_hash(tree: str, *spec: Any) -> bytes:
    """What an honest writer would have put into the header; of hopeless settings anything."""
    backbone = models.backbone(tree)
    try:
        asked = AdapterSpec(*spec)
        return project(asked, layer_shapes(asked, backbone, backbone.transformer)).hash
    except (VovError, MemoryError):
        return bytes(8)


@st.composite
def whole_files(draw, tree: str) -> bytes:
    """A file for the tiny model of a tree: one to three header fields, the items or the noise are not as they were."""
    base = BASES[draw(st.sampled_from([name for name, stream in BASES.items() if stream.header.tree == tree]))]
    values = draw(edits.replaced(vars(base.header), FIELD))
    spec = [values[name] for name in ("rank", "theta_length", "last_k", "lora_preset", "proj_seed")]
    if values["index_hash"] == base.header.index_hash and draw(st.integers(0, 9)):
        values["index_hash"] = index_hash(tree, *spec)
    header = object.__new__(Header)  # unchecked: the reader's checks are on trial
    for name, value in values.items():
        object.__setattr__(header, name, value)
    length = values["theta_length"]
    symbols = np.zeros(length, np.int32) if length > 5000 else np.resize(base.symbols, length)
    if draw(st.integers(0, 9)) == 0:
        symbols = np.full(length, draw(st.sampled_from([-129, -128, 128, 129, 2**31 - 1])), np.int32)
    items = base.items
    if draw(st.integers(0, 3)) == 0:
        items = tuple(
            Item(
                draw(st.sampled_from([item.caption, "", "another", "a b c"])),
                draw(SIZE),
                draw(SIZE),
                draw(st.sampled_from([item.name, "b/c.png", "x"])),
            )
            for item in items
        )
    sections = {ITEMS: items_to_bytes(items), THETA: encode_symbols(symbols)}
    kind = draw(st.integers(0, 3))
    if kind == 0 or (kind < 3 and base.noise is not None):
        size = 16 * (values["num_frames"] + 3) // 4 * (values["width"] // 8) * (values["height"] // 8) or 1
        steps = max(1, len(values["sigmas"]) - 1 if values["sigmas"] else values["decode_steps"])
        sections[NOISE] = (
            base.noise
            if kind == 1 and base.noise
            else draw(noise_sections(steps, size if tree == "video" else max(1, size // 4), len(items)))
        )
    return frame(header_to_bytes(header), sections)


def decode(tree: str, data: bytes, folder: Path) -> None:
    """Decodes a file; what is accepted gives as many frames of just the size that it names."""
    path = folder / "case.vov"
    path.write_bytes(data)
    try:
        clips = decoding.decode(path, models.backbone(tree))
    finally:
        path.unlink()
    stream = bitstream.from_bytes(data)
    for clip, item in zip(clips, stream.items, strict=True):
        header = stream.header
        wanted = (
            (header.width, header.height) if header.resize == "crop" else (item.original_width, item.original_height)
        )
        if clip.size != wanted or len(clip.frames) != header.num_frames:
            raise Broken(f"{clip.frames.shape} decoded, {wanted} promised")


TARGETS = [
    Target("container", st.sampled_from(sorted(BASES)).flatmap(_mended), read_container, 200, mended_beside),
    Target("noise section", noise_cases(), read_noise, 200, edits.beside),
    Target("header against decoder, video", whole_files("video"), functools.partial(decode, "video"), 20),
    Target("header against decoder, image", whole_files("image"), functools.partial(decode, "image"), 20),
]
