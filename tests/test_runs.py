"""What a run is made of: content, not paths. The same run goes on, another one is refused or starts over."""

import dataclasses
import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.runs import image_settings, steps_logged, two_stage, video_settings, write_album, write_clip
from vov import VovError, bitstream
from vov.commands import fit
from vov.commands.options import VideoFit
from vov.decoding.decode import decode
from vov.runtime import files


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip")


def theta(folder):
    return load_file(folder / "checkpoint.safetensors")["unilora_theta_d"]


def test_what_names_the_same_thing_is_the_same_run(tiny_wan, clip, tmp_path, monkeypatch):
    caption = tmp_path / "caption.txt"
    caption.write_text("a red ball rolls\n")
    settings = video_settings(tiny_wan, clip, tmp_path / "out", device="auto", dtype="auto")
    fit.stage1(settings)
    before = steps_logged(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clip, tmp_path / "moved")
    same = [dict(frames_dir="moved"), dict(frames_dir="./clip/"), dict(device="cpu"), dict(dtype="float32"),
            dict(caption="", caption_file=str(caption)), dict(caption="a  red ball\nrolls"), dict(name="other"),
            dict(save_every=5, preview_every=1, checkpointing="none", compile="never"),
            dict(model_id="tiny-wan", cache_dir=str(tiny_wan.parent)), dict(out_dir="./out/"), dict(overwrite=True),
            dict(shift=0.0)]
    for changes in same:
        fit.stage1(dataclasses.replace(settings, **changes))
        assert steps_logged(tmp_path / "out") == before, changes


def test_other_content_is_another_run_whatever_its_path(tiny_wan, clip, tmp_path):
    caption = tmp_path / "caption.txt"
    caption.write_text("a red ball rolls")
    start = tmp_path / "start"
    fit.stage1(video_settings(tiny_wan, clip, start, seed=5))
    init = tmp_path / "init.safetensors"
    shutil.copy(start / "checkpoint.safetensors", init)
    settings = video_settings(tiny_wan, clip, tmp_path / "out", caption="", caption_file=str(caption),
                              init_lora_path=str(init))
    fit.stage1(settings)
    first = theta(tmp_path / "out")

    def replace_clip():
        write_clip(clip, shade=90)

    def edit_caption():
        caption.write_text("a blue ball rolls")

    def refit_start():
        fit.stage1(video_settings(tiny_wan, clip, start, seed=6, overwrite=True))
        shutil.copy(start / "checkpoint.safetensors", init)

    for change, named in ((replace_clip, "the clip or pictures"), (edit_caption, "the caption"),
                          (refit_start, "the checkpoint it starts from")):
        change()
        with pytest.raises(VovError, match=f"belongs to another run .other: {named}.; use another `out_dir`"):
            fit.stage1(settings)
        assert torch.equal(theta(tmp_path / "out"), first)
        fit.stage1(dataclasses.replace(settings, overwrite=True))
        fit.stage1(dataclasses.replace(settings, out_dir=str(tmp_path / named)))  # the oracle: a fresh folder
        assert torch.equal(theta(tmp_path / "out"), theta(tmp_path / named)), named
        assert not torch.equal(theta(tmp_path / "out"), first)
        first = theta(tmp_path / "out")


def test_a_replaced_clip_is_coded_anew_and_its_file_is_its_own(tiny_wan, clip, tmp_path):
    settings = video_settings(tiny_wan, clip, tmp_path / "out")
    old = two_stage(settings).read_bytes()
    write_clip(clip, shade=90)
    with pytest.raises(VovError, match="the clip or pictures"):
        two_stage(settings)
    assert (tmp_path / "out/ball.vov").read_bytes() == old
    new = two_stage(dataclasses.replace(settings, overwrite=True)).read_bytes()
    fresh = two_stage(dataclasses.replace(settings, out_dir=str(tmp_path / "fresh"))).read_bytes()
    assert new == fresh != old
    results = [json.loads((tmp_path / name / "result.json").read_text())["psnr"] for name in ("out", "fresh")]
    assert results[0] == results[1]


