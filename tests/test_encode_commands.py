"""encode.sh of both trees, through the functions that it calls, on untrained models."""

import json

import av
import numpy as np
import pytest

from tests.clips import film
from tests.test_fit import ball
from vov import VovError, bitstream, config, media, metrics
from vov.commands.decode import DecodePictures, DecodeVideo, decode_pictures, decode_video
from vov.commands.encode import EncodePictures, EncodeVideo, encode_pictures, encode_video
from vov.config.retired import MERGED

VIDEO = dict(width=32, height=32, num_frames=5, steps=4, bytes_per_frame=12.0, score="pixel", scenes="none",
             key_every=2, device="cpu", config="")
IMAGE = dict(steps=4, scaling_bytes=60, score="pixel", device="cpu", config="")


def test_a_video_of_any_size_and_length_comes_back_at_its_own(tiny_wan, tmp_path, capsys):
    media.write_frames(tmp_path / "film", ball(11, 45, 37))
    settings = EncodeVideo(frames_dir=str(tmp_path / "film"), out_dir=str(tmp_path / "out"),
                                   model_id=str(tiny_wan), caption="a red  ball", **VIDEO)
    encode_video(settings)
    file, result = tmp_path / "out/film.vov", json.loads((tmp_path / "out/result.json").read_text())
    stream = bitstream.read(file)
    assert stream.items[0].caption == "a red ball" and stream.sequence.frames == 11
    assert "PSNR" in capsys.readouterr().out
    assert result["bytes"] == file.stat().st_size == sum(result["bytes_by_part"].values())
    assert result["frames"] == [11] and result["size"] == "45×37" and len(result["psnr_by_chunk"]) == 3
    assert result["bytes_by_part"]["noise"] <= 11 * 12 + 3 * 4  # and what heads the three chunks
    first = file.read_bytes()
    encode_video(settings)  # the same command again changes nothing
    assert file.read_bytes() == first

    whole = media.read_clip(tmp_path / "out/film").frames
    decode_video(DecodeVideo(
        bitstream=str(file), output_dir=str(tmp_path / "part"), model_id=str(tiny_wan), device="cpu", start_at=6,
        frames=4))
    assert np.array_equal(media.read_clip(tmp_path / "part/film").frames, whole[6:10])
    assert sorted(p.name for p in (tmp_path / "part/film").iterdir()) == [f"{n:05d}.png" for n in range(6, 10)]
    by_frame = [metrics.psnr(a[None], b[None]) for a, b in zip(ball(11, 45, 37), whole, strict=True)]
    assert result["psnr_of_first_frame"] == pytest.approx(by_frame[0])
    assert result["psnr_of_worst_frame"] == pytest.approx(min(by_frame))


