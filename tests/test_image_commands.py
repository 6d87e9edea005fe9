"""The image tree's commands: what they refuse, and one run of each on an untrained 2-layer Qwen-Image."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_video_commands import bash
from vov import VovError, bitstream, config, media, metrics
from vov.adapter.quantiser import from_symbols
from vov.commands.add_noise import AddNoisePictures, add_noise_pictures
from vov.commands.decode import DecodePictures, decode_pictures
from vov.commands.edit import EditPicture, edit_picture
from vov.commands.fit import fit_pictures
from vov.commands.options import ImageFit
from vov.commands.pictures import at_size, described
from vov.config import cli
from vov.decoding.decode import decode
from vov.formats import reference
from vov.formats.checkpoint_file import as_file
from vov.model.qwen import QwenBackbone

SETTINGS = dict(config="", width=0, height=0, last_k=2, rank=4, theta_length=300, lr=0.02, preview_every=0,
                device="cpu", lora_preset="qkvo", noise="anchored", timesteps="grid", train_steps=3,
                caption_end=0, loss="pixel")
CAPTIONS = ("\ufeff# three pictures\r\na.png|a gradient | with a bar\r\n\r\nsub/grey b.jpg | grey\r\n"
            "./c16.png|sixteen bits\r\n")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Three pictures of unequal size and kind, and their captions."""
    folder = tmp_path_factory.mktemp("album")
    y, x = np.mgrid[:30, :44]
    colour = np.stack([x * 5, y * 8, x + y], axis=-1).astype(np.uint8)
    Image.fromarray(colour).save(folder / "a.png")
    (folder / "sub").mkdir()
    Image.fromarray(colour[:20, :17, 0]).save(folder / "sub/grey b.jpg")
    Image.fromarray(colour[..., 1].astype(np.uint16) * 257).save(folder / "c16.png")
    (folder / "captions.txt").write_text(CAPTIONS)
    return folder


def settings_for(tiny_qwen, album, folder, **changes):
    return ImageFit(**SETTINGS | dict(model_id=str(tiny_qwen), description_file=str(album / "captions.txt"),
                                      data_root=str(album), out_dir=str(folder)) | changes)


@pytest.fixture(scope="module")
def run(tiny_qwen, album, tmp_path_factory):
    """One θ for the album, both stages."""
    folder = tmp_path_factory.mktemp("run")
    first = settings_for(tiny_qwen, album, folder)
    fit_pictures(first, first, dataclasses.replace(first, lambda_rate=0.003))
    return folder


def test_one_theta_regenerates_an_album_at_every_pictures_own_size(run, album):
    result = json.loads((run / "result.json").read_text())
    assert result["bytes"] == (run / "captions.vov").stat().st_size == sum(result["bytes_by_part"].values())
    assert [row["name"] for row in result["items"]] == ["a.png", "sub/grey b.jpg", "c16.png"]
    assert result["bytes_per_item"] == pytest.approx(result["bytes"] / 3)
    for row, png in zip(result["items"], ("a.png", "sub/grey b.png", "c16.png"), strict=True):
        original, decoded = media.read_image(album / row["name"]), media.read_image(run / "captions" / png)
        assert metrics.psnr(original, decoded) == pytest.approx(row["psnr"], abs=1e-6)
    pixels = 2 * 44 * 30 + 17 * 20
    assert result["bpp"] == pytest.approx(8 * result["bytes"] / pixels)
    stream = bitstream.read(run / "captions.vov")
    assert (stream.header.width, stream.header.height, stream.header.resize) == (48, 32, "pad")
    assert [i.caption for i in stream.items] == ["a gradient | with a bar", "grey", "sixteen bits"]


def test_scale_refuses_an_original_of_another_size(run, album, tmp_path, tiny_qwen):
    shutil.copytree(album, tmp_path / "album")
    media.write_image(tmp_path / "album/a.png", np.zeros((31, 44, 3), np.uint8))
    with pytest.raises(VovError, match=r"`data_root`=.*a\.png: 44×31, but the file was made from 44×30"):
        add_noise_pictures(AddNoisePictures(bitstream=str(run / "captions.vov"), data_root=str(tmp_path / "album"),
                               output=str(tmp_path / "x.vov"), model_id=str(tiny_qwen), device="cpu"))


