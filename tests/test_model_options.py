"""DTYPE, QUANTIZE and OFFLOAD are honoured, or refused, by every command that loads a model."""

import dataclasses

import numpy as np
import pytest

from tests.runs import image_settings, two_stage, video_settings, write_album, write_clip
from vov import VovError, bitstream
from vov.commands import fit
from vov.commands.add_noise import AddNoisePictures, AddNoiseVideo, add_noise_pictures, add_noise_video
from vov.commands.decode import DecodePictures, DecodeVideo, decode_pictures, decode_video
from vov.commands.edit import EditPicture, EditVideo, edit_picture, edit_video
from vov.commands.evaluate import evaluate_clips, evaluate_pictures
from vov.decoding.decode import decode
from vov.evaluation.pairs import EvalConfig
from vov.model.backbone import Backbone
from vov.model.wan import WanBackbone
from vov.runtime import files


class Loaded(Exception):
    """Instead of a model: what it would have been loaded with."""


@pytest.fixture(scope="module")
def fp8(tiny_wan, tiny_qwen, tmp_path_factory):
    """A clip and an album that were fitted on fp8 weights, the clip with visiting blocks."""
    folder = tmp_path_factory.mktemp("fp8")
    write_clip(folder / "clip")
    write_album(folder / "album", count=1)
    return (two_stage(video_settings(tiny_wan, folder / "clip", folder / "v", quantize="fp8", offload="blocks")),
            two_stage(image_settings(tiny_qwen, folder / "album", folder / "i", quantize="fp8")))


def commands(fp8, tiny_wan, tiny_qwen, folder):
    """{name: call with model options} of every command that loads a model, for files that were made on fp8 weights."""
    (clip, album), inputs = fp8, fp8[0].parent.parent
    picture = dict(bitstream=str(album), model_id=str(tiny_qwen), cache_dir="")
    film = dict(bitstream=str(clip), model_id=str(tiny_wan), cache_dir="")
    start = str(clip.parent / "stage2/checkpoint.safetensors")

    def made(run, cls, **settings):
        return lambda **options: run(cls(**settings, **options))

    return {
        "video.reconstruct": made(decode_video, DecodeVideo, output_dir=str(folder / "a"), **film),
        "video.scale": made(add_noise_video, AddNoiseVideo, original_frames_dir=str(inputs / "clip"), steps=2,
                            output=str(folder / "b.vov"), **film),
        "video.edit": made(edit_video, EditVideo, weights=str(clip), caption="x", output_video=str(folder / "c.mp4"),
                           model_id=str(tiny_wan)),
        "video.edit of a checkpoint": made(edit_video, EditVideo, weights=start, caption="x", base_caption="y",
                                           output_video=str(folder / "d.mp4"), model_id=str(tiny_wan)),
        "video.evaluate": made(evaluate_clips, EvalConfig, real_dir=str(inputs / "clip"), fake_dir=str(clip),
                               out_dir=str(folder / "e"), work_dir=str(folder / "w"), model_id=str(tiny_wan)),
        "image.reconstruct": made(decode_pictures, DecodePictures, output_dir=str(folder / "f"), **picture),
        "image.scale": made(add_noise_pictures, AddNoisePictures, original=str(inputs / "album/p0.png"), steps=2,
                            output=str(folder / "g.vov"), **picture),
        "image.edit": made(edit_picture, EditPicture, weights=str(album), caption="x", output=str(folder / "h.png"),
                           model_id=str(tiny_qwen)),
        "image.evaluate": made(evaluate_pictures, EvalConfig, real_dir=str(inputs / "album/p0.png"),
                               fake_dir=str(album), out_dir=str(folder / "j"), work_dir=str(folder / "w"),
                               model_id=str(tiny_qwen)),
    }


def test_every_command_hands_them_on_or_refuses_them(fp8, tiny_wan, tiny_qwen, tmp_path, monkeypatch):
    def load(cls, model_id, cache_dir, device="auto", precision="auto", trusted=True, offload="none"):
        raise Loaded(device, precision, offload)
    monkeypatch.setattr(Backbone, "load", classmethod(load))
    for name, call in commands(fp8, tiny_wan, tiny_qwen, tmp_path).items():
        for options, expected in ((dict(), ("auto", "float32-fp8", "none")),
                                  (dict(device="cpu", offload="blocks"), ("cpu", "float32-fp8", "blocks")),
                                  (dict(quantize="fp8", dtype="bfloat16"), ("auto", "bfloat16-fp8", "none"))):
            with pytest.raises(Loaded) as found:
                call(**options)
            assert found.value.args == expected, name
        for other in ("none", "nf4"):
            with pytest.raises(VovError, match=f"`quantize`={other}, but .* was made with `quantize`=fp8"):
                call(quantize=other)
    settings = video_settings(tiny_wan, fp8[0].parent.parent / "clip", tmp_path / "k", quantize="fp8", offload="blocks")
    with pytest.raises(Loaded) as found:
        fit.stage1(settings)
    assert found.value.args == ("cpu", "auto-fp8", "blocks")
    pictures = image_settings(tiny_qwen, fp8[0].parent.parent / "album", tmp_path / "l", quantize="fp8",
                              offload="blocks", dtype="bfloat16")
    with pytest.raises(Loaded) as found:
        fit.fit_pictures(pictures, pictures, pictures)
    assert found.value.args == ("cpu", "bfloat16-fp8", "blocks")


def test_a_file_of_fp8_weights_says_so_and_decodes_with_them_alone(fp8, tiny_wan):
    header = bitstream.read(fp8[0]).header
    assert header.dtype == "float32-fp8"
    right, wrong = (WanBackbone.load(str(tiny_wan), "", "cpu", precision) for precision in ("float32-fp8", "float32"))
    frames = decode(fp8[0], right)[0].frames
    with pytest.raises(VovError, match="fingerprint"):
        decode(fp8[0], wrong)
    streamed = WanBackbone.load(str(tiny_wan), "", "cpu", "float32-fp8", offload="blocks")
    assert np.array_equal(decode(fp8[0], streamed)[0].frames, frames)


def test_offloading_changes_no_bit_of_a_fit(fp8, tiny_wan, tmp_path):
    clip = fp8[0].parent.parent / "clip"
    settings = video_settings(tiny_wan, clip, tmp_path / "resident", quantize="fp8", offload="none")
    assert two_stage(settings).read_bytes() == fp8[0].read_bytes()
    streamed = dataclasses.replace(settings, offload="blocks")  # the same run: nothing is fitted
    before = files.path_hash(tmp_path / "resident/stage2/log.jsonl")
    two_stage(streamed)
    assert files.path_hash(tmp_path / "resident/stage2/log.jsonl") == before
