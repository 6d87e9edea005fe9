"""What cannot work is refused in one line before any time is spent, wherever it comes from."""

import dataclasses
import json
import os
import resource
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.runs import image_settings, two_stage, video_settings, write_album, write_clip
from vov import VovError, bitstream, config
from vov.commands import export, fit
from vov.commands.decode import DecodePictures, DecodeVideo, decode_pictures, decode_video
from vov.commands.edit import EditVideo, edit_video
from vov.commands.fit import fit_pictures
from vov.commands.options import VideoFit
from vov.config import cli
from vov.decoding.decode import decode
from vov.fitting.fit import Fit
from vov.model.qwen import QwenBackbone
from vov.model.wan import WanBackbone
from vov.runtime import files


@pytest.fixture(scope="module")
def fitted(tiny_wan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    write_clip(folder / "clip")
    return two_stage(video_settings(tiny_wan, folder / "clip", folder / "out"))


@pytest.fixture(scope="module")
def album(tiny_qwen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    write_album(folder / "album")
    return two_stage(image_settings(tiny_qwen, folder / "album", folder / "out"))


@pytest.fixture
def no_fit(monkeypatch):
    """A fit that starts is a failure of the test."""
    monkeypatch.setattr(Fit, "run", lambda self: pytest.fail("time was spent"))


def run_two_stage(tiny_wan, clip, folder, monkeypatch, capsys, **variables):
    """What `run_two_stage.sh` runs, with the tiny model; returns the lines that begin with "error"."""
    common = {"CONFIG": "nano-video", "LORA_PRESET": "qkvo", "LAST_K": "2", "WAN_MODEL_ID": str(tiny_wan),
              "FRAMES_DIR": str(clip), "OUT_DIR": str(folder), "CAPTION": "a ball", "WIDTH": "32", "HEIGHT": "32",
              "NUM_FRAMES": "5", "DEVICE": "cpu", "V_LENGTH": "300", "NAME": "ball"}
    for name, value in (common | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as ended:
        cli.run(VideoFit, fit.two_stage, "usage", stages=("", "stage1", "stage2"))
    assert ended.value.code == 1
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(("variables", "message"), [
    ({"STAGE2_WIDTH": "208"}, "WIDTH is 32 in the common settings but 208 in stage2"),
    ({"STAGE2_RESIZE": "stretch"}, "RESIZE is 'crop' in"),
    ({"STAGE2_RANK": "2"}, "RANK is 1 in"),
    ({"STAGE2_LAST_K": "1"}, "LAST_K is 2 in"),
    ({"STAGE2_PROJ_SEED": "1"}, "proj_seed is 42 in"),
    ({"STAGE2_THETA_D_LENGTH": "200"}, "V_LENGTH is 300 in the common settings but 200 in stage2"),
    ({"STAGE2_DTYPE": "bfloat16"}, "dtype is 'float32' in"),
    ({"STAGE2_CAPTION": "a cube"}, "CAPTION is 'a ball' in"),
    ({"STAGE1_CAPTION": "a cube", "STAGE2_CAPTION": "a cube"}, "CAPTION is 'a ball' in"),
    ({"STAGE2_NUM_FRAMES": "9"}, "NUM_FRAMES is 5 in"),
    ({"STAGE2_QUANTIZE": "fp8"}, "QUANTIZE is 'none' in"),
    ({"STAGE2_INIT_LORA_PATH": "x.safetensors"}, "stage2 starts from what stage1 ends in"),
    ({"STAGE1_OUT_DIR": "same", "STAGE2_OUT_DIR": "./same/"}, "is the folder of stage1 and of stage2"),
    ({"CAPTION": "x" * 16385}, "caption: has 16385 bytes of UTF-8, not 0 to 16384"),
    ({"CAPTION": "caf\udce9"}, "is not Unicode text"),
    ({"NAME": "a" * 300}, "longer than the 255 bytes that file systems hold; set a shorter NAME"),
    ({"STAGE2_DECODE_STEPS": "20000"}, "must be at most 10000"),
    ({"STAGE2_SEED": str(2**64)}, "must be at most"),
    ({"STAGE2_GUIDANCE": "2000"}, "must be at most 1000"),
    ({"RANK": "4000"}, "rank: 4000 is too large for this model"),
    ({"CONFIG": "nosuch"}, "CONFIG=nosuch: no such preset or YAML file; presets are"),
    ({"RANK": "-1"}, "RANK: rank='-1' must be at least 1"),
    ({"RANK": "one"}, "RANK: rank='one' is not a whole number"),
    ({"DTYPE": "int8"}, "dtype='int8' is not one of auto, float32, bfloat16, float16"),
    ({"LR": "inf"}, "lr='inf' is not a number"),
    ({"INIT_LORA_PATH": "nosuch.safetensors"}, "nosuch.safetensors: cannot be read"),
])
def test_what_cannot_work_is_one_line_before_any_time(variables, message, tiny_wan, fitted, tmp_path, monkeypatch,
                                                      capsys, no_fit):
    monkeypatch.chdir(tmp_path)
    clip = fitted.parent.parent / "clip"
    errors = run_two_stage(tiny_wan, clip, tmp_path / "out", monkeypatch, capsys, **variables)
    assert len(errors) == 1 and message in errors[0], errors
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.vov"))


@pytest.mark.parametrize(("text", "message"), [
    ("- width\n- height\n", "must be mappings"),
    ("stage1:\n- lr\n", "must be mappings"),
    ("lr: [1, 2]\n", "is not a number"),
    ("caption: [a]\n", "is not text"),
    ("rank: {a: 1}\n", "is not a whole number"),
    ("lr: .nan\n", "is not a number"),
    ("lr: {\n", "not valid YAML"),
    ("nosuch: 1\n", "unknown key 'nosuch'"),
    ("1: 2\n", "unknown key 1"),
])
def test_a_configuration_of_the_wrong_shape_is_one_line(text, message, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(VovError, match=message):
        config.load(VideoFit, {}, {"CONFIG": str(path)}, "stage1")


def test_image_stages_that_disagree_are_refused_too(tiny_qwen, album, tmp_path, no_fit):
    settings = image_settings(tiny_qwen, album.parent.parent / "album", tmp_path / "out")
    for changes, named in ((dict(width=64), "width"), (dict(data_root="/nowhere"), "data_root")):
        other = dataclasses.replace(settings, **changes)
        for both in ((settings, other), (other, other)):
            with pytest.raises(VovError, match=f"`{named}` is .* and must be the same in both"):
                fit_pictures(settings, both[0], dataclasses.replace(both[1], lambda_rate=0.01))
    huge = tmp_path / "huge.png"
    from PIL import Image

    Image.new("RGB", (4000, 600)).save(huge)
    with pytest.raises(VovError, match="4000×600 is too large for 1 frames coded as 32×32; use `resize`=crop"):
        two_stage(dataclasses.replace(settings, image=str(huge), caption="x", resize="stretch"))


def edited(path, target, metadata=lambda m: None, tensors=lambda t: None):
    """A checkpoint with other metadata or tensors."""
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["vov"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata(told)
    tensors(held)
    save_file(held, target, {"vov": json.dumps(told)})
    return target


WRONG = {
    "rank": (lambda m: (m.update(rank=2), m["config"].update(rank=2)), "index_hash|other layers or indices"),
    "layers": (lambda m: (m.update(last_k=1), m["config"].update(last_k=1)), "index_hash|other layers or indices"),
    "index hash": (lambda m: m.update(index_hash="00" * 8), "index_hash|other layers or indices"),
    "no hash": (lambda m: m.update(index_hash=7), "index_hash: is 7, not 16 hexadecimal digits"),
    "fingerprint": (lambda m: m.update(fingerprint="00" * 8), "fitted on another model"),
    "no fingerprint": (lambda m: m.update(fingerprint=[1]), "fitted on another model"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_of_other_layers_or_another_model_is_refused_wherever_it_is_read(what, album, fitted, tiny_qwen,
                                                                                       tiny_wan, tmp_path):
    change, message = WRONG[what]
    image = edited(album.parent / "stage2/checkpoint.safetensors", tmp_path / "image.safetensors", change)
    video = edited(fitted.parent / "stage2/checkpoint.safetensors", tmp_path / "video.safetensors", change)
    pictures, clip = album.parent.parent / "album", fitted.parent.parent / "clip"
    other = dict(rank=2) if what == "rank" else dict(last_k=1) if what == "layers" else {}
    wrong_hash = dict(index_hash="00" * 8) if other else {}
    edited(video, video, lambda m: m.update(wrong_hash)) if wrong_hash else None
    calls = [
        lambda: decode_pictures(DecodePictures(
            init_lora_path=str(image), description_file=str(pictures / "album.txt"), model_id=str(tiny_qwen),
            output_dir=str(tmp_path / "r"))),
        lambda: fit.stage1(video_settings(tiny_wan, clip, tmp_path / "v", init_lora_path=str(video))),
        lambda: edit_video(EditVideo(weights=str(video), caption="x", base_caption="y", model_id=str(tiny_wan),
                                         output_video=str(tmp_path / "e.png"))),
    ]
    if "fingerprint" not in what:  # an export looks at shapes alone
        calls.append(lambda: export.main(export.Export(input=str(video), output=str(tmp_path / "x.safetensors"),
                                                       model_id=str(tiny_wan))))
    for call in calls:
        with pytest.raises(VovError, match=message):
            call()
    assert not list(tmp_path.glob("*.mp4")) and not (tmp_path / "r").exists()


def test_a_start_with_another_rank_or_preset_names_what_to_set(fitted, tiny_wan, tmp_path, no_fit):
    start = str(fitted.parent / "stage1/checkpoint.safetensors")
    for changes, told in ((dict(rank=2), "`rank`=1"), (dict(last_k=1), "`last_k`=2"),
                          (dict(proj_seed=1), "`proj_seed`=42")):
        settings = video_settings(tiny_wan, fitted.parent.parent / "clip", tmp_path / "v", init_lora_path=start)
        with pytest.raises(VovError, match=f"fitted with other layers or indices .*{told}.*set these as they were"):
            fit.stage1(dataclasses.replace(settings, **changes))


@pytest.mark.parametrize("metadata", [
    lambda m: m.update(config=[1]), lambda m: m["config"].update(width="wide"), lambda m: m["config"].update(rank=-1),
    lambda m: m.update(captions=7), lambda m: m["config"].update(decode_steps=None),
    lambda m: m["config"].update(model_id="../../etc"),
])
def test_hostile_metadata_are_one_line(metadata, album, fitted, tiny_wan, tmp_path):
    image = edited(album.parent / "stage2/checkpoint.safetensors", tmp_path / "image.safetensors", metadata)
    video = edited(fitted.parent / "stage2/checkpoint.safetensors", tmp_path / "video.safetensors", metadata)
    asked = DecodePictures(init_lora_path=str(image), output_dir=str(tmp_path / "r"), cache_dir=str(tmp_path),
                             description_file=str(album.parent.parent / "album/album.txt"))
    used = not isinstance(json.loads(safe_open(image, "pt").metadata()["vov"])["captions"], int)
    for call in (*[lambda: decode_pictures(asked)] * used,  # it takes captions from DESCRIPTION_FILE
                 lambda: edit_video(EditVideo(weights=str(video), caption="x", base_caption="y",
                                                  cache_dir=str(tmp_path), output_video=str(tmp_path / "e.png")))):
        with pytest.raises(VovError) as error:
            call()
        assert str(error.value).count("\n") == 0


@pytest.mark.parametrize("tensors", [
    lambda t: t.pop("optimizer.0.exp_avg_sq"), lambda t: t.pop("unilora_theta_d"),
    lambda t: t.update({"optimizer.0.exp_avg": torch.zeros(7)}), lambda t: t.pop("fit.gradient_mean"),
    lambda t: t.update({"unilora_theta_d": torch.zeros(9)}),
])
def test_a_damaged_checkpoint_is_not_resumed(tensors, fitted, tiny_wan, tmp_path):
    settings = video_settings(tiny_wan, fitted.parent.parent / "clip", tmp_path / "v")
    fit.stage1(settings)
    edited(tmp_path / "v/checkpoint.safetensors", tmp_path / "v/checkpoint.safetensors", tensors=tensors)
    with pytest.raises(VovError, match="the file is damaged: remove it to start over"):
        fit.stage1(settings)


def test_the_other_trees_files_checkpoints_and_models_are_named_as_such(album, fitted, tiny_wan, tiny_qwen, tmp_path):
    output = dict(output_dir=str(tmp_path / "out"))
    with pytest.raises(VovError, match="is a file of the image tree"):
        decode_video(DecodeVideo(bitstream=str(album), model_id=str(tiny_wan), **output))
    with pytest.raises(VovError, match="is a file of the video tree"):
        decode_pictures(DecodePictures(bitstream=str(fitted), model_id=str(tiny_qwen), **output))
    with pytest.raises(VovError, match="is a file of the image tree"):
        edit_video(EditVideo(weights=str(album), caption="x", output_video=str(tmp_path / "e.png")))
    video = fitted.parent / "stage2/checkpoint.safetensors"
    captions = dict(description_file=str(album.parent.parent / "album/album.txt"))
    for model in (dict(cache_dir=str(tiny_wan.parent)), dict(model_id=str(tiny_wan))):
        with pytest.raises(VovError, match="holds a WanTransformer3DModel, but the image tree runs a Qwen"):
            decode_pictures(DecodePictures(init_lora_path=str(video), **captions, **output, **model))
    with pytest.raises(VovError, match="fitted on another model"):
        decode_pictures(DecodePictures(init_lora_path=str(video), model_id=str(tiny_qwen), **captions,
                                                **output))
    with pytest.raises(VovError, match="holds a QwenImageTransformer2DModel, but the video tree runs a Wan"):
        edit_video(EditVideo(weights=str(album.parent / "stage2/checkpoint.safetensors"), caption="x",
                                 base_caption="y", item="1", output_video=str(tmp_path / "e.png")))
    assert not (tmp_path / "out").exists()


def hostile(path, target, item=None, **changes):
    stream = bitstream.read(path)
    items = [dataclasses.replace(one, **item or {}) for one in stream.items]
    header = dataclasses.replace(stream.header, **changes)
    symbols = np.ones(header.theta_length, np.int32)  # a θ of zeros puts no adapter into the model
    bitstream.write(target, dataclasses.replace(stream, header=header, items=items, symbols=symbols))
    return target


@pytest.mark.parametrize(("item", "changes", "message"), [
    ({}, dict(fps=1e-20), "fps: 1e-20 frames per second is no video"),
    ({}, dict(fps=0.0), "fps: 0 frames per second is no video"),
    (dict(original_width=65536, original_height=65536), dict(resize="stretch"), "original size: 65536×65536"),
    (dict(original_width=65536, original_height=65536), dict(resize="pad"), "original size: 65536×65536"),
    ({}, dict(shift=1e-30), "shift: 1e-30 gives no noise levels"),
    ({}, dict(rank=4096), "rank: 4096 is too large for this model"),
    ({}, dict(last_k=4096), "`last_k`=4096, but the model has 2 blocks"),
    ({}, dict(lora_preset="nosuch"), "lora_preset: is 'nosuch'"),
    ({}, dict(index_hash=bytes(8)), "index_hash: differs"),
    ({}, dict(theta_length=299), "index_hash: differs"),
    ({}, dict(width=40), "both must be multiples of 16"),
    ({}, dict(num_frames=6), "`num_frames`=6: must be 4n.1"),
])
def test_valid_but_hostile_headers_are_bounded_before_work(item, changes, message, fitted, tiny_wan, tmp_path):
    path = hostile(fitted, tmp_path / "x.vov", item, **changes)
    backbone = WanBackbone.load(str(tiny_wan), "", "cpu")
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(VovError, match=message):
        decode(path, backbone)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # KiB
    if "fps" in changes or item:  # no model is needed to see it
        with pytest.raises(VovError, match=message):
            decode_video(DecodeVideo(bitstream=str(path), model_id="nosuch", output_dir=str(tmp_path / "o")))


def test_a_headers_shift_0_is_the_models_own_and_its_negative_prompt_is_used(fitted, tiny_wan, tmp_path):
    backbone = WanBackbone.load(str(tiny_wan), "", "cpu")

    def frames(**changes):
        return decode(hostile(fitted, tmp_path / "x.vov", None, **changes), backbone)[0].frames

    own = frames(shift=backbone.native_shift(32, 32), decode_steps=4)
    assert np.array_equal(frames(shift=0.0, decode_steps=4), own)
    assert not np.array_equal(frames(shift=9.0, decode_steps=4), own)
    guided = [frames(guidance=8.0, decode_steps=2, negative_prompt=text) for text in ("", "blue sky")]
    assert not np.array_equal(*guided)
    assert np.array_equal(frames(guidance=1.0, decode_steps=2, negative_prompt="blue sky"), frames(decode_steps=2))
    edits = []
    for text in ("", "blue sky"):
        path = hostile(fitted, tmp_path / "x.vov", None, guidance=8.0, decode_steps=2, negative_prompt=text, shift=0.0)
        settings = EditVideo(weights=str(path), caption="a cube", model_id=str(tiny_wan))
        from vov.editing import edit as editing

        edits.append(editing.edit(backbone, [editing.load(path, settings, "video")], settings)[1])
    assert not np.array_equal(*edits)


def test_frames_that_are_not_finite_are_an_error_never_black(fitted, tiny_wan, tiny_qwen, tmp_path):
    for kind, folder, shape in ((WanBackbone, tiny_wan, (1, 16, 2, 4, 4)), (QwenBackbone, tiny_qwen, (1, 4, 1, 4, 4))):
        backbone = kind.load(str(folder), "", "cpu")
        with pytest.raises(VovError, match="are not finite, so there is nothing to show; set `dtype`=float32"):
            backbone.decode(torch.full(shape, float("nan")))
    wild = hostile(fitted, tmp_path / "wild.vov", None, step=2.0**100)
    stream = bitstream.read(wild)
    bitstream.write(wild, dataclasses.replace(stream, symbols=np.full(300, 100, np.int32)))
    with pytest.raises(VovError, match="not finite"):
        decode_video(DecodeVideo(bitstream=str(wild), output_dir=str(tmp_path / "o"), model_id=str(tiny_wan)))
    assert not (tmp_path / "o/wild.mp4").exists()


def test_what_the_machine_is_to_blame_for_is_one_line(monkeypatch, capsys):
    for error, message in ((OSError(28, os.strerror(28), "/full/x"), "/full/x: the disk is full"),
                           (OSError(5, os.strerror(5), "/dev/x"), "/dev/x: Input/output error; check the disk"),
                           (MemoryError(), "the memory is used up"),
                           (torch.OutOfMemoryError("CUDA out of memory"), "OFFLOAD=blocks or QUANTIZE=fp8")):
        def main(settings, error=error):
            raise error
        monkeypatch.setattr(sys, "argv", ["x"])
        with pytest.raises(SystemExit) as ended:
            cli.run(DecodeVideo, main, "usage")
        said = capsys.readouterr().err
        assert ended.value.code == 1 and said.count("\n") == 1 and message in said
    assert files.taken("/") and cli.machine_problem(RuntimeError("a fault of ours")) == ""