def test_the_file_alone_decodes_to_the_same_pictures(run, tiny_qwen, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VOV_CACHE", str(tmp_path / "fresh"))
    moved = tmp_path / "elsewhere.vov"
    moved.write_bytes((run / "captions.vov").read_bytes())
    asked = DecodePictures(bitstream=str(moved), output_dir=str(tmp_path / "out"), cache_dir=str(tiny_qwen.parent))
    decode_pictures(asked)
    assert "3 pictures" in capsys.readouterr().out
    for path in ("a.png", "sub/grey b.png", "c16.png"):
        assert (tmp_path / "out/elsewhere" / path).read_bytes() == (run / "captions" / path).read_bytes()


@pytest.mark.parametrize("output", ["edit.mp4", "edit", "edit.vov"])
def test_a_picture_gets_the_name_of_a_picture(run, tiny_qwen, tmp_path, output):
    settings = EditPicture(weights=str(run / "captions.vov"), caption="else", output=str(tmp_path / output),
                           item="1", cache_dir=str(tiny_qwen.parent))
    with pytest.raises(VovError, match="is written as a picture; end the name"):
        edit_picture(settings)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_ours_decodes_with_its_own_settings(run, tiny_qwen, album, tmp_path, capsys):
    decode_pictures(DecodePictures(
        init_lora_path=str(run / "stage2/checkpoint.safetensors"), output_dir=str(tmp_path), data_root=str(album),
        description_file=str(album / "captions.txt"), model_id=str(tiny_qwen)))
    whole = media.read_image(tmp_path / "checkpoint/a.png")
    assert np.array_equal(whole[:30, :44], media.read_image(run / "captions/a.png"))
    assert capsys.readouterr().out.count("PSNR") == 3


def test_a_reference_checkpoint_decodes_with_the_variables_given(tiny_qwen, album, tmp_path):
    theta = torch.linspace(-0.02, 0.02, 65536)
    reference.save_reference(tmp_path / "theirs.safetensors", theta)
    asked = DecodePictures(init_lora_path=str(tmp_path / "theirs.safetensors"), output_dir=str(tmp_path), last_k=2,
                        description_file=str(album / "captions.txt"), caption_end=1, model_id=str(tiny_qwen), width=48,
                        height=32, decode_steps=2, device="cpu")
    decode_pictures(asked)
    assert media.read_image(tmp_path / "theirs.png").shape == (32, 48, 3)
    with pytest.raises(VovError, match="set `theta_length`=65536"):
        decode_pictures(dataclasses.replace(asked, theta_length=300, overwrite=True))


def test_a_checkpoint_without_a_quantiser_is_a_file_whose_symbols_use_all_eight_bits(tiny_qwen, tmp_path):
    theta = torch.linspace(-0.02, 0.01, 300)
    reference.save_reference(tmp_path / "x.safetensors", theta)
    fit = ImageFit(width=32, height=32, rank=4, theta_length=300, last_k=2)
    backbone = QwenBackbone.load(str(tiny_qwen), "", "cpu")
    stream = as_file(reference.load_reference(tmp_path / "x.safetensors"), "x", backbone, fit, [("a.png", "a ball")])
    assert np.abs(stream.symbols).max() == 128 and [item.name for item in stream.items] == [""]
    rounded = from_symbols(stream.symbols, stream.header.step)
    assert (rounded - theta).abs().max() <= 1.001 * 0.02 / 128 / 2
    assert decode(bitstream.to_bytes(stream), backbone)[0].frames.shape == (1, 32, 32, 3)


def test_the_real_command_fits_one_picture_and_resumes(tiny_qwen, album, tmp_path, monkeypatch):
    variables = {"IMAGE": str(album / "a.png"), "CAPTION": "a gradient", "CONFIG": "nano-image", "DEVICE": "cpu",
                 "QWEN_MODEL_ID": str(tiny_qwen), "OUT_DIR": str(tmp_path), "LAST_K": "2", "TRAIN_STEPS": "2",
                 "THETA_D_LENGTH": "300", "WIDTH": "32", "HEIGHT": "32", "LORA_PRESET": "qkvo", "LAMBDA_RATE": "0"}
    done = bash("image/train_multi.sh", "--overwrite", "1", **variables)
    assert done.returncode == 0, done.stderr
    assert "PSNR" in done.stdout and (tmp_path / "a.png").is_file()
    first = (tmp_path / "a.vov").read_bytes()
    # Again, in this process (a start of Python with its libraries takes seconds): a finished fit is not repeated.
    monkeypatch.setattr("sys.argv", ["image.train", "--overwrite", "1"])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cli.run(ImageFit, fit_pictures, "usage", stages=("", "stage1", "stage2"))
    assert (tmp_path / "a.vov").read_bytes() == first
    assert len((tmp_path / "stage1/log.jsonl").read_text().splitlines()) == 2  # the last step and its preview


def test_problems_are_one_line_and_leave_nothing_behind(tmp_path):
    done = bash("image/train_multi.sh", IMAGE=str(tmp_path / "none.png"), CAPTION="x", OUT_DIR=str(tmp_path / "out"))
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'none.png'}: no such image"


