"""Claims about the .vov container."""

import dataclasses
import subprocess
import sys
import zlib

import numpy as np
import pytest

from vov import VovError
from vov.bitstream import Bitstream, Header, Item, from_bytes, parts, read, to_bytes, write
from vov.bitstream.container import ITEMS, NOISE, THETA, frame, unframe
from vov.bitstream.header import header_to_bytes
from vov.bitstream.reader import varint
from vov.fitting.rate import empirical_bits

CAPTION = "A basketball player in a white shirt dribbles past two defenders; the camera pans right. " * 6


def header(**changes):
    fields = dict(
        tree="video",
        model_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        fingerprint=bytes(range(8)),
        dtype="bfloat16",
        lora_preset="qkvo",
        last_k=30,
        rank=1,
        theta_length=16,
        proj_seed=42,
        index_hash=b"\xff" * 8,
        step=0.0031,
        width=832,
        height=480,
        num_frames=81,
        fps=50.0,
        resize="crop",
        sampler="euler",
        decode_steps=4,
        shift=3.0,
        seed=2**64 - 1,
    )
    return Header(**(fields | changes))


def stream(symbols=None, **changes):
    symbols = np.array([0, 1, -1, 0, 2, 0, 0, 1] * 2) if symbols is None else symbols
    item = Item("A red ball.", 1920, 1080)
    fields = dict(header=header(theta_length=len(symbols)), items=(item,), symbols=symbols)
    return Bitstream(**(fields | changes))


def same(left, right):
    assert left.header == right.header and left.items == right.items
    assert left.noise == right.noise and left.extra == right.extra
    assert np.array_equal(left.symbols, right.symbols) and right.symbols.dtype == np.int32


def images(count):
    return tuple(Item(f"Bild {i}: größer, 猫 🐈", 640 + i, 480, f"kodak/kodim{i:02}.png") for i in range(count))


@pytest.mark.parametrize(
    "bitstream",
    [
        stream(),
        stream(noise=b"", extra={0x80: b"later", 0xFF: b""}),
        stream(noise=bytes(1000)),
        stream(items=images(24), header=header(tree="image", num_frames=1, fps=0)),
        stream(header=header(sigmas=(1.0, 0.5, 0.25, 0.0), guidance=5.0, negative_prompt="blurry\n", theta_length=16)),
        stream(items=(Item("", 1, 1),)),
        stream(items=(Item(CAPTION, 1, 65536, "carphone.mp4"),)),
    ],
)
def test_what_is_written_is_read(bitstream, tmp_path):
    sizes = write(tmp_path / "a.vov", bitstream)
    same(bitstream, read(tmp_path / "a.vov"))
    assert sizes == parts(tmp_path / "a.vov")
    assert sizes.total == (tmp_path / "a.vov").stat().st_size
    assert to_bytes(read(tmp_path / "a.vov")) == (tmp_path / "a.vov").read_bytes()


@pytest.mark.parametrize("scale", [0.5, 1.5, 60, 1e9])
def test_a_full_size_file_spends_its_bytes_on_theta(scale, tmp_path):
    rng = np.random.default_rng(0)
    symbols = np.clip(np.rint(rng.normal(size=131_072) * scale), -128, 128).astype(np.int32)
    sizes = write(tmp_path / "a.vov", stream(symbols, items=(Item(CAPTION, 1920, 1080, "clip.mp4"),)))
    assert sizes.theta <= 1.005 * empirical_bits(symbols) / 8 + 16
    assert sizes.header + sizes.table + sizes.framing <= 400
    assert sizes.header <= 120 and sizes.framing <= 40
    assert sizes.captions < len(CAPTION) / 3


def test_every_field_has_its_place_and_changes_the_file():
    base = to_bytes(stream())
    changes = dict(
        tree="image", model_id="other", fingerprint=b"12345678", dtype="float16", lora_preset="qkv", last_k=29, rank=2,
        proj_seed=43, index_hash=b"87654321", step=0.01, width=128, height=128, num_frames=17, fps=24.5, resize="pad",
        sampler="unipc", decode_steps=50, shift=0.0, sigmas=(1.0, 0.5), seed=7, guidance=6.0, negative_prompt="no",
    )  # fmt: skip
    assert set(changes) | {"theta_length"} == {field.name for field in dataclasses.fields(Header)}
    for name, value in changes.items():
        data = to_bytes(stream(header=header(**{name: value})))
        assert data != base
        assert getattr(from_bytes(data).header, name) == (np.float32(value) if name == "step" else value)