def test_stage_2_depends_on_the_stage_1_it_came_from(tiny_wan, clip, tmp_path):
    settings = video_settings(tiny_wan, clip, tmp_path / "out")
    two_stage(settings)
    refit = dataclasses.replace(settings, seed=9, overwrite=True)
    again = two_stage(refit, seed=settings.seed).read_bytes()  # stage 2 has the settings it had
    fresh = two_stage(dataclasses.replace(refit, out_dir=str(tmp_path / "fresh")), seed=settings.seed).read_bytes()
    assert again == fresh


def test_an_album_is_its_pictures_and_captions(tiny_qwen, tmp_path):
    album = write_album(tmp_path / "album")
    settings = image_settings(tiny_qwen, album, tmp_path / "out")
    old = two_stage(settings).read_bytes()
    log = steps_logged(tmp_path / "out/stage1")
    shutil.copytree(album, tmp_path / "moved")
    moved = dataclasses.replace(settings, data_root=f"{tmp_path}/./moved/",
                                description_file=str(tmp_path / "moved/album.txt"))
    assert two_stage(moved).read_bytes() == old and steps_logged(tmp_path / "out/stage1") == log
    text = (album / "album.txt").read_text()
    (album / "album.txt").write_text(text.replace("picture b", "a tree"))
    with pytest.raises(VovError, match="other: the caption"):
        two_stage(settings)
    (album / "album.txt").write_text(text)
    shutil.copy(album / "p0.png", album / "p1.png")
    with pytest.raises(VovError, match="other: the clip or pictures"):
        two_stage(settings)


def test_settings_that_shape_the_result_are_named_when_they_differ(tiny_wan, clip, tmp_path):
    settings = video_settings(tiny_wan, clip, tmp_path / "out")
    fit.stage1(settings)
    for changes, named in ((dict(lr=0.5, seed=1), "`lr`, `seed`"), (dict(dtype="bfloat16"), "`dtype` or `quantize`"),
                           (dict(decode_steps=3), "`decode_steps`"), (dict(quantize="fp8"), "the model")):
        with pytest.raises(VovError, match=f"other: .*{named}"):
            fit.stage1(dataclasses.replace(settings, **changes))


def test_a_finished_run_changes_nothing_and_says_the_same(tiny_wan, clip, tmp_path, capsys):
    settings = video_settings(tiny_wan, clip, tmp_path / "out")
    two_stage(settings)
    said = capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()
              and p.name not in ("config.yaml",)}
    two_stage(settings)
    assert capsys.readouterr().out == said
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()
                      and p.name not in ("config.yaml",)}


def test_two_runs_do_not_share_a_folder(tiny_wan, clip, tmp_path):
    settings = video_settings(tiny_wan, clip, tmp_path / "out")
    for held in ("out", "out/stage1"):
        with files.locked(tmp_path / held), pytest.raises(VovError, match=r"another run is using it \(process \d+\)"):
            two_stage(settings)
    assert two_stage(settings).is_file() and not list(tmp_path.rglob(".lock"))