def test_a_phones_rotated_video_with_sound_comes_back_upright_in_time_and_sounding(tiny_wan, tmp_path):
    height, width, clicks = 36, 52, (0.25, 0.75)
    upright = np.zeros((12, width, height, 3), np.uint8)  # portrait: taller than wide
    upright[:, : width // 2] = 220  # light above, dark below
    film(tmp_path / "phone.mp4", np.rot90(upright, 1, (1, 2)), fps=10, turn=(-90, False), clicks=clicks)
    encode_video(EncodeVideo(
        frames_dir=str(tmp_path / "phone.mp4"), out_dir=str(tmp_path / "out"), model_id=str(tiny_wan),
        **VIDEO | dict(bytes_per_frame=60.0, resize="stretch")))
    parts, decoded = bitstream.parts(tmp_path / "out/phone.vov"), tmp_path / "out/phone.mp4"
    with av.open(str(decoded)) as made:
        frames = list(made.decode(video=0))
        assert [round(10 * frame.time) for frame in frames] == list(range(12))
        assert {(frame.width, frame.height, frame.rotation) for frame in frames} == {(height, width, 0)}
    with av.open(str(decoded)) as made:
        heard = [(frame.time, frame.to_ndarray()) for frame in made.decode(audio=0)]
    loud = [time + np.abs(wave[0]).argmax() / 48000 for time, wave in heard if np.abs(wave).max() > 0.3]
    assert all(min(abs(click - one) for one in loud) < 0.03 for click in clicks)
    again = media.read_clip(tmp_path / "phone.mp4").frames
    assert again.shape[1:3] == (width, height) and again[:, :10].mean() > again[:, -10:].mean() + 100
    result, size = json.loads((tmp_path / "out/result.json").read_text()), (tmp_path / "out/phone.vov").stat().st_size
    assert result["bytes"] == size == sum(result["bytes_by_part"].values()) and result["sound_bytes"] == parts.sound
    assert result["bpp"] == pytest.approx(8 * (size - parts.sound) / (12 * height * width))  # of the pictures
    assert parts.sound > 0 and bitstream.read(tmp_path / "out/phone.vov").sequence.frames == 12


def test_pictures_need_no_caption_and_one_command(tiny_qwen, tmp_path, capsys):
    picture = ball(1, 44, 30)[0]
    media.write_image(tmp_path / "a.png", picture)
    encode_pictures(EncodePictures(image=str(tmp_path / "a.png"), out_dir=str(tmp_path / "out"),
                                          model_id=str(tiny_qwen), **IMAGE))
    file = tmp_path / "out/a.vov"
    stream = bitstream.read(file)
    assert stream.items[0].caption == "" and len(stream.symbols) == 1 and stream.noise
    assert "PSNR" in capsys.readouterr().out
    assert bitstream.parts(file).noise <= 60
    shown, result = media.read_image(tmp_path / "out/a.png"), json.loads((tmp_path / "out/result.json").read_text())
    assert shown.shape == picture.shape and result["bytes"] == file.stat().st_size
    assert result["psnr"] == pytest.approx(metrics.psnr(picture, shown)) and "sound_bytes" not in result
    decode_pictures(DecodePictures(bitstream=str(file), output_dir=str(tmp_path / "again"),
                                                         model_id=str(tiny_qwen), device="cpu"))
    assert (tmp_path / "again/a.png").read_bytes() == (tmp_path / "out/a.png").read_bytes()


@pytest.mark.parametrize(("changes", "said"), [
    ({"frames_dir": ""}, "INPUT must be set"),
    ({"bytes_per_frame": 5.0, "target_bytes": 900}, "give one of them"),
    ({"num_frames": 6}, "`num_frames`=6"), ({"scenes": "cuts.txt"}, "no such file"),
    ({"start": "40"}, "`start`=40 is behind the last"), ({"end_level": 1.5}, "`end_level`=1.5")])
def test_mistakes_are_one_line(changes, said, tiny_wan, tmp_path):
    media.write_frames(tmp_path / "film", ball(6, 32, 32))
    settings = dict(frames_dir=str(tmp_path / "film"), out_dir=str(tmp_path / "out"), model_id=str(tiny_wan))
    with pytest.raises(VovError, match=said) as caught:
        encode_video(EncodeVideo(**VIDEO | settings | changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "out/film.vov").exists()


def test_one_preset_serves_fits_and_encode():
    settings = config.load(EncodeVideo, {}, {"CONFIG": "nano-video", "TARGET_BYTES": "900"}, "encode")
    settings.one_rate()
    assert settings.whole(17, 24.0, (192, 112)) == 900
    assert (settings.model_id, settings.width, settings.num_frames) == ("nano-video", 192, 17)
    settings = config.load(EncodePictures, {}, {"CONFIG": "nano-image", "STEPS": "7"}, "encode")
    assert settings.model_id == "nano-image" and settings.steps == 7


@pytest.mark.parametrize("preset", sorted(new for new, _ in MERGED.values()))
def test_a_preset_sets_the_steps_of_encode_and_any_rate_may_be_asked_for(preset):
    if "image" in preset:
        settings = config.load(EncodePictures, {"config": preset}, {"TARGET_BYTES": "5000"}, "encode")
        assert settings.steps == (50 if "nano" in preset else 40) and settings.target_bytes == 5000
        return
    settings = config.load(EncodeVideo, {"config": preset}, {"TARGET_BYTES": "5000"}, "encode")
    settings.one_rate()
    assert settings.whole(81, 24.0, (832, 480)) == 5000 and settings.steps == 40


def test_what_no_decoder_would_take_on_is_refused_before_anything_is_coded(tiny_wan, tmp_path):
    media.write_frames(tmp_path / "film", ball(5, 32, 32))
    settings = EncodeVideo(frames_dir=str(tmp_path / "film"), out_dir=str(tmp_path / "out"),
                                   model_id=str(tiny_wan), **VIDEO | {"steps": 1001})
    with pytest.raises(VovError, match="set `decode_limit`=2"):
        encode_video(settings)
    assert not list((tmp_path / "out").rglob("*.vov")) and not list((tmp_path / "out").rglob("*.safetensors"))


def test_bits_a_pixel_are_of_the_pixels_that_are_shown():
    crop = config.load(EncodeVideo, {"config": ""}, {"TARGET_BPP": "0.1", "RESIZE": "crop", "WIDTH": "32",
                                                             "HEIGHT": "16"}, "encode")
    assert crop.whole(10, 24.0, (400, 300)) == 64
    assert config.load(EncodeVideo, {"config": ""}, {"TARGET_BPP": "0.1"}, "encode").whole(
        10, 24.0, (400, 300)) == 15000


def test_a_video_meets_the_psnr_that_was_asked_for_or_says_the_most(tiny_wan, tmp_path):
    media.write_frames(tmp_path / "film", ball(9, 32, 32))
    common = VIDEO | dict(frames_dir=str(tmp_path / "film"), model_id=str(tiny_wan), usual_rate=12.0)
    found = {}
    for rate in (4.0, 40.0):
        encode_video(EncodeVideo(**common | dict(out_dir=str(tmp_path / f"{rate}"), bytes_per_frame=rate)))
        found[rate] = json.loads((tmp_path / f"{rate}/result.json").read_text())["psnr"]
    wanted = dict(bytes_per_frame=0.0, target_psnr=round(sum(found.values()) / 2, 3), out_dir=str(tmp_path / "out"))
    encode_video(EncodeVideo(**common | wanted))
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["psnr"] == pytest.approx(wanted["target_psnr"], abs=0.1)
    with pytest.raises(VovError, match=r"`target_psnr`=60: the most that this model gives .* is \d"):
        encode_video(EncodeVideo(**common | wanted | dict(target_psnr=60.0, out_dir=str(tmp_path / "no"))))
    assert not (tmp_path / "no/film.vov").exists()


def test_a_picture_that_is_not_named_and_a_folder_are_one_line(tmp_path):
    for given, said in ((dict(), "INPUT is not set; give a picture"),
                        (dict(image=str(tmp_path)), "is a folder, not a picture")):
        with pytest.raises(VovError, match=said):
            encode_pictures(EncodePictures(config="", device="cpu", out_dir=str(tmp_path / "out"), **given))
    assert not list(tmp_path.iterdir())
