"""Anchors: real encoders, elementary streams, sizes matched, frames decoded from the bytes that are counted."""

import numpy as np
import pytest
import torch

from tests.clips import panning, photograph
from vov import VovError, metrics
from vov.evaluation import anchors, bdrate, explicit
from vov.evaluation.perceptual import Unavailable
from vov.media import Clip

FAST = {"x264": "veryfast", "x265": "ultrafast", "svtav1": "10", "vvc": "faster"}
# first bytes: start code and parameter set; an AV1 temporal delimiter
BEGINNINGS = {"x264": b"\0\0\0\1\x67", "x265": b"\0\0\0\1\x40", "svtav1": b"\x12\0", "vvc": b"\0\0\0\1\0"}


@pytest.mark.parametrize("name", anchors.VIDEO_CODECS)
def test_video_streams_are_elementary_and_decode_to_the_clip(name, tmp_path):
    clip = panning(9, 97, 131)  # odd sizes, which 4:2:0 does not have
    encoded = anchors.encode(anchors.CODECS[name], clip, 9, 25.0, 24, FAST[name], tmp_path)
    data = encoded.path.read_bytes()
    assert data.startswith(BEGINNINGS[name]) and encoded.bytes == len(data)
    assert b"x264" not in data and b"x265" not in data  # no SEI advertising, which small files would pay for
    decoded = np.stack(list(encoded.open()))
    assert decoded.shape == clip.shape and decoded.dtype == np.uint8
    assert metrics.psnr(clip, decoded) > 27
    assert np.abs(decoded.mean((0, 1, 2)) - clip.mean((0, 1, 2))).max() < 2  # the colour matrix of the way back
    assert encoded.command.startswith("ffmpeg") and FAST[name] in encoded.command


@pytest.mark.parametrize("name", ["x264", "svtav1"])
def test_sizes_match_the_targets_and_trials_are_removed(name, tmp_path):
    clip = panning(9, 96, 128)
    points = anchors.anchor_points(name, FAST[name], clip, 9, 25.0, [1500, 4000], tmp_path)
    assert [p.bytes <= target for p, target in zip(points, (1500, 4000), strict=True)] == [True, True]
    finer = anchors.encode(anchors.CODECS[name], clip, 9, 25.0, points[0].quality - 1, FAST[name], tmp_path / "finer")
    assert finer.bytes > 1500
    assert sorted(p.path.name for p in points) == sorted(p.name for p in tmp_path.glob("q*"))


def test_match_size_asks_few_questions_and_never_far_too_fine():
    asked = []

    def size_at(quality):
        asked.append(quality)
        return int(2 ** (20 - quality / 6.3))

    chosen = anchors.match_size(size_at, 1, 51, 20_000)
    assert size_at(chosen) <= 20_000 < size_at(chosen - 1)
    assert len(asked) < 9 and min(asked) > 25
    assert anchors.match_size(size_at, 1, 51, 10) == 51
    assert anchors.match_size(size_at, 1, 51, 10**9) == 1


@pytest.mark.parametrize("name", anchors.IMAGE_CODECS)
def test_pictures_decode_from_files_of_about_the_target(name, tmp_path):
    picture = photograph(128, 161)
    (point,) = anchors.anchor_points(name, anchors.CODECS[name].preset, [picture], 1, 1.0, [3000], tmp_path)
    assert 2000 < point.bytes <= 3000
    (decoded,) = list(point.open())
    assert metrics.psnr(picture, decoded) > 24
    overhead = point.path.stat().st_size - point.bytes
    assert overhead == {"jpeg": 0, "webp": 20}.get(name, overhead) and 0 <= overhead < 400


def test_codecs_of_pictures_refuse_clips(tmp_path):
    with pytest.raises(VovError, match="single pictures"):
        anchors.encode(anchors.CODECS["jpeg"], panning(3, 32, 32), 3, 25.0, 50, "", tmp_path)


