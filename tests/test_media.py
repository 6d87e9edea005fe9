"""Claims about pixel I/O, on files made here: pictures, folders, timing, geometry. Videos: test_media_video."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from vov import VovError, media
from vov.media.timing import at_constant_rate, constant_rate, first_frame
from vov.runtime.files import read_text

SAID = "INFO", "vov.media"


def picture(height=30, width=40, seed=0):
    ramp = np.linspace(0, 255, height)[:, None, None] * np.ones((1, width, 3))
    return (ramp + np.random.default_rng(seed).normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)


def test_png_frames_come_back_to_the_bit_in_natural_order(tmp_path):
    frames = [picture(seed=i) for i in range(12)]
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"f{i}.png")
    assert np.array_equal(media.read_clip(tmp_path).frames, np.stack(frames))
    assert len(media.read_clip(tmp_path, 5).frames) == 5


def test_rotation_palette_and_grey_become_upright_rgb(tmp_path):
    Image.fromarray(picture()[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(media.read_image(tmp_path / "grey.png")[..., 2], picture()[..., 0])
    exif = Image.Exif()
    for tag, turned in ((2, picture()[:, ::-1]), (3, np.rot90(picture(), 2)), (5, picture().transpose(1, 0, 2)),
                        (6, np.rot90(picture(), 3)), (8, np.rot90(picture()))):
        exif[0x0112] = tag
        Image.fromarray(picture()).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(media.read_image(tmp_path / "turned.png"), turned)
        assert media.FrameSource(tmp_path / "turned.png").info.width == turned.shape[1]
        Image.fromarray(picture()[..., 0]).save(tmp_path / "grey_turned.png", exif=exif)
        assert np.array_equal(media.read_image(tmp_path / "grey_turned.png")[..., 1], turned[..., 0])


def test_a_damaged_exif_block_is_no_reason_to_refuse(tmp_path, caplog):
    """Orientation 6 and a resolution whose rational is negative, as some cameras write it; then plain noise."""
    tiff = (b"MM\0*" + struct.pack(">IH", 8, 2) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
            + struct.pack(">HHII", 0x011A, 10, 1, 38) + struct.pack(">I", 0) + struct.pack(">ii", -1, 0))
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + tiff, quality=95)
    Image.fromarray(picture()).save(tmp_path / "b.jpg", quality=95)
    assert np.array_equal(media.read_image(tmp_path / "a.jpg"), np.rot90(media.read_image(tmp_path / "b.jpg"), 3))
    Image.fromarray(picture()).save(tmp_path / "c.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(range(40)))
    caplog.set_level(*SAID)
    assert media.read_image(tmp_path / "c.jpg").shape == (30, 40, 3)
    assert caplog.messages == [f"{tmp_path / 'c.jpg'}: its EXIF block is damaged; no rotation is applied"]


@pytest.mark.parametrize("peak", [200, 1000, 65535])
def test_sixteen_bits_are_scaled_by_their_depth_whatever_they_contain(tmp_path, peak):
    deep = np.linspace(0, peak, 24).reshape(4, 6).astype(np.uint16)
    for name in ("deep.png", "deep.tif", "deep.ppm"):
        Image.fromarray(deep).save(tmp_path / name)
        assert np.array_equal(media.read_image(tmp_path / name)[..., 1], np.rint(deep / 257).astype(np.uint8)), name


def test_floats_are_light_from_0_to_1_and_nan_is_refused(tmp_path):
    ramp = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    Image.fromarray(ramp).save(tmp_path / "f.tif")
    assert np.array_equal(media.read_image(tmp_path / "f.tif")[..., 0], np.rint(ramp * 255).astype(np.uint8))
    for value, message in ((np.nan, r"1 pixels are NaN or infinite; fill them"), (np.inf, "NaN or infinite"),
                           (212.0, r"floats from 0 to 212; scale them to 0…1")):
        ramp[1, 1] = value
        Image.fromarray(ramp).save(tmp_path / "f.tif")
        with pytest.raises(VovError, match=message):
            media.read_image(tmp_path / "f.tif")
    Image.fromarray(np.full((4, 6), 70000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(VovError, match="32-bit integers"):
        media.read_image(tmp_path / "i.tif")


def test_alpha_is_shown_on_white_in_pictures_folders_and_animations_and_said_once(tmp_path, caplog):
    caplog.set_level(*SAID)
    rgba = np.dstack([np.full((4, 6, 3), 10, np.uint8), np.full((4, 6), 51, np.uint8)])
    expected = round(10 * 0.2 + 255 * 0.8)
    for index in range(3):
        Image.fromarray(rgba).save(tmp_path / f"{index}.png")
    frames = media.read_clip(tmp_path).frames
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert caplog.messages == [f"{tmp_path}: transparent parts are shown on white"]
    still = tmp_path / "still"
    still.mkdir()
    Image.fromarray(rgba).save(still / "a.webp", lossless=True, save_all=True, exact=True,
                               append_images=[Image.fromarray(rgba + np.uint8(5))], duration=40)
    assert np.abs(media.read_clip(still / "a.webp").frames[0].astype(int) - expected).max() <= 1
    Image.fromarray(np.dstack([picture(), np.full((30, 40), 255, np.uint8)])).save(still / "opaque.png")
    caplog.clear()
    assert np.array_equal(media.read_image(still / "opaque.png"), picture()) and not caplog.messages


def test_colours_of_a_profile_are_brought_to_srgb(tmp_path, caplog):
    caplog.set_level(*SAID)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    Image.fromarray(picture()).save(tmp_path / "srgb.png", icc_profile=lab.tobytes())
    assert np.array_equal(media.read_image(tmp_path / "srgb.png"), picture()) and not caplog.messages
    # the same profile with red and blue exchanged, under another name
    data = bytearray(lab.tobytes())
    place = {bytes(data[i:i + 4]): i for i in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)}
    red, blue = place[b"rXYZ"], place[b"bXYZ"]
    data[red:red + 4], data[blue:blue + 4] = b"bXYZ", b"rXYZ"
    data = data.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")
    Image.fromarray(picture()).save(tmp_path / "swap.png", icc_profile=bytes(data))
    swapped = media.read_image(tmp_path / "swap.png")
    assert np.abs(swapped.astype(int) - picture()[..., ::-1]).mean() < 2
    assert len(caplog.messages) == 1 and "to sRGB" in caplog.messages[0]
    Image.fromarray(picture()).save(tmp_path / "broken.png", icc_profile=b"nonsense")
    assert np.array_equal(media.read_image(tmp_path / "broken.png"), picture())
    assert "profile cannot be used" in caplog.messages[1]


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_an_animated_picture_is_a_clip_with_its_own_times(tmp_path, suffix):
    frames = [np.full((16, 24, 3), 20 * i, np.uint8) for i in range(6)]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(frames[0]).save(path, save_all=True, append_images=[Image.fromarray(f) for f in frames[1:]],
                                    duration=[40] * 6, **options)
    source = media.FrameSource(path)
    assert np.array_equal(source.clip().frames, np.stack(frames)) and source.fps == pytest.approx(25)
    assert np.array_equal(next(source.read(4)), frames[4])
    assert np.array_equal(media.read_image(path), frames[0])
    Image.fromarray(frames[0]).save(path, save_all=True, append_images=[Image.fromarray(f) for f in frames[1:]],
                                    duration=[40, 40, 200, 40, 40, 40], **options)
    assert media.FrameSource(path, keep_times=True).times.tolist() == pytest.approx([0, .04, .08, .28, .32, .36])
    shown = media.read_clip(path)  # at 25 a second the third frame is shown five times
    assert shown.fps == pytest.approx(25) and shown.frames[:, 0, 0, 0].tolist() == [0, 20] + [40] * 5 + [60, 80, 100]


def test_circled_digits_are_letters(tmp_path):
    for name in ("①1.png", "②1.png", "③1.png"):
        Image.fromarray(picture()).save(tmp_path / name)
    assert [p.name for p in media.image_files(tmp_path)] == ["①1.png", "②1.png", "③1.png"]
    assert len(media.read_clip(tmp_path).frames) == 3


def test_gaps_in_numbering_are_refused_and_strides_are_not(tmp_path):
    def folder(name, *names):
        (tmp_path / name).mkdir()
        for each in names:
            Image.fromarray(picture(4, 4)).save(tmp_path / name / each)
        return tmp_path / name

    with pytest.raises(VovError, match=r"missing between 002\.png and 004\.png .*number the frames anew"):
        media.FrameSource(folder("gap", *(f"{k:03d}.png" for k in (0, 1, 2, 4, 5, 6))))
    with pytest.raises(VovError, match=r"1\.jpg and 1\.png have the same number"):
        media.FrameSource(folder("twice", "0.png", "1.png", "1.jpg", "2.png"))
    assert len(media.FrameSource(folder("stride", *(f"f{k}_x.png" for k in (10, 12, 14, 16))))) == 4
    assert len(media.FrameSource(folder("words", "sky.png", "sea.png", "a1.png", "b7.png"))) == 4


def test_what_is_no_picture_in_a_folder_is_left_alone(tmp_path):
    for index in range(3):
        Image.fromarray(picture(4, 4)).save(tmp_path / f"{index}.png")
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert len(media.FrameSource(tmp_path)) == 3


def test_bad_input_is_one_line_that_names_the_path(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "noise.png").write_bytes(b"not a picture")
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-600])
    mixed = tmp_path / "mixed"
    media.write_frames(mixed, [picture()])
    media.write_image(mixed / "00001.png", picture(31))
    for path, message in (("missing", "no such"), ("empty", "no images"), ("noise.mp4", "not a readable video"),
                          ("noise.png", "not a readable image"), ("mixed", "one size"),
                          ("cut.png", "not a readable image.*truncated")):
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


# --- timing ---

def test_start_frames_and_fps_choose_what_is_read(tmp_path):
    media.write_frames(tmp_path, [np.full((4, 4, 3), k, np.uint8) for k in range(12)])
    source = media.FrameSource(tmp_path, start=3, frames=5)
    assert [int(frame[0, 0, 0]) for frame in source] == [3, 4, 5, 6, 7] and source.fps == 24
    assert [int(frame[0, 0, 0]) for frame in source.read(2, 2)] == [5, 6]
    assert media.FrameSource(tmp_path, fps=50).fps == 50 and len(media.FrameSource(tmp_path, fps=50)) == 12
    assert [int(f[0, 0, 0]) for f in media.FrameSource(tmp_path, fps=10, start="0.5s", frames=3)] == [5, 6, 7]
    for wrong in (-1, 1e9, float("nan")):
        with pytest.raises(VovError, match=r"`fps`=.*must lie in"):
            media.FrameSource(tmp_path, fps=wrong)
    with pytest.raises(VovError, match="has 12 frames, `start`=12 is behind the last"):
        media.FrameSource(tmp_path, start=12)
    sized = media.FrameSource(tmp_path, size=(7, 5), resize="pad").clip()
    assert sized.frames.shape == (12, 5, 7, 3)


def test_start_is_a_frame_or_a_time():
    assert [first_frame(text, 25) for text in (7, "7", "2s", "1.5s", "0:02", "1:02.5", "1:00:00")] == [
        7, 7, 50, 38, 50, 1562, 90000]
    for wrong in ("-1", "2.5", "x", "1:2:3:4", "²"):
        with pytest.raises(VovError, match=f"`start`={wrong}: neither"):
            first_frame(wrong, 25)


@pytest.mark.parametrize(("rate", "tick"), [(24, 1e-3), (30000 / 1001, 1e-3), (24000 / 1001, 1e-3), (60, 1e-3),
                                            (12.5, 1 / 90000), (18.7, 1 / 90000)])
def test_a_rounded_constant_rate_is_recognised(rate, tick):
    times = np.round(np.arange(200) / rate / tick) * tick
    found, variable = constant_rate(times, 0.0, tick)
    assert found == pytest.approx(rate, rel=1e-6 if rate != 18.7 else 1e-3) and not variable


def test_a_rate_varies_when_a_frame_would_be_half_a_frame_off():
    steady = np.arange(60) / 30
    jitter = steady + np.random.default_rng(0).uniform(-0.2, 0.2, 60) / 30
    assert constant_rate(jitter - jitter[0], 0.0, 1e-5)[1] is False
    dropped = np.delete(steady, [20, 21])
    assert constant_rate(dropped, 0.0, 1e-5) == (pytest.approx(30), True)
    slowing = np.concatenate([np.arange(20) / 30, 20 / 30 + np.arange(13) / 10])
    rate, variable = constant_rate(slowing, 0.1, 1e-5)
    assert variable and rate == pytest.approx(30)
    picks = at_constant_rate(slowing, 20 / 30 + 1.3, 30)
    assert len(picks) == 59 and picks[:20].tolist() == list(range(20)) and picks[20:26].tolist() == [20] * 3 + [21] * 3
    with pytest.raises(VovError, match="time stamps of 2 frames span 1e\\+06 s"):
        at_constant_rate(np.array([0, 1e6]), 1e6, 30)
    assert at_constant_rate(steady, 2.0, 15).tolist() == list(range(1, 60, 2))  # what is on screen in the middle


# --- geometry ---

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


@pytest.mark.parametrize("mode", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (17, 16), (191, 111), (1920, 1080), (33, 4000), (20000, 10)])
def test_any_size_has_a_geometry_of_multiples_and_a_way_back(mode, size):
    geometry = media.geometry_for(*size, 16, mode)
    wide, high = geometry.coded
    assert wide % 16 == high % 16 == 0 and wide >= 16 and high >= 16
    for source, coded in zip(size, geometry.coded, strict=True):
        assert {"pad": source <= coded < source + 16, "crop": coded <= max(source, 16),
                "stretch": abs(coded - source) <= 15}[mode]
    frames = np.zeros((1, size[1], size[0], 3), np.uint8)
    assert geometry.restore(geometry.fit(frames)).shape[2:0:-1] == geometry.shown
    limited = media.geometry_for(*size, 16, mode, pixels=4096)
    assert limited.coded[0] * limited.coded[1] <= 4096 and limited.fit(frames).shape[2:0:-1] == limited.coded
    with pytest.raises(VovError, match="`resize`=fill: must be one of crop, pad, stretch"):
        media.geometry_for(*size, 16, "fill")


def test_an_original_of_another_size_is_refused(tmp_path):
    with pytest.raises(VovError, match=r"`original`=a\.png: 40×30, but the file was made from 44×30"):
        media.refuse_other_size("a.png", picture()[None], 44, 30, "original")
    media.refuse_other_size("a.png", picture()[None], 40, 30, "original")


# --- text ---

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_text(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("it’s a dog\r\n".encode(encoding))
    assert read_text(tmp_path / "a.txt").split() == ["it’s", "a", "dog"]


def test_text_that_cannot_be_decoded_names_the_byte_and_the_cure(tmp_path):
    for data, message in ((b"it\x92s a dog", r"a\.txt: byte 2 \(0x92\) is not UTF-8; save it as UTF-8 \(iconv"),
                          (b"\xff\xfeab\x00", "byte 4 .* is not UTF-16"),
                          ("dog".encode("utf-16-le"), "byte 1 is zero")):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(VovError, match=message):
            read_text(tmp_path / "a.txt")