def test_weights_that_are_not_there_are_named_with_the_command_that_fetches_them(album, tmp_path):
    settings = ImageFit(config="", image=str(album / "a.png"), caption="x", cache_dir=str(tmp_path),
                        out_dir=str(tmp_path / "out"))
    with pytest.raises(VovError, match=r"no weights of Qwen/Qwen-Image .*scripts/fetch_models.sh"):
        fit_pictures(settings, settings, settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "message"), [
    ("a.png|x\nb.png\nc.png|", r"line 2: no \| between path and caption; line 3: the caption of c.png is empty"),
    ("a.png|x\n# a.png|y\na.jpg|y", r"line 3: a.jpg is already on line 1"),
    ("a.png|x\n./a.png|y", r"line 2: a.png is already on line 1"),
    ("|x", r"line 1: no path"), ("/etc/a.png|x", r"line 1: name: '/etc/a.png' is no plain relative path"),
    ("../a.png|x", r"line 1: name: '../a.png' is no plain"),
    ("a.png|" + "x" * 17000, r"line 1: caption: has 17000 bytes"),
    ("", r"has 0 captions"), ("a.png|x", r"CAPTION_START=1 CAPTION_END=2: .* has 1 captions"),
])
def test_a_description_file_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "d.txt").write_text(text)
    with pytest.raises(VovError, match=message):
        described(str(tmp_path / "d.txt"), 1, 2)


def test_other_bad_descriptions(tmp_path, album):
    with pytest.raises(VovError, match="no such description file"):
        described(str(tmp_path / "none.txt"))
    (tmp_path / "d.txt").write_bytes(b"a.png|caf\xe9")
    with pytest.raises(VovError, match=r"byte 9 \(0x.*is not UTF-8; save it as UTF-8"):
        described(str(tmp_path / "d.txt"))
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "d.txt").write_bytes("# album\r\na.png|café\r\n".encode(encoding))
        assert described(str(tmp_path / "d.txt")) == [("a.png", "café")]
    with pytest.raises(VovError, match="CAPTION_START=3 CAPTION_END=2"):
        described(str(album / "captions.txt"), 3, 2)
    assert described(str(album / "captions.txt"), 2, 2) == [("sub/grey b.jpg", "grey")]
    with pytest.raises(VovError, match="CAPTION is set, but INPUT is not"):
        ImageFit(caption="x").originals()
    with pytest.raises(VovError, match="CAPTION is not set"):
        ImageFit(image=str(album / "a.png")).originals()


def test_all_missing_pictures_are_listed_together(tmp_path, album):
    (tmp_path / "d.txt").write_text("".join(f"p{i}.png|x\n" for i in range(12)))
    with pytest.raises(VovError, match=r"12 of 12 pictures are missing: p0.png, .*p9.png and 2 more"):
        ImageFit(description_file=str(tmp_path / "d.txt"), data_root=str(album), caption_end=0).originals()


def test_alpha_and_rotation_are_seen_as_a_viewer_would(tmp_path):
    pixels = np.zeros((8, 12, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    (clear,) = ImageFit(image=str(tmp_path / "clear.png"), caption="x").originals()
    (turned,) = ImageFit(image=str(tmp_path / "turned.jpg"), caption="x").originals()
    assert (clear.frames == 255).all() and turned.frames.shape == (1, 12, 8, 3)


def test_own_size_is_rounded_up_and_any_mode_is_undone(album):
    (source,) = ImageFit(image=str(album / "a.png"), caption="x").originals()
    resolved = at_size(ImageFit(width=0, height=64), [source], 16)
    assert (resolved.width, resolved.height, resolved.resize) == (48, 64, "pad")
    for mode in ("pad", "stretch"):
        fitted = source.fitted(48, 32, mode)
        assert media.restore_geometry(fitted, 44, 30, mode).shape == (1, 30, 44, 3)
    assert np.array_equal(media.restore_geometry(source.fitted(48, 32, "pad"), 44, 30, "pad"), source.frames)


@pytest.mark.parametrize("preset", ["qwen-image", "qwen-image-paper", "nano-image"])
def test_presets_load_and_the_published_one_has_the_published_values(preset):
    stages = [config.load(ImageFit, {}, {"CONFIG": preset}, stage) for stage in ("stage1", "stage2")]
    if preset == "qwen-image-paper":
        paper = stages[0]
        assert (paper.rank, paper.theta_length, paper.last_k, paper.lora_preset) == (4, 65536, 60, "qkvo")
        assert (paper.train_steps, paper.batch_size, paper.accum_step, paper.lr) == (5000, 16, 2, 0.002)
        assert (paper.noise, paper.decode_steps, paper.guidance, paper.save_every) == ("random", 50, 1.0, 50)
        assert stages[1].lambda_rate == 0
    else:
        assert stages[0].lambda_rate == 0 < stages[1].lambda_rate
    assert not set(os.environ) & {"WIDTH", "HEIGHT"}