@pytest.mark.parametrize(("name", "preset"), [("x264", "warp9"), ("webp", "fast"), ("jxl", "12")])
def test_an_unknown_preset_is_one_line_and_leaves_nothing(name, preset, tmp_path):
    with pytest.raises(VovError, match=f"`anchors`={name}=") as caught:
        anchors.encode(anchors.CODECS[name], [photograph(64, 64)], 1, 25.0, 30, preset, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_anchor_names():
    assert anchors.parse_anchors("x265, vvc=faster") == [("x265", "slow"), ("vvc", "faster")]
    assert [name for name, _ in anchors.parse_anchors("video,explicit")] == [*anchors.VIDEO_CODECS, "explicit"]
    assert anchors.parse_anchors("") == anchors.parse_anchors("none") == []
    with pytest.raises(VovError, match="'mpeg2' is not one of x264"):
        anchors.parse_anchors("mpeg2")


def test_a_stream_cut_short_is_an_error(tmp_path):
    encoded = anchors.encode(anchors.CODECS["x264"], panning(9, 64, 64), 9, 25.0, 30, "veryfast", tmp_path)
    encoded.path.write_bytes(encoded.path.read_bytes()[:200])
    with pytest.raises(VovError, match=r"frame . of 9 cannot be decoded"):
        list(encoded.open())


class Blocks:
    """An autoencoder whose latents are 4×4 block means: enough to see the container and the rate work."""

    unit = 4

    def encode(self, frames):
        x = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 64 - 2
        return torch.nn.functional.avg_pool3d(x, (1, 4, 4))

    def decode(self, latents):
        x = torch.nn.functional.interpolate(latents, scale_factor=(1, 4, 4))
        return ((x + 2) * 64).round().clamp(0, 255).byte()[0].permute(1, 2, 3, 0).numpy()

    def fingerprint(self):
        return b"blocks__"


def test_explicit_latents_are_real_bytes_decoded_from_the_file(tmp_path):
    clip = Clip(panning(6, 63, 81), 25.0)  # neither 4n+1 frames nor multiples of the unit
    sizes, quality = [], []
    targets = (900, 2000, 4500)
    for path, target in zip(explicit.encode(clip, Blocks(), targets, tmp_path), targets, strict=True):
        decoded = explicit.decode_file(path, Blocks())
        assert decoded.frames.shape == clip.frames.shape and decoded.fps == 25
        sizes.append(path.stat().st_size)
        quality.append(metrics.psnr(clip.frames, decoded.frames))
        assert sizes[-1] == pytest.approx(target, rel=0.06)
    assert quality == sorted(quality) and quality[-1] > quality[0] + 1


def test_explicit_symbols_survive_exactly_and_damage_is_seen(tmp_path):
    symbols = np.random.default_rng(0).integers(-5, 6, (4, 3, 5, 6), dtype=np.int32)
    data = explicit.to_bytes(explicit.Explicit(symbols, 0.5, 48, 40, 9, 24.0, b"12345678"))
    found = explicit.from_bytes(data)
    assert np.array_equal(found.symbols, symbols) and (found.step, found.width, found.frames) == (0.5, 48, 9)
    for place in (0, 4, 20, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(VovError):
            explicit.from_bytes(bytes(damaged))
    with pytest.raises(VovError):
        explicit.from_bytes(data[:30])
    path = tmp_path / "a.vlq"
    path.write_bytes(data)
    with pytest.raises(VovError, match="another model"):
        explicit.decode_file(path, Blocks())


def test_explicit_latents_of_the_real_autoencoder(tiny_wan, tmp_path):
    from vov.model.wan import WanBackbone

    backbone = WanBackbone.load(str(tiny_wan), "", "cpu", "float32", True)
    clip = Clip(panning(5, 48, 64), 24.0)
    (path,) = explicit.encode(clip, backbone, [400], tmp_path)
    latents = backbone.encode(clip.frames)[0].numpy()
    stored = explicit.from_bytes(path.read_bytes())
    assert np.array_equal(stored.symbols, explicit.quantise(latents, stored.step))
    assert explicit.decode_file(path, backbone).frames.shape == clip.frames.shape
    assert path.stat().st_size == pytest.approx(400, rel=0.1)


def test_bd_rate_of_half_the_bytes_is_minus_50_per_cent():
    anchor = [(1, 30.0), (2, 33.0), (4, 36.0), (8, 38.0)]
    half = [(rate / 2, value) for rate, value in anchor]
    assert bdrate.bd_rate(anchor, half) == pytest.approx(-50, abs=1e-6)
    better = [(rate, value + 1.5) for rate, value in anchor]
    assert bdrate.bd_metric(anchor, better) == pytest.approx(1.5, abs=1e-6)
    lower = [(rate, 1 / value) for rate, value in anchor]
    assert bdrate.bd_rate(lower, [(r / 2, v) for r, v in lower], "lpips_vgg") == pytest.approx(-50, abs=1e-6)
    assert bdrate.bd_metric(lower, [(r, v - 0.01) for r, v in lower], "dists") == pytest.approx(-0.01, abs=1e-6)


def test_bd_rate_says_when_there_is_nothing_to_compare():
    with pytest.raises(Unavailable, match="two rising points"):
        bdrate.bd_rate([(1, 30.0)], [(1, 30.0), (2, 32.0)])
    with pytest.raises(Unavailable, match="share no range of quality"):
        bdrate.bd_rate([(1, 30.0), (2, 32.0)], [(1, 40.0), (2, 42.0)])
    with pytest.raises(Unavailable, match="share no range of rates"):
        bdrate.bd_metric([(1, 30.0), (2, 32.0)], [(10, 30.0), (20, 32.0)])


def test_x265_survives_the_width_that_its_cutree_does_not(tmp_path):
    clip = panning(5, 40, 48)
    encoded = anchors.encode(anchors.CODECS["x265"], clip, 5, 24.0, 30, "slow", tmp_path)
    assert metrics.psnr(clip, np.stack(list(encoded.open()))) > 25


def test_an_encoder_that_crashes_is_said_to_have_crashed(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\ncat > /dev/null\necho 'free(): invalid size' >&2\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(anchors, "ffmpeg", lambda: str(program))
    with pytest.raises(VovError, match=r"HEVC \(x265\) crashed with frames of 48×40 \(SIGABRT, free.*leave x265 out"):
        anchors.encode(anchors.CODECS["x265"], panning(2, 40, 48), 2, 24.0, 30, "slow", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]