def test_a_lock_dies_with_its_process_and_parts_of_the_dead_are_removed(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if not child:  # a process that is killed while it writes
        with files.locked(tmp_path / "out"), files.atomic(tmp_path / "out/x.png") as part:
            part.write_bytes(b"half")
            os.write(write, b"!")
            threading.Event().wait()
    os.read(read, 1)
    with pytest.raises(VovError, match=f"process {child}"), files.locked(tmp_path / "out"):
        pass
    assert len(list((tmp_path / "out").glob(".vov-*.part.png"))) == 1
    os.kill(child, 9)
    os.waitpid(child, 0)
    with files.locked(tmp_path / "out"), files.atomic(tmp_path / "out/y.png") as mine:
        mine.write_bytes(b"alive")
        files.remove_parts(tmp_path)
        assert [p.name for p in (tmp_path / "out").glob("*.part*")] == [mine.name]


@pytest.fixture(scope="module")
def other_encoder(tiny_wan, tmp_path_factory):
    """The same transformer and VAE with another text encoder."""
    from transformers import UMT5EncoderModel

    folder = tmp_path_factory.mktemp("other") / "tiny-wan"
    shutil.copytree(tiny_wan, folder)
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
    with torch.no_grad():
        encoder.shared.weight.mul_(3).add_(0.5)
    encoder.save_pretrained(folder / "text_encoder")
    return folder


def test_another_text_encoder_is_another_model_and_poisons_no_cache(tiny_wan, other_encoder, clip, tmp_path):
    from vov.model.wan import WanBackbone

    path = two_stage(video_settings(tiny_wan, clip, tmp_path / "out"))
    right, wrong = (WanBackbone.load(str(folder), "", "cpu") for folder in (tiny_wan, other_encoder))
    expected = decode(path, right)[0].frames
    with pytest.raises(VovError, match="text encoder and tokenizer included"):
        decode(path, wrong)
    captions = ["a caption that no cache knows"]
    theirs, ours = wrong.embed(captions)[0]["text"], right.embed(captions)[0]["text"]
    assert not torch.equal(theirs, ours)
    assert np.array_equal(decode(path, right)[0].frames, expected)
    assert torch.equal(ours, right.embed_text(captions)[0]["text"])
    with pytest.raises(VovError, match="the model"):
        two_stage(video_settings(other_encoder, clip, tmp_path / "out"))


def test_a_tokenizer_and_a_configuration_shape_a_decode_too(tiny_wan, tmp_path):
    from vov.model.wan import WanBackbone

    prints = {WanBackbone.load(str(tiny_wan), "", "cpu").fingerprint()}
    for name, change in (("tokenizer/tokenizer.json", lambda text: text.replace('"a"', '"ä"', 1)),
                         ("transformer/config.json", lambda text: text.replace('"eps": 1e-06', '"eps": 1e-03'))):
        folder = tmp_path / name.split("/")[0]
        shutil.copytree(tiny_wan, folder)
        text = (folder / name).read_text()
        assert change(text) != text
        (folder / name).write_text(change(text))
        prints.add(WanBackbone.load(str(folder), "", "cpu").fingerprint())
    assert len(prints) == 3


def test_files_of_fingerprint_version_1_still_decode(tiny_wan, clip, tmp_path):
    from vov.model import fingerprint
    from vov.model.wan import WanBackbone

    path = two_stage(video_settings(tiny_wan, clip, tmp_path / "out"))
    model, stream = WanBackbone.load(str(tiny_wan), "", "cpu"), bitstream.read(path)
    old = dataclasses.replace(stream.header, fingerprint=fingerprint.version_1(model.transformer, model.vae))
    bitstream.write(tmp_path / "old.vov", dataclasses.replace(stream, header=old))
    assert np.array_equal(decode(tmp_path / "old.vov", model)[0].frames,
                          decode(path, model)[0].frames)
    zero = dataclasses.replace(stream.header, fingerprint=bytes(8))
    bitstream.write(tmp_path / "zero.vov", dataclasses.replace(stream, header=zero))
    with pytest.raises(VovError, match="fingerprint 0000000000000000"):
        decode(tmp_path / "zero.vov", model)


def test_the_defaults_of_a_run_are_part_of_its_identity():
    shaping = set(VideoFit().identity())
    assert {"lr", "seed", "noise", "width", "rank", "decode_steps", "lambda_rate"} <= shaping
    assert not shaping & {"frames_dir", "caption", "caption_file", "out_dir", "model_id", "cache_dir", "device", "name",
                          "init_lora_path", "overwrite", "save_every", "offload"}