def test_floats_are_float32_from_the_start():
    assert header(step=0.1).step == float(np.float32(0.1))


def test_golden_bytes():
    """The format as it was first released; a change here makes old files unreadable."""
    assert to_bytes(stream(noise=b"\x01\x02")).hex() == (
        "89564f56016103012057616e2d41492f57616e322e312d5432562d312e33422d446966667573657273000102030405060701"
        "04716b766f1e01102affffffffffffffff5f294b3bc006e00351000048420000040000404000ffffffffffffffffff010000"
        "803f00c54ef1d901130001800fb8080b0041207265642062616c6c2e58c4147a0206090161d661d6cc425409030201022637"
        "120a"
    )


BAD_FIELDS = [
    dict(tree="audio"),
    dict(model_id=""),
    dict(model_id="x" * 257),
    dict(model_id="\ud800"),
    dict(fingerprint=b"short"),
    dict(rank=0),
    dict(rank=1.5),
    dict(theta_length=2**24 + 1),
    dict(proj_seed=-1),
    dict(seed=2**64),
    dict(step=0.0),
    dict(step=float("nan")),
    dict(fps=-1),
    dict(width=16385),
    dict(width=16384, height=16384, num_frames=65536),
    dict(sigmas=(0.5, float("inf"))),
    dict(sigmas=(0.5,) * 1025),
    dict(sigmas=(0.5,)),
    dict(sigmas=(0.5, 0.5)),
    dict(sigmas=(0.0, 1.0)),
    dict(decode_steps=0),
]


@pytest.mark.parametrize("change", BAD_FIELDS)
def test_a_bad_field_is_named(change):
    with pytest.raises(VovError) as caught:
        header(**change)
    assert str(caught.value).startswith((*change, "num_frames")) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Item("x" * 16385, 1, 1),
        lambda: Item("\udfff", 1, 1),
        lambda: Item("x", 0, 1),
        lambda: Item("x", 1, 65537),
        lambda: Item("x", 1, 1, "/etc/passwd"),
        lambda: Item("x", 1, 1, "../up"),
        lambda: Item("x", 1, 1, "a//b"),
        lambda: Item("x", 1, 1, "a\\b"),
        lambda: Item("x", 1, 1, "C:x"),
        lambda: Item("x", 1, 1, "a\x1b[2Jb"),
        lambda: stream(np.array([129])),
        lambda: stream(np.array([0.5])),
        lambda: stream(items=()),
        lambda: stream(items=images(2)),
        lambda: stream(extra={3: b""}),
        lambda: stream(header=header(theta_length=17)),
        lambda: to_bytes(
            stream(items=tuple(Item("x" * 16384, 1, 1) for _ in range(1024)), header=header(tree="image"))
        ),
    ],
)
def test_bad_contents_are_refused_before_writing(make):
    with pytest.raises(VovError):
        make()


