"""Claims about pixel I/O, on files made here."""

import subprocess

import imageio
import numpy as np
import pytest
from PIL import Image

from vov import VovError, media
from vov.evaluation import anchors


def picture(height=30, width=40, seed=0):
    ramp = np.linspace(0, 255, height)[:, None, None] * np.ones((1, width, 3))
    return (ramp + np.random.default_rng(seed).normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)


def test_png_frames_come_back_to_the_bit_in_natural_order(tmp_path):
    frames = [picture(seed=i) for i in range(12)]
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"f{i}.png")
    assert np.array_equal(media.read_clip(tmp_path).frames, np.stack(frames))
    assert len(media.read_clip(tmp_path, 5).frames) == 5


def test_a_video_keeps_its_size_rate_and_nearly_its_pixels(tmp_path):
    frames = np.stack([picture(33, 47, seed=0)] * 6)  # odd sizes
    media.write_video(tmp_path / "a.mp4", frames, 12.5, crf=1)
    clip = media.read_clip(tmp_path / "a.mp4")
    assert clip.fps == pytest.approx(12.5) and clip.frames.shape == (6, 34, 48, 3)
    assert np.abs(clip.frames[:, :33, :47].astype(int) - frames).mean() < 12  # chroma is subsampled
    rows = np.abs(clip.frames[:, :33, :47].mean(axis=(2, 3)) - frames.mean(axis=(2, 3)))
    assert rows.max() < 3
    media.write_video(tmp_path / "b.mp4", frames, 12.5, crf=1)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_alpha_grey_sixteen_bit_palette_and_rotation_become_eight_bit_rgb(tmp_path):
    rgba = np.dstack([np.full((4, 6, 3), 10, np.uint8), np.zeros((4, 6), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert (media.read_image(tmp_path / "rgba.png") == 255).all()  # fully transparent: the white behind it
    deep = (np.arange(24).reshape(4, 6) * 2800).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(media.read_image(tmp_path / "deep.png")[..., 1], np.rint(deep / 257).astype(np.uint8))
    Image.fromarray(picture()[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(media.read_image(tmp_path / "grey.png")[..., 2], picture()[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270°
    Image.fromarray(picture()).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(media.read_image(tmp_path / "turned.png"), np.rot90(picture(), 3))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_rate_of_a_video_is_the_one_it_was_written_with(tmp_path, suffix):
    """Matroska keeps milliseconds, too coarse for 1001/30000 of a second."""
    with imageio.get_writer(tmp_path / f"a.{suffix}", format="FFMPEG", fps=30000 / 1001, codec="libx264",
                            ffmpeg_log_level="error") as writer:
        for seed in range(9):
            writer.append_data(picture(32, 48, seed))
    source = media.FrameSource(tmp_path / f"a.{suffix}")
    assert len(source) == len(list(source)) == 9
    assert source.fps == pytest.approx(30000 / 1001, rel=1e-6)


def test_frames_that_an_edit_list_cuts_away_do_not_exist(tmp_path):
    media.write_video(tmp_path / "a.mp4", np.stack([picture(32, 48, i) for i in range(12)]), 10)
    subprocess.run([anchors.ffmpeg(), "-v", "error", "-ss", "0.45", "-i", str(tmp_path / "a.mp4"), "-c", "copy",
                    str(tmp_path / "b.mp4")], check=True)
    source = media.FrameSource(tmp_path / "b.mp4")
    assert len(source) == len(list(source)) == 7


def test_a_video_cut_short_is_not_taken_for_a_shorter_clip(tmp_path):
    media.write_video(tmp_path / "a.mp4", np.stack([picture(64, 96, i) for i in range(12)]), 10)
    subprocess.run([anchors.ffmpeg(), "-v", "error", "-i", str(tmp_path / "a.mp4"), "-c", "copy", "-movflags",
                    "faststart", str(tmp_path / "b.mp4")], check=True)
    data = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[:len(data) // 2])  # the index in front still promises twelve
    with pytest.raises(VovError, match=r"b\.mp4: damaged or cut short after \d+ frames"):
        media.FrameSource(tmp_path / "b.mp4")


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (16, 16), (48, 48)])
def test_pad_and_stretch_are_undone_to_the_original_size(width, height):
    frames = np.stack([picture(27, 41)] * 2)
    for mode in ("pad", "stretch", "crop"):
        fitted = media.fit_geometry(frames, width, height, mode)
        assert fitted.shape == (2, height, width, 3)
        restored = media.restore_geometry(fitted, 41, 27, mode)
        assert restored.shape == (fitted.shape if mode == "crop" else frames.shape)
    if width >= 41 and height >= 27:
        assert np.array_equal(media.restore_geometry(media.fit_geometry(frames, width, height, "pad"), 41, 27, "pad"),
                              frames)


def test_a_crop_keeps_the_centre_and_the_aspect():
    frames = np.zeros((1, 40, 100, 3), np.uint8)
    frames[:, 10:30, 40:60] = 255  # a centred square stays one
    fitted = media.fit_geometry(frames, 32, 32, "crop")[0, :, :, 0] > 127
    rows, columns = np.flatnonzero(fitted.any(1)), np.flatnonzero(fitted.any(0))
    assert len(rows) == len(columns) == 16 and rows[0] == columns[0] == 8


def test_bad_input_is_one_line_that_names_the_path(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "noise.png").write_bytes(b"not a picture")
    mixed = tmp_path / "mixed"
    media.write_frames(mixed, [picture()])
    media.write_image(mixed / "00001.png", picture(31))
    for path, message in (("missing", "no such"), ("empty", "no images"), ("noise.mp4", "not a readable video"),
                          ("noise.png", "not a readable image"), ("mixed", "one size")):
        with pytest.raises(VovError, match=message) as caught:
            media.read_clip(tmp_path / path)
        assert str(tmp_path / path) in str(caught.value) and "\n" not in str(caught.value)
    media.write_frames(tmp_path / "three", [picture()] * 3)
    with pytest.raises(VovError, match="has 3 frames, 5 are asked for"):
        media.read_clip(tmp_path / "three", 5)


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="unknown file extension"):
        media.write_image(tmp_path / "a.nope", picture())
    assert list(tmp_path.iterdir()) == []
