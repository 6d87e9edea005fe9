"""Nothing that is read is ever written, by any command, whatever OVERWRITE says; and what no run made is kept."""

import dataclasses
import os
import shutil
import sys

import numpy as np
import pytest

from tests.runs import image_settings, video_settings
from tests.test_fit import ball
from tests.test_golden import GOLDEN
from vov import VovError, media
from vov.commands import add_noise, collection, dataset, dataset_item, decode, edit, encode, evaluate, export, fit
from vov.dataset import cluster
from vov.dataset.items import read_items
from vov.dataset.options import SetOptions
from vov.evaluation.pairs import EvalConfig
from vov.model.options import ModelOptions
from vov.runtime import files
from vov.runtime.resumable import Outputs, claim, ours

SMALL = dict(width=32, height=32, config="", device="cpu")


@pytest.fixture
def films(tmp_path, monkeypatch):
    """A folder of originals: a clip as a file and as frames, pictures, files of ours, a caption; no model is loaded."""
    place = tmp_path / "films"
    media.write_frames(place / "seq", ball(5, 48, 40))
    media.write_video(place / "clip.mp4", ball(5, 48, 40), 24.0)
    for name in "ab":
        media.write_image(place / f"{name}.png", ball(1, 48, 40)[0])
    for name in ("video_theta", "image_noise", "album_theta"):
        shutil.copy(GOLDEN / f"{name}.vov", place)
    shutil.copy(place / "a.png", place / "image_noise.png")
    shutil.copy(place / "clip.mp4", place / "video_theta.mp4")
    (place / "caption.txt").write_text("a ball")
    (place / "album.txt").write_text("a.png|a ball\nb.png|a cube\n")
    (place / "set.csv").write_text("path\nseq\n")
    (place / "manifest.csv").write_text("name,original,decoded\nx,seq,seq\n")
    monkeypatch.setattr(ModelOptions, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    monkeypatch.setattr(dataset_item, "find_model", lambda *a, **k: pytest.fail("a model was looked for"))
    monkeypatch.setattr(sys, "argv", ["command"])
    return place


def encode_video(place, **given):
    encode.encode_video(encode.EncodeVideo(**SMALL | dict(num_frames=5, steps=4) | given))


def encode_image(place, **given):
    encode.encode_pictures(encode.EncodePictures(config="", device="cpu", steps=4, scaling_bytes=60, **given))


def fit_video(place, name="ball", overwrite=False, **given):
    settings = video_settings("none", place / "seq", place.parent / "out", name=name, overwrite=overwrite, **given)
    fit.two_stage(settings, settings, dataclasses.replace(settings, lambda_rate=0.003))


def fit_image(place, **given):
    settings = image_settings("none", place, place.parent / "out", **given)
    fit.fit_pictures(settings, settings, dataclasses.replace(settings, lambda_rate=0.003))


def data_set(place, **given):
    dataset.main(SetOptions(family="video", **given))


def moved(path, to):
    to.parent.mkdir(exist_ok=True)
    return path.rename(to)


COMMANDS = {  # name: (what runs it, outputs that are read, or lie in what is read)
    "encode a video": (encode_video, lambda p: dict(frames_dir=str(p / "clip.mp4"), out_dir=str(p))),
    "encode frames": (encode_video, lambda p: dict(frames_dir=str(p / "seq"), out_dir=str(p))),
    "encode into frames": (encode_video, lambda p: dict(frames_dir=str(p / "seq"), out_dir=str(p / "seq/out"))),
    "encode, chunks": (encode_video, lambda p: dict(
        frames_dir=str(shutil.copytree(p / "seq", p / "chunks/seq")), name="x", out_dir=str(p))),
    "encode a picture": (encode_image, lambda p: dict(image=str(p / "a.png"), out_dir=str(p))),
    "encode an album": (encode_image, lambda p: dict(
        description_file=str(p / "album.txt"), data_root=str(p), out_dir=str(p.parent), name="films")),
    "fit a clip": (fit_video, lambda p: dict(frames_dir=str(p / "clip.mp4"), out_dir=str(p), name="clip")),
    "fit frames": (fit_video, lambda p: dict(out_dir=str(p), name="seq")),
    "fit, caption as stage": (fit_video, lambda p: dict(
        caption="", out_dir=str(p.parent),
        caption_file=str(moved(p / "caption.txt", p.parent / "stage1/config.yaml")))),
    "fit an album": (fit_image, lambda p: dict(out_dir=str(p.parent), name="films")),
    "reconstruct a video": (lambda p, **k: decode.decode_video(decode.DecodeVideo(**k)), lambda p: dict(
        bitstream=str((p / "video_theta.vov").rename(p / "x.mp4")), output_dir=str(p))),
    "reconstruct pictures": (lambda p, **k: decode.decode_pictures(decode.DecodePictures(**k)), lambda p: dict(
        bitstream=str((p / "image_noise.vov").rename(p / "image_noise.png")), output_dir=str(p))),
    "scale a video": (lambda p, **k: add_noise.add_noise_video(add_noise.AddNoiseVideo(**k)), lambda p: dict(
        bitstream=str(p / "video_theta.vov"), original_frames_dir=str(p / "clip.mp4"), output=str(p / "clip.vov"))),
    "scale into the file": (lambda p, **k: add_noise.add_noise_video(add_noise.AddNoiseVideo(**k)), lambda p: dict(
        bitstream=str(p / "video_theta.vov"), original_frames_dir=str(p / "clip.mp4"),
        output=str(p / "video_theta.vov"))),
    "scale a picture": (lambda p, **k: add_noise.add_noise_pictures(add_noise.AddNoisePictures(**k)), lambda p: dict(
        bitstream=str(p / "image_noise.vov"), original=str(p / "a.png"), output=str(p / "a.vov"))),
    "scale an album": (lambda p, **k: add_noise.add_noise_pictures(add_noise.AddNoisePictures(**k)), lambda p: dict(
        bitstream=str(p / "album_theta.vov"), data_root=str(p), output=str(p / "a.png"))),
    "edit a video": (lambda p, **k: edit.edit_video(edit.EditVideo(**k)), lambda p: dict(
        weights=str(p / "video_theta.vov"), caption="x", original_frames_dir=str(p / "clip.mp4"),
        output_video=str(p / "clip.mp4"))),
    "edit a picture": (lambda p, **k: edit.edit_picture(edit.EditPicture(**k)), lambda p: dict(
        weights=str(p / "image_noise.vov"), caption="x", original=str(p / "a.png"), output=str(p / "a.png"))),
    "merge": (lambda p, **k: edit.edit_video(edit.MergeVideos(**k)), lambda p: dict(
        weights1=str(p / "video_theta.vov"), weights2=str(shutil.copy(p / "video_theta.vov", p / "y.vov")),
        caption="x", output_video=str(p / "y.vov"))),
    "export": (lambda p, **k: export.main(export.Export(**k)), lambda p: dict(
        input=str((p / "video_theta.vov").rename(p / "x.safetensors")), output=str(p / "x.safetensors"))),
    "export a folder": (lambda p, **k: export.main(export.Export(**k)), lambda p: dict(
        input=str(p / "seq"), output=str(p / "seq"), format="peft")),
    "evaluate": (lambda p, **k: evaluate.evaluate_clips(EvalConfig(metrics="psnr", **k)), lambda p: dict(
        real_dir=str(p / "clip.mp4"), fake_dir=str(p / "seq"), out_dir=str(p / "seq/results"))),
    "evaluate pictures": (lambda p, **k: evaluate.evaluate_pictures(EvalConfig(metrics="psnr", **k)), lambda p: dict(
        real_dir=str(p), fake_dir=str(p), out_dir=str(p))),
    "evaluate a list": (lambda p, **k: evaluate.evaluate_clips(EvalConfig(metrics="psnr", **k)), lambda p: dict(
        manifest=str((p / "manifest.csv").rename(p / "results.csv")), out_dir=str(p))),
    "evaluate, scratch": (lambda p, **k: evaluate.evaluate_clips(EvalConfig(metrics="psnr", **k)), lambda p: dict(
        real_dir=str(shutil.copytree(p / "seq", p / "anchors/seq")), fake_dir=str(p / "seq"), work_dir=str(p),
        anchors="x264", anchor_bytes="900", out_dir=str(p / "results"))),
    "data set": (data_set, lambda p: dict(manifest=str(p), out_dir=str(p))),
    "data set, a list": (data_set, lambda p: dict(manifest=str((p / "set.csv").rename(p / "results.csv")),
                                                  out_dir=str(p))),
    "data set over an item": (data_set, lambda p: dict(manifest=str(p / "set.csv"), out_dir=str(p))),
    "data set in an item": (data_set, lambda p: dict(manifest=str(p), out_dir=str(p / "seq"))),
    "collection": (lambda p, **k: collection.main(collection.CollectionFit(**SMALL | k)), lambda p: dict(
        manifest=str(p), out_dir=str(p))),
    "collection in an item": (lambda p, **k: collection.main(collection.CollectionFit(**SMALL | k)),
                              lambda p: dict(manifest=str(p), family="video", out_dir=str(p / "seq/out"))),
}


def snapshot(place):
    """{path: (content, number)} of all that is in a folder."""
    return {path: (path.read_bytes(), path.stat().st_ino) for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_what_it_reads(command, overwrite, films):
    run, naming = COMMANDS[command]
    given = naming(films)
    before = snapshot(films.parent)
    asked = "is read; choose another `(out_dir|output|output_dir|output_video|work_dir)`$"
    with pytest.raises(VovError, match=asked) as caught:
        run(films, **given, overwrite=overwrite)
    assert "\n" not in str(caught.value) and snapshot(films.parent) == before


def link_to_folder(place):
    (place.parent / "elsewhere").symlink_to(place)
    return place / "clip.mp4", place.parent / "elsewhere"


def link_to_file(place):
    (place.parent / "clip.mp4").symlink_to(place / "clip.mp4")
    return place.parent / "clip.mp4", place


def link_as_output(place):
    (place / "new").mkdir()
    (place / "new/clip.mp4").symlink_to(place / "clip.mp4")
    return place / "clip.mp4", place / "new"


def folder_link_as_output(place):
    (place / "new").mkdir()
    (place / "new/seq").symlink_to(place / "seq")
    return place / "seq", place / "new"


def hard_link(place):
    (place / "new").mkdir()
    os.link(place / "clip.mp4", place / "new/clip.mp4")
    return place / "clip.mp4", place / "new"


def another_case(place):
    """What a disk that does not mind case shows: one file by two names."""
    os.link(place / "clip.mp4", place / "CLIP.mp4")
    return place / "CLIP.mp4", place


@pytest.mark.parametrize("spell", [link_to_folder, link_to_file, link_as_output, folder_link_as_output, hard_link,
                                   another_case, lambda place: (place / "clip.mp4", place / "seq/../../films")])
def test_other_names_of_an_original_are_that_original(spell, films):
    source, out = spell(films)
    before = snapshot(films.parent)
    with pytest.raises(VovError, match="which is read; choose another `out_dir`"):
        encode_video(films, frames_dir=str(source), name=source.stem.lower(), out_dir=str(out), overwrite=True)
    assert snapshot(films.parent) == before


def test_a_folder_of_links_reads_what_they_lead_to(films):
    (films / "links").mkdir()
    (films / "links/0.png").symlink_to(films / "a.png")
    with pytest.raises(VovError, match=r"a\.png: would be written over .*links/0\.png, which is read"):
        files.refuse_overlap([films / "a.png"], [films / "links"])


def test_relative_folders_are_looked_at_from_where_the_command_runs(films, monkeypatch):
    monkeypatch.chdir(films / "seq")
    with pytest.raises(VovError, match=r"would be written over \.\./clip\.mp4, which is read"):
        encode_video(films, frames_dir="../clip.mp4", out_dir="../seq/..")


def test_outputs_beside_what_is_read_are_none_of_it(films):
    files.refuse_overlap([films / "clip.vov", films / "new/a.png", films.parent / "seq"],
                         [films / "clip.mp4", films / "seq", "", films / "missing"])


def test_what_no_run_made_is_never_replaced_and_what_a_run_made_is(tmp_path):
    foreign = tmp_path / "x/notes.png"
    clip = np.zeros((3, 16, 16, 3), np.uint8)

    def decode(frames, identity, overwrite):
        shown, film = tmp_path / "x", tmp_path / "x.mp4"
        with Outputs("x", [shown, film], identity, overwrite) as outputs:
            outputs.make(shown, lambda: media.write_frames(shown, clip[:frames]))
            outputs.make(film, lambda: media.write_video(film, clip[:frames], 8.0))
            outputs.finish()

    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(VovError, match=r"notes\.png exists, and no run made it"):
            decode(3, "a", overwrite)
    foreign.rename(tmp_path / "notes.png")
    decode(3, "a", False)
    (tmp_path / "notes.png").rename(foreign)
    with pytest.raises(VovError, match=r"notes\.png exists, and no run made it"):
        decode(2, "b", True)
    foreign.unlink()
    (tmp_path / "x/00001.png").write_bytes(b"changed since")
    with pytest.raises(VovError, match="has been changed since it was made; set `overwrite`=1"):
        decode(3, "a", False)
    decode(2, "b", True)
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["00000.png", "00001.png"]
    assert ours(tmp_path) == {"x/00000.png", "x/00001.png", "x.mp4"}


def test_a_run_that_fails_keeps_what_was_there_and_one_that_ends_removes_what_it_does_not_make(tmp_path):
    def run(names, identity, fails=False):
        with Outputs("r", [tmp_path / name for name in "abc"], identity, True) as outputs:
            for name in names:
                outputs.make(tmp_path / name, lambda name=name: (tmp_path / name).write_text(identity))
            if fails:
                raise VovError("no")
            outputs.finish()

    run("abc", "1")
    with pytest.raises(VovError, match="no"):
        run("a", "2", fails=True)
    assert [(tmp_path / name).read_text() for name in "abc"] == ["2", "1", "1"]
    run("ab", "3")  # what a killed run had begun is ours
    assert [(tmp_path / name).read_text() for name in "ab"] == ["3", "3"] and not (tmp_path / "c").exists()


def test_files_of_versions_without_records_are_ours_by_what_they_say(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(VovError, match="no run made it"):
        claim(tmp_path, ["film.mp4"])
    (tmp_path / "result.json").write_text('{"file": "film.vov", "bytes_by_part": {"header": 9}}')
    claim(tmp_path, ["film.mp4", "result.json"])
    for damaged in ('{"ours": [1, {}], "made": {}}', '{"made": 3}', "[", '{"ours": 7, "made": {"a": 1}}'):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "sub/.made-0.json").write_text(damaged)
        assert ours(tmp_path / "sub") == set()


def test_outputs_of_runs_are_no_items_of_a_set_but_frames_beside_them_are(films, tmp_path):
    def names(**more):
        return {item.path.name for item in read_items(str(films), "", **more)}

    originals = names()
    claim(films / "earlier", ["results.json"])
    with Outputs("decoded", [films / "decoded"], "x", False) as outputs:
        outputs.make(films / "decoded", lambda: media.write_frames(films / "decoded", ball(5, 16, 16)))
    (films / "new").mkdir()
    assert names(out_dir=str(films / "new")) == originals
    assert names(out_dir=str(films / "seq")) == originals | {"new"}  # originals stay items, and are refused as OUT_DIR
    claim(films / "seq", [".note"])
    assert "seq" in names()


def test_a_set_coded_into_its_own_folder_stays_the_set_that_it_was(tiny_qwen, tmp_path, monkeypatch, capsys):
    def here(tasks, function, resources, retries, environ, done, lost, wanted):
        for number, task in enumerate(tasks):
            done(number, dataset_item.encode_one(task))

    monkeypatch.setattr(cluster, "run", here)
    monkeypatch.setattr(sys, "argv", ["command"])
    media.write_image(tmp_path / "set/a.png", ball(1, 32, 32)[0])
    settings = SetOptions(manifest=str(tmp_path / "set"), out_dir=str(tmp_path / "set/out"), family="image",
                          report=False)
    asked = {"STEPS": "3", "NOISE_BYTES": "60", "DEVICE": "cpu", "SCORE": "pixel", "MODEL_ID": str(tiny_qwen)}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    for said in ("1 items: 0 done before, 1 to do, 0 not possible", "1 items: 1 done before, 0 to do, 0 not possible"):
        dataset.main(settings)
        assert said in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["a.png", "out"]
    (tmp_path / "set/out/results.csv").unlink()
    dataset.main(dataclasses.replace(settings, family=""))  # folders, too, are looked at
    assert "1 items: 1 done before" in capsys.readouterr().out