def test_missing_and_foreign_files_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "empty.vov").touch()
    for name in ("none.vov", "a.png", "empty.vov", "."):
        with pytest.raises(VovError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_a_newer_version_says_so():
    data = bytearray(to_bytes(stream()))
    data[4] = 9
    with pytest.raises(VovError, match="version: is 9"):
        from_bytes(bytes(data))


def test_unknown_sections_are_skipped_only_if_they_may_be():
    head, sections = unframe(to_bytes(stream()), "x")
    assert from_bytes(frame(head, sections | {0x81: b"new"})).extra == {0x81: b"new"}
    with pytest.raises(VovError, match="may not be skipped"):
        from_bytes(frame(head, sections | {4: b"new"}))
    for missing in (ITEMS, THETA):
        with pytest.raises(VovError, match="is missing"):
            from_bytes(frame(head, {kind: data for kind, data in sections.items() if kind != missing}))


def refused(data):
    """True for VovError with one line that names the source; False when it reads; any other exception fails."""
    try:
        from_bytes(data, "fuzz.vov")
    except VovError as error:
        assert str(error).startswith("fuzz.vov: ") and "\n" not in str(error) and "; " in str(error)
        return True
    return False


FUZZED = [
    to_bytes(stream(noise=b"\x01\x02\x03", extra={0x90: b"abc"})),
    to_bytes(stream(items=images(24), header=header(tree="image", num_frames=1, sigmas=(1.0, 0.5)))),
    to_bytes(stream(np.random.default_rng(0).integers(-3, 4, 700), items=(Item(CAPTION, 1920, 1080, "a.mp4"),))),
]


@pytest.mark.parametrize("data", FUZZED)
def test_every_truncation_is_refused(data):
    assert all(refused(data[:length]) for length in range(len(data)))
    assert refused(data + b"\0")


@pytest.mark.parametrize("data", FUZZED)
def test_every_flipped_bit_is_refused(data):
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        assert refused(bytes(damaged))


def test_random_bytes_are_refused():
    rng = np.random.default_rng(2)
    assert all(refused(rng.bytes(rng.integers(200))) for _ in range(1000))
    assert all(refused(FUZZED[0][: rng.integers(6)] + rng.bytes(rng.integers(200))) for _ in range(1000))


def test_damage_behind_repaired_checksums_reads_as_something_valid_or_is_refused():
    rng = np.random.default_rng(3)
    accepted = 0
    for trial in range(6000):
        head, sections = unframe(FUZZED[trial % 3], "x")
        pieces = {0: head, **sections}
        target = int(rng.choice(list(pieces)))
        damaged = bytearray(pieces[target])
        for _ in range(rng.integers(1, 4)):
            position = rng.integers(len(damaged) + 1)
            match rng.integers(4):
                case 0 if len(damaged):
                    damaged[position % len(damaged)] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
                case 1:
                    del damaged[position : position + rng.integers(1, 9)]
                case 2:
                    damaged[position:position] = rng.bytes(rng.integers(1, 9))
                case 3:
                    damaged[position : position + 10] = varint(1 << int(rng.integers(64)))
        pieces[target] = bytes(damaged)
        accepted += not refused(frame(pieces.pop(0), pieces))
    assert 300 < accepted < 5000  # opaque noise and harmless numbers pass, the rest does not


def test_captions_are_no_zip_bomb():
    head, sections = unframe(to_bytes(stream()), "x")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(bytes(200 << 20)) + deflate.flush()
    for claimed in (100, 1 << 24, 1 << 40):
        assert refused(frame(head, sections | {ITEMS: b"\x01" + varint(claimed) + bomb}))
    assert refused(frame(head, sections | {ITEMS: b"\x00" + varint(65536) + bytes(8)}))


def test_theta_and_header_must_agree():
    head, sections = unframe(to_bytes(stream()), "x")
    other = header_to_bytes(header(theta_length=1 << 24))
    assert refused(frame(other, sections))
    assert refused(frame(head, sections | {THETA: unframe(FUZZED[2], "x")[1][THETA]}))
    assert refused(frame(head, sections | {NOISE: b"", ITEMS: unframe(FUZZED[1], "x")[1][ITEMS]}))


def test_the_module_prints_every_field_and_part(tmp_path):
    sizes = write(tmp_path / "a.vov", stream(items=(Item("Zwei\nZeilen \x1b[2J", 8, 9, "b.mp4"),)))
    run = [sys.executable, "-W", "ignore", "-m", "vov.bitstream"]
    done = subprocess.run([*run, tmp_path / "a.vov"], capture_output=True, text=True)
    assert done.returncode == 0
    for field in dataclasses.fields(Header):
        assert field.name in done.stdout and field.metadata["help"] in done.stdout
    assert "\x1b" not in done.stdout and "Zwei\\nZeilen" in done.stdout and "b.mp4" in done.stdout
    assert f"bytes of header    {sizes.header}" in done.stdout
    done = subprocess.run([*run, tmp_path / "b.vov"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path / 'b.vov'}: ")
