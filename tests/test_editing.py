"""Editing: merges without dense matrices, schedules, and the commands as typed, on untrained 2-layer models."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs import encode_film, write_clip
from tests.test_fit import ball
from tests.test_golden import GOLDEN
from tests.tiny import build_wan
from vov import VovError, bitstream, media
from vov.adapter.adapted import AdaptedModel
from vov.commands import export
from vov.commands.edit import EditPicture, EditVideo, MergePictures, MergeVideos, edit_picture, edit_video
from vov.commands.encode import EncodePictures, encode_pictures
from vov.decoding.decode import decode
from vov.editing.edit import Adaptation, ScheduledThetas, edit, load
from vov.editing.settings import EditConfig
from vov.fitting.encoder import Encoder
from vov.fitting.fit import Fitted
from vov.fitting.settings import FitConfig
from vov.formats import reference
from vov.media.original import Original
from vov.model.qwen import QwenBackbone
from vov.model.wan import WanBackbone

FIT = FitConfig(width=32, height=32, theta_length=300, last_k=2, decode_steps=4)
CAPTION = "a red ball rolls"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return WanBackbone.load(str(build_wan(tmp_path_factory.mktemp("wan"))), "", "cpu")


@pytest.fixture(scope="module")
def files(backbone, tmp_path_factory):
    """(a .vov file, a reference checkpoint of the same quantised theta, frames of the original)."""
    folder = tmp_path_factory.mktemp("fits")
    theta = torch.linspace(-0.3, 0.3, 300)
    media.write_frames(folder / "ball", ball(5, 32, 32))
    with Encoder(backbone, [Original(ball(5, 32, 32), 8.0, CAPTION)], FIT) as encoder:
        encoder.write(folder / "ball.vov", FIT, Fitted(theta, 0.01, folder))
    reference.save_reference(folder / "ball.safetensors", theta, 0.01)
    return folder / "ball.vov", folder / "ball.safetensors", folder / "ball"


@pytest.fixture(scope="module")
def film(backbone, tmp_path_factory):
    """A file of video/encode.sh: two chunks, the second of which follows the first."""
    folder = tmp_path_factory.mktemp("film")
    file = encode_film(backbone.path, write_clip(folder / "film", frames=9), folder / "out", caption=CAPTION)
    assert [chunk.chained for chunk in bitstream.read(file).sequence.chunks] == [False, True]
    return file


@pytest.fixture(scope="module")
def picture(tiny_qwen, tmp_path_factory):
    """A file of image/encode.sh: coded noise of a picture of 44×30, without θ."""
    folder = tmp_path_factory.mktemp("picture")
    media.write_image(folder / "a.png", ball(1, 44, 30)[0])
    encode_pictures(EncodePictures(image=str(folder / "a.png"), caption=CAPTION, out_dir=str(folder / "out"), steps=4,
                                   scaling_bytes=60, score="pixel", device="cpu", config="", model_id=str(tiny_qwen)))
    return folder / "out/a.vov"


def settings(**more):
    return EditConfig(**({"caption": "a blue ball", "theta_length": 300, "last_k": 2, "width": 32, "height": 32,
                          "num_frames": 5} | more))


def made(seed, rank=1, preset="qkvo", last_k=2):
    """A fit of 200 entries."""
    theta = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    fit = FitConfig(rank=rank, theta_length=200, lora_preset=preset, last_k=last_k)
    return Adaptation(f"fit {seed}", theta, fit, 5, 8.0)


def test_quantised_theta_is_used_from_files_and_checkpoints(files):
    vov, reference, _ = files
    a, b = load(vov, settings(), "video"), load(reference, settings(), "video")
    assert torch.allclose(a.theta, b.theta, atol=1e-6)
    assert torch.allclose(a.theta / 0.01, (a.theta / 0.01).round(), atol=1e-4)
    with pytest.raises(VovError, match="`theta_length`=300"):
        load(reference, settings(theta_length=10), "video")


def test_merge_is_the_weighted_sum_of_products_even_of_unlike_fits(backbone):
    fits, weights = [made(1, 1, "qkvo", 2), made(2, 3, "qkv", 1), made(3, 2, "qkvo_mlp", 2)], [1.0, -0.5, 2.0]
    expected = {}
    for fit, weight in zip(fits, weights, strict=True):  # each alone
        with AdaptedModel(backbone, fit.spec) as alone:
            alone.bind(fit.theta)
            for name, layer in zip(alone.adapter.names, alone.adapter.layers, strict=True):
                expected[name] = expected.get(name, 0) + weight * layer.B @ layer.A
    with AdaptedModel(backbone, *[fit.spec for fit in fits]) as merged:
        merged.bind(*[fit.theta for fit in fits], weights=weights)
        assert set(merged.adapter.names) == set(expected)
        for name, layer in zip(merged.adapter.names, merged.adapter.layers, strict=True):
            assert torch.allclose(layer.B @ layer.A, expected[name], atol=1e-5)
            assert layer.A.shape[0] <= 6
        merged.bind(*[fit.theta for fit in fits], weights=[0.0] * 3)
        assert merged.adapter.layers[0].A is None
    assert type(backbone.transformer.blocks[0].attn1.to_q) is torch.nn.Linear


def test_each_theta_acts_in_its_own_steps(backbone):
    seen, bound = [], []
    thetas = ScheduledThetas(backbone, [made(1), made(2)], [1, 2], [0, 2], [3, 0])
    thetas.model.bind = lambda *_, weights: bound.append(tuple(weights))
    try:
        for _ in range(2):  # every pass of the model begins with step 0
            thetas.bind(0)
            velocity = thetas.velocity(lambda x, t: seen.append(bound[-1]))
            for _ in range(5):
                velocity(None, 0.0)
    finally:
        thetas.close()
    assert seen == [(1, 0), (1, 0), (1, 2), (0, 2), (0, 2)] * 2
    assert len(bound) == 6


def test_edit_commands_write_the_edit_and_its_sheet(backbone, files, tmp_path, capsys, monkeypatch):
    vov, reference, original = files
    shared = {"caption": "a blue ball", "model_id": str(backbone.path), "device": "cpu", "theta_length": 300,
              "last_k": 2, "width": 32, "height": 32, "num_frames": 5, "steps": 3}
    edit_video(EditVideo(weights=str(vov), output_video=str(tmp_path / "a.mp4"), original_frames_dir=str(original),
                         **shared))
    said = capsys.readouterr().out
    assert "PSNR" in said and "lpips" in said
    assert media.read_image(tmp_path / "a_sheet.png").shape[:2] == (96, 104)
    assert len(media.read_clip(tmp_path / "a.mp4").frames) == 5
    monkeypatch.setenv("WEIGHTS3", str(vov))
    edit_video(MergeVideos(weights1=str(vov), weights2=str(reference), strength="1,0.5,0.2", stop_step="0,2,0",
                           output_video=str(tmp_path / "b.mp4"), **shared))
    assert (tmp_path / "b_sheet.png").is_file()
    with pytest.raises(VovError, match="`overwrite`=1"):
        edit_video(EditVideo(weights=str(vov), output_video=str(tmp_path / "a.mp4"), **shared))
    media.write_frames(tmp_path / "large", np.zeros((5, 40, 48, 3), np.uint8))
    with pytest.raises(VovError, match=r"`original`=.*large: 48×40, but the file was made from 32×32"):
        edit_video(EditVideo(weights=str(vov), original_frames_dir=str(tmp_path / "large"),
                             output_video=str(tmp_path / "c.mp4"), **shared))
    assert not (tmp_path / "c.mp4").exists()


def test_a_video_of_many_chunks_under_its_own_caption_is_its_decode(backbone, film):
    plain, asked = decode(film, backbone)[0].frames, settings(caption=CAPTION)
    reconstruction, edited = edit(backbone, [load(film, asked, "video")], asked)
    assert np.array_equal(reconstruction, plain) and np.array_equal(edited, plain)
    other = settings(caption="a blue ball")
    reconstruction, edited = edit(backbone, [load(film, other, "video")], other)
    assert np.array_equal(reconstruction, plain) and edited.shape == plain.shape == (9, 32, 32, 3)
    for chunk in (slice(0, 5), slice(5, 9)):
        assert not np.array_equal(edited[chunk], plain[chunk])


def test_a_video_of_many_chunks_is_edited_by_the_command(backbone, film, tmp_path, capsys):
    edit_video(EditVideo(weights=str(film), caption="a blue ball", output_video=str(tmp_path / "a.mp4"),
                         original_frames_dir=str(film.parent.parent / "film"), model_id=str(backbone.path),
                         device="cpu"))
    said = capsys.readouterr().out
    assert "reconstruction: PSNR" in said and "edit: PSNR" in said
    assert len(media.read_clip(tmp_path / "a.mp4").frames) == 9 and (tmp_path / "a_sheet.png").is_file()


@pytest.mark.parametrize(("asked", "said"), [
    ({"strength": "0.5"}, "`strength`, `start_step` and `stop_step` are of a fitted θ"),
    ({"stop_step": "2"}, "`strength`, `start_step` and `stop_step` are of a fitted θ"),
    ({"steps": 9}, "leave `steps` and `seed` unset"), ({"seed": 9}, "leave `steps` and `seed` unset"),
    ({"guidance": 3.0}, "`guidance`: a video of many chunks is sampled without")])
def test_what_a_video_of_many_chunks_cannot_be_told_is_one_line(backbone, film, asked, said):
    with pytest.raises(VovError, match=said) as caught:
        edit(backbone, [load(film, settings(**asked), "video")], settings(**asked))
    assert "\n" not in str(caught.value)


def test_a_picture_without_theta_is_edited_with_its_noise_at_the_originals_size(picture, tiny_qwen, tmp_path, capsys):
    model = dict(model_id=str(tiny_qwen), device="cpu")
    outputs = {}
    for caption in (CAPTION, "a blue ball"):
        outputs[caption] = tmp_path / f"{caption}.png"
        edit_picture(EditPicture(weights=str(picture), caption=caption, output=str(outputs[caption]),
                                 original=str(picture.parent.parent / "a.png"), **model))
    own, other = (media.read_image(path) for path in outputs.values())
    assert np.array_equal(own, media.read_image(picture.with_suffix(".png"))) and own.shape == (30, 44, 3)
    assert other.shape == own.shape and not np.array_equal(own, other)
    assert "edit against reconstruction: PSNR inf dB" in capsys.readouterr().out


def test_a_file_without_caption_is_compared_with_what_it_decodes_to(picture, tiny_qwen, tmp_path):
    model, stream, path = QwenBackbone.load(str(tiny_qwen), "", "cpu"), bitstream.read(picture), tmp_path / "plain.vov"
    bitstream.write(path, dataclasses.replace(stream, items=(dataclasses.replace(stream.items[0], caption=""),)))
    asked = settings(caption="a blue ball")
    reconstruction, edited = edit(model, [load(path, asked, "image")], asked)
    assert np.array_equal(reconstruction, decode(path, model)[0].frames) and not np.array_equal(reconstruction, edited)


def test_a_file_that_names_a_collection_is_edited_with_it(tiny_qwen, tmp_path, monkeypatch):
    monkeypatch.setenv("VOV_CACHE", str(tmp_path / "cache"))  # nor is it beside the file
    path = Path(shutil.copy(GOLDEN / "image_shared.vov", tmp_path))
    backbone = QwenBackbone.load(str(tiny_qwen), "", "cpu", "float32")
    (item,) = bitstream.read(path).items
    asked = settings(caption=item.caption)
    with pytest.raises(VovError, match="`collection`"):
        edit(backbone, [load(path, asked, "image")], asked)
    asked = dataclasses.replace(asked, collection=str(GOLDEN))
    reconstruction, edited = edit(backbone, [load(path, asked, "image")], asked)
    (plain,) = decode(path, backbone, collections=str(GOLDEN))
    assert np.array_equal(reconstruction, plain.frames) and np.array_equal(edited, plain.frames)


def test_a_file_of_neither_theta_nor_noise_is_edited_as_the_frozen_model_shows_it(picture, tiny_qwen):
    model = QwenBackbone.load(str(tiny_qwen), "", "cpu")
    bare, asked = dataclasses.replace(bitstream.read(picture), noise=None), settings(caption=CAPTION)
    path = picture.with_name("bare.vov")
    bitstream.write(path, bare)
    for shown in edit(model, [load(path, asked, "image")], asked):
        assert np.array_equal(shown, decode(path, model)[0].frames)
    with pytest.raises(VovError, match=r"`replay_noise`=1 needs a \.vov file with a noise section"):
        edit(model, [load(path, asked, "image")], settings(replay_noise=True))


def test_what_has_no_theta_is_neither_merged_nor_exported_and_the_cure_is_named(film, picture, files, tmp_path):
    output = str(tmp_path / "x.safetensors")
    cases = [
        (film, lambda: edit_video(MergeVideos(weights1=str(files[0]), weights2=str(film), caption="x")), "merge"),
        (film, lambda: edit_video(MergeVideos(weights1=str(film), weights2=str(files[0]), caption="x")), "merge"),
        (picture, lambda: edit_picture(MergePictures(weights1=str(picture), weights2=str(picture), caption="x")),
         "merge"),
        (film, lambda: export.main(export.Export(input=str(film), output=output)), "export"),
        (picture, lambda: export.main(export.Export(input=str(picture), output=output)), "export")]
    for path, call, verb in cases:
        what = "is a video of chunks, .* are of its scenes" if path == film else "holds coded noise and no θ"
        with pytest.raises(VovError, match=f"{what}, so there is nothing to {verb}; fit") as caught:
            call()
        said = str(caught.value)
        assert said.startswith(f"{path}: ") and "\n" not in said and "run_two_stage.sh" in said
        assert verb == "export" or "edit_caption.sh" in said
    assert not list(tmp_path.iterdir())


def test_fits_over_different_collections_are_not_merged(files, tmp_path):
    stream, other = bitstream.read(files[0]), tmp_path / "other.vov"
    bitstream.write(other, dataclasses.replace(stream, collection=bytes(range(16))))
    with pytest.raises(VovError, match="is not over the same collection as"):
        edit_video(MergeVideos(weights1=str(files[0]), weights2=str(other), caption="x"))


def test_a_cropped_fit_is_edited_at_its_crops_size_and_others_at_the_originals(backbone, files, tmp_path):
    stream = bitstream.read(files[0])
    for resize, size in (("crop", (32, 32)), ("stretch", (40, 48)), ("pad", (40, 48))):
        items = tuple(dataclasses.replace(item, original_width=48, original_height=40) for item in stream.items)
        path = tmp_path / f"{resize}.vov"
        bitstream.write(path, dataclasses.replace(
            stream, items=items, header=dataclasses.replace(stream.header, resize=resize)))
        plain = decode(path, backbone)[0].frames
        reconstruction, edited = edit(backbone, [load(path, settings(), "video")], settings())
        assert plain.shape[1:3] == size and np.array_equal(reconstruction, plain) and edited.shape == plain.shape
