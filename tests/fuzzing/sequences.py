"""Targets: the sections of a sequence, and whole sequences against a tiny model."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from random import Random

import numpy as np
from hypothesis import strategies as st

from tests.fuzzing import edits, models
from tests.fuzzing.files import FIELD, index_hash
from tests.fuzzing.judge import Broken, Target
from vov import bitstream
from vov.bitstream import Header, Item
from vov.bitstream.container import CHUNKS, ITEMS, SCENES, frame, unframe
from vov.bitstream.header import header_to_bytes, items_to_bytes
from vov.bitstream.noise_code import FIELDS
from vov.bitstream.reader import varint
from vov.bitstream.sequence_code import NOISE_FIELDS, atoms, from_sections, to_sections
from vov.bitstream.symbols import encode_symbols
from vov.decoding.decode import Decoder, read

BASE = bitstream.read(models.GOLDEN / "video_sequence.vov")
DATA = (models.GOLDEN / "video_sequence.vov").read_bytes()
HEADER, SECTIONS = unframe(DATA, "golden")
MOST = 1 << 14  # bytes of symbols that a case writes; a section that promises more is cut off


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


@st.composite
def sections(draw, header: Header | None = None) -> tuple[bytes, bytes, int]:
    """Scenes and chunks whose numbers may contradict each other and the header; and how many captions they want."""
    header, near = header or BASE.header, draw(st.integers(0, 3))
    steps = header.decode_steps
    usual = {"eta": (0, 256), "first": (0, 1), "steps": (1, steps), "start": (0, 0), "end": (0, 120)}
    noise = {}
    for name in NOISE_FIELDS:
        low, high = usual[name] if near else FIELDS[name]
        noise[name] = draw(st.integers(low, high) | st.sampled_from([low, high]))
    bits = draw(st.tuples(*[st.sampled_from([1, 4, 8, 8, 12, 24]) if near else st.integers(0, 255)] * 2))
    branch = draw(st.sampled_from([0, 0, 1, 2, 5, 25, 26]))
    scenes, profiles = [], []
    for _ in range(draw(st.integers(1, 3))):
        count, size = draw(st.integers(1, 3)), draw(st.sampled_from([noise["steps"]] * 9 + [1, 0]))
        profile = np.array(draw(st.lists(st.sampled_from([0, 1, 128, 200, 254, 255]), min_size=min(size, 9),
                                         max_size=min(size, 9))) or [0], np.int32)
        profile = np.resize(profile, max(1, min(size, 4096)))
        length = draw(st.sampled_from([0, 0, 0, header.theta_length, 1, 2**24, 2**30]))
        theta = b""
        if length:
            step = draw(st.sampled_from([1e-3, 1.0, 0.0, 1e-38, 3e38, float("nan"), -1.0]))
            symbols = draw(st.sampled_from([0, 1, -128, 128, 129])) * np.ones(min(length, 5000), np.int32)
            theta = struct.pack("<f", step) + _sized(encode_symbols(symbols))
        scenes.append(varint(count) + _sized(encode_symbols(profile)) + varint(length) + theta)
        profiles += [profile] * count
    heads, bodies = b"", b""
    for number, profile in enumerate(profiles):
        chained = bool(number) and draw(st.booleans()) if near else draw(st.booleans())
        frames = draw(st.integers(1, header.num_frames - chained or 1) if near else edits.WHOLE.map(lambda n: abs(n)))
        scale = draw(st.sampled_from([0, 100, 200, 320, 640]) if near else st.integers(0, 900))
        heads += varint(min(2 * frames + chained, 2**63)) + varint(scale)
        if len(profile) == noise["steps"]:
            most, width = (4096, branch) if branch else (512, bits[chained] + 1)
            size = -(-int(atoms(profile, min(scale, 832 if branch else 640), most).sum()) * width // 8)
            bodies += draw(st.sampled_from([b"\0", b"\0", b"\x5a", b"\xff"])) * min(size, MOST)
    version = draw(st.sampled_from([3] * 9 + [2, 4, 5]) if branch else st.sampled_from([1] * 9 + [0, 2]))
    head = bytes([version]) + b"".join(map(varint, [*noise.values(), *[branch] * (version > 2)])) + bytes(bits)
    return head + varint(len(scenes)) + b"".join(scenes), heads + bodies, len(scenes)


def read_sections(case: tuple[bytes, bytes, int], folder: Path) -> None:
    """Reads scenes and chunks; what is accepted is written and read as the same."""
    scenes, chunks, count = case
    items = (Item("", 32, 32),) * count
    code = from_sections(scenes, chunks, BASE.header, items, "fuzz.vov")
    again = to_sections(code)
    if to_sections(from_sections(*again, BASE.header, items, "fuzz.vov")) != again:
        raise Broken("a sequence is not what was written")


def container_beside(data: bytes, random: Random) -> bytes:
    """A sequence of which one part has a few other bytes, all checksums right."""
    header, parts = unframe(data, "fuzz.vov")
    which = random.choice([0, *parts])
    parts = {kind: edits.beside(part, random) if kind == which else part for kind, part in parts.items()}
    return frame(header if which else edits.beside(header, random), parts, 2)


def read_container(data: bytes, folder: Path) -> None:
    """Parses; what is accepted must be written as it was read."""
    found = bitstream.from_bytes(data, "fuzz.vov")
    again = bitstream.from_bytes(bitstream.to_bytes(found))
    if again.header != found.header or to_sections(again.sequence) != to_sections(found.sequence):
        raise Broken("a sequence is not what was written")


@st.composite
def whole_files(draw) -> tuple[bytes, int, int | None]:
    """A sequence for the tiny model with other header fields or sections, and which frames are asked for."""
    values = draw(edits.replaced(vars(BASE.header), FIELD, 2))
    spec = [values[name] for name in ("rank", "theta_length", "last_k", "lora_preset", "proj_seed")]
    if values["index_hash"] == BASE.header.index_hash and draw(st.integers(0, 9)):
        values["index_hash"] = index_hash("video", *spec)
    header = object.__new__(Header)  # unchecked: the reader's checks are on trial
    for name, value in values.items():
        object.__setattr__(header, name, value)
    scenes, chunks, count = SECTIONS[SCENES], SECTIONS[CHUNKS], len(BASE.items)
    if draw(st.integers(0, 2)):
        scenes, chunks, count = draw(sections(header))
    size = draw(st.sampled_from([(32, 32), (32, 32), (48, 40), (1, 1), (65536, 65536)]))
    items = tuple(Item(draw(st.sampled_from(["", "a b"])), *size) for _ in range(count))
    data = frame(header_to_bytes(header), {ITEMS: items_to_bytes(items), SCENES: scenes, CHUNKS: chunks}, 2)
    return data, draw(st.sampled_from([0, 0, 0, 1, 3, -1, 10**6])), draw(st.sampled_from([None, None, 1, 2, 0, 10**6]))


def decode(case: tuple[bytes, int, int | None], folder: Path) -> None:
    """Decodes a sequence; what is accepted gives as many frames of just the size that it names."""
    data, first, count = case
    stream = read(data, "video")
    if stream.sequence is None:
        return
    with Decoder(stream, models.backbone("video")) as decoder:
        frames = list(decoder.frames(0, first, count))
    wanted = stream.sequence.frames - first if count is None else count
    item, header = stream.items[0], stream.header
    size = (header.height, header.width) if header.resize == "crop" else (item.original_height, item.original_width)
    if len(frames) != wanted or any(one.shape[:2] != size for one in frames):
        raise Broken(f"{len(frames)} frames decoded, {wanted} of {size} promised")


TARGETS = [
    Target("sequence container", st.just(DATA).map(functools.partial(bytes)), read_container, 60, container_beside),
    Target("scenes and chunks", sections(), read_sections, 60,
           lambda case, random: edits.beside(case[:2], random) + case[2:] if random.randrange(2)
           else (case[0], edits.beside(case[1], random), case[2])),
    Target("sequence against decoder", whole_files(), decode, 10),
]
