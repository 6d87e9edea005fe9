"""Pictures and videos in one set: each is what its file is, and gets its own tree's model and settings."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from tests.test_fit import ball
from vov import VovError, config, media
from vov.commands import dataset, dataset_item
from vov.commands.encode import EncodePictures, EncodeVideo, encode_pictures, encode_video
from vov.config import cli
from vov.dataset import cluster, summary
from vov.dataset.jobs import Job
from vov.dataset.options import SetOptions

SMALL = dict(WIDTH="32", HEIGHT="32", STEPS="4", SCORE="pixel", DEVICE="cpu", CONFIG="",
             VIDEO_NUM_FRAMES="5", VIDEO_BYTES_PER_FRAME="12", VIDEO_SCENES="none", VIDEO_RESIZE="crop",
             IMAGE_STEPS="3", IMAGE_NOISE_BYTES="60")


@pytest.fixture
def folder(tmp_path):
    """A picture called .png, one called .mp4, a folder of frames, a film called .jpg, an animation, a damaged film."""
    place = tmp_path / "in"
    media.write_image(place / "a.png", ball(1, 32, 32)[0])
    media.write_image(place / "b.png", 255 - ball(1, 32, 32)[0])
    (place / "b.png").rename(place / "b.mp4")
    media.write_frames(place / "film", ball(5, 32, 32))
    media.write_video(place / "c.mp4", ball(5, 32, 32), 8.0)
    (place / "c.mp4").rename(place / "c.jpg")
    frames = [Image.fromarray(frame) for frame in ball(5, 32, 32)]
    frames[0].save(place / "d.gif", save_all=True, append_images=frames[1:], duration=100)
    (place / "e.mp4").write_bytes(b"nothing")
    (place / "a.txt").write_text("a red ball")
    return place


@pytest.fixture
def small(folder, tiny_wan, tiny_qwen, monkeypatch):
    found = SMALL | dict(MANIFEST=str(folder), OUT_DIR=str(folder.parent / "out"), WAN_MODEL_ID=str(tiny_wan),
                         QWEN_MODEL_ID=str(tiny_qwen))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["encode_dataset"])
    return found


def listed(small):
    return dataset_item.jobs_of(config.load(SetOptions, {}, small), {})


def test_a_file_goes_to_the_tree_of_what_it_holds_whatever_it_is_called(small):
    found = listed(small)
    assert {job.name: job.medium for job in found if isinstance(job, Job)} == {
        "a": "image", "b": "image", "film": "video", "c": "video", "d": "video"}
    ((item, why),) = (one for one in found if not isinstance(one, Job))
    assert item.path.name == "e.mp4" and "not a readable video" in why
    assert not media.is_moving(item.path.parent / "b.mp4") and len(media.FrameSource(item.path.parent / "c.jpg")) == 5


def test_each_file_is_what_its_trees_encode_makes_alone_and_totals_are_of_each_tree_and_of_all(small, folder, capsys,
                                                                                             monkeypatch):
    handed = []

    def here(tasks, function, resources, retries, environ, done, lost, wanted):
        handed.extend(task.job.medium for task in tasks)
        for number, task in enumerate(tasks):
            tasks.extend(done(number, dataset_item.encode_one(task)))

    monkeypatch.setattr(cluster, "run", here)
    with pytest.raises(VovError, match="1 of 6 items failed"):
        dataset.main(config.load(SetOptions, {}, small))
    assert handed == sorted(handed)
    out, printed = folder.parent / "out", capsys.readouterr().out
    alone = {name: value for name, value in small.items() if "_" not in name} | {
        "NUM_FRAMES": "5", "BYTES_PER_FRAME": "12", "SCENES": "none", "RESIZE": "crop", "SCALING_BYTES": "60"}
    for name, cls, main, given in (
            ("c", EncodeVideo, encode_video, dict(frames_dir=str(folder / "c.jpg"), model_id=small["WAN_MODEL_ID"])),
            ("a", EncodePictures, encode_pictures, dict(image=str(folder / "a.png"), steps="3", caption="a red ball",
                                                        model_id=small["QWEN_MODEL_ID"]))):
        main(config.load(cls, given | {"name": name, "out_dir": str(out / "alone" / name)}, alone, "encode"))
        assert (out / name / f"{name}.vov").read_bytes() == (out / "alone" / name / f"{name}.vov").read_bytes()
    result = json.loads((out / "results.json").read_text())
    totals, rows = result["totals"], result["items"]
    assert [(row["name"], row["tree"]) for row in rows] == [
        ("a", "image"), ("b", "image"), ("c", "video"), ("d", "video"), ("film", "video")]
    assert (totals["files"], totals["image"]["files"], totals["video"]["files"]) == (5, 2, 3)
    assert totals["bytes"] == totals["image"]["bytes"] + totals["video"]["bytes"] == sum(row["bytes"] for row in rows)
    assert totals["video"]["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows[2:]]))
    assert "pictures: 2 files, " in printed and "videos: 3 files, " in printed
    assert {row["tree"] for row in csv.DictReader((out / "results.csv").open())} == {"image", "video"}
    page = json.loads((out / "report/results.json").read_text())
    assert {item["clip"]: item["frames"] for item in page["items"]} == {"a": 1, "b": 1, "c": 5, "d": 5, "film": 5}
    assert [(row["codec"], row["clips"]) for row in page["summary"]] == [("image", 2), ("video", 3)]
    assert (out / "report/report.html").is_file()


def test_a_preset_is_for_its_own_tree_and_the_other_gets_its_counterpart():
    assert dataset_item.counterpart("image", "nano-video-noise") == "nano-image"
    assert dataset_item.counterpart("video", "nano-video-noise") == "nano-video"
    assert dataset_item.counterpart("image", "wan2.1-1.3b") == "" == dataset_item.counterpart("video", "")
    assert dataset_item.counterpart("image", "my.yaml") == "my.yaml"

    def settings(tree, given=None, cells=None, family="", **environ):
        return dataset_item.settings_of(tree, family, given or {}, environ, cells)

    assert settings("image", CONFIG="nano-video").model_id == "nano-image"
    assert settings("image", {"config": "nano-video"}).model_id == "nano-image"
    assert settings("image", CONFIG="nano-video", IMAGE_CONFIG="qwen-image").config == "qwen-image"
    assert settings("video", CONFIG="nano-video").model_id == "nano-video"
    assert settings("image", CONFIG="nano-video", family="image").config == "nano-video"  # as it was said


def test_a_variable_of_one_tree_counts_over_that_of_both_and_a_cell_over_all():
    def steps(tree, given=None, cells=None, **environ):
        return dataset_item.settings_of(tree, "", given or {}, environ, cells).steps

    assert steps("video", STEPS="7", VIDEO_STEPS="9") == 9 and steps("image", STEPS="7", VIDEO_STEPS="9") == 7
    assert steps("image", {"steps": "5", "key_every": "3"}, STEPS="7") == 5
    assert steps("video", {"steps": "5"}, {"steps": "11"}, STEPS="7", VIDEO_STEPS="9") == 11


def test_a_cell_of_the_other_tree_is_one_line_about_its_item(small, folder):
    (folder / "set.csv").write_text("path,key_every\na.png,3\nfilm,3\n")
    (item, why), job = listed(small | {"MANIFEST": str(folder / "set.csv")})
    assert item.path.name == "a.png" and why == "KEY_EVERY is no setting of image/encode.sh; leave the cell empty"
    assert job.settings["key_every"] == 3


def test_one_model_for_both_trees_is_refused(small, monkeypatch):
    monkeypatch.setenv("MODEL_ID", small["WAN_MODEL_ID"])
    with pytest.raises(VovError, match=r"MODEL_ID is set, .*; set IMAGE_MODEL_ID and VIDEO_MODEL_ID"):
        listed(small)


def test_help_tells_of_the_set_and_the_commands_whose_variables_go_with_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dataset", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.run(SetOptions, dataset.main, dataset.USAGE, more=dataset.ENCODE)
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "\nFAMILY " in said and "\nOUT_DIR " in said and "\nSTEPS" not in said
    assert "Every variable and flag of video/encode.sh and image/encode.sh works too" in said


def test_flags_of_both_commands_reach_the_items_they_are_for(small, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dataset", "--key_every", "3", "--noise-bytes", "70"])
    found = dataset_item.jobs_of(config.load(SetOptions, {}, small), dataset.flags())
    assert {job.settings["key_every"] for job in found if isinstance(job, Job) and job.medium == "video"} == {3}
    monkeypatch.delenv("IMAGE_NOISE_BYTES")  # which would count over the flag
    found = dataset_item.jobs_of(config.load(SetOptions, {}, small), dataset.flags())
    assert {job.settings["scaling_bytes"] for job in found if isinstance(job, Job) and job.medium == "image"} == {70}


def test_a_set_of_one_kind_has_one_total(tmp_path):
    row = {"name": "a", "tree": "image", "path": "a", "file": str(tmp_path / "a.vov"), "bytes": 9, "psnr": 20.0}
    assert "image" not in summary.write(tmp_path, [row], [], 1.0)
