"""A set of files: what counts as done, what one bad item does, and that each file is encode.sh's own."""

import csv
import dataclasses
import json
import os
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tests.test_fit import ball
from vov import VovError, config, media
from vov.commands import dataset, dataset_item
from vov.commands.encode import EncodeVideo, encode_video
from vov.dataset import cluster, summary
from vov.dataset.items import read_items
from vov.dataset.jobs import Job, held, key_of, model_hash
from vov.dataset.options import SetOptions
from vov.runtime import signals
from vov.runtime.files import REPO, locked

SMALL = dict(WIDTH="32", HEIGHT="32", NUM_FRAMES="5", STEPS="4", BYTES_PER_FRAME="12", SCORE="pixel", SCENES="none",
             DEVICE="cpu", RESIZE="crop", FAMILY="video", REPORT="0")


@pytest.fixture
def clips(tmp_path):
    """Two clips, a third that is none, and a manifest with a setting for one of them."""
    for number in (1, 2):
        media.write_frames(tmp_path / f"in/clip{number}", ball(5 + number, 32, 32))
    (tmp_path / "in/bad.mp4").write_bytes(b"nothing")
    (tmp_path / "in/set.csv").write_text("path,caption,steps\nclip1,a red ball,\nbad.mp4,,\nclip2,,5\n")
    return tmp_path / "in"


@pytest.fixture
def encode(clips, tiny_wan, monkeypatch, capsys):
    """Runs the command without Ray, in this process; gives (what was handed out, what was printed)."""
    monkeypatch.setattr(sys, "argv", ["encode_dataset"])
    for name, value in (SMALL | dict(MANIFEST=str(clips / "set.csv"), OUT_DIR=str(clips.parent / "out"),
                                     MODEL_ID=str(tiny_wan))).items():
        monkeypatch.setenv(name, value)

    def run():
        handed = []

        def here(tasks, function, resources, retries, environ, done, lost, wanted):
            handed.extend(task.title for task in tasks)
            for number, task in enumerate(tasks):
                tasks.extend(done(number, dataset_item.encode_one(task)))

        monkeypatch.setattr(cluster, "run", here)
        with pytest.raises(VovError, match=r"1 of 3 items failed; why is in .*failed\.csv"):
            dataset.main(config.load(SetOptions, {}, os.environ))
        return handed, capsys.readouterr().out
    return run


def test_one_bad_item_is_one_line_and_the_others_are_what_encode_makes_alone(encode, clips, tiny_wan):
    handed, printed = encode()
    out = clips.parent / "out"
    assert handed == ["clip1", "bad", "clip2"] and "bad  failed: " in printed
    (failed,) = csv.DictReader((out / "failed.csv").open())
    assert failed["path"].endswith("bad.mp4") and "not a readable video" in failed["reason"]
    result = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in result["items"]] == ["clip1", "clip2"] and result["totals"]["failed"] == 1
    for name, caption, steps in (("clip1", "a red ball", 4), ("clip2", "", 5)):
        alone = config.load(EncodeVideo, dict(
            frames_dir=str(clips / name), out_dir=str(clips.parent / "alone" / name), caption=caption,
            model_id=str(tiny_wan), steps=str(steps)), SMALL, "encode")
        encode_video(alone)
        assert (out / name / f"{name}.vov").read_bytes() == (clips.parent / f"alone/{name}/{name}.vov").read_bytes()
        assert result["items"][int(name == "clip2")]["bytes"] == (out / name / f"{name}.vov").stat().st_size


def test_what_is_done_is_not_done_again_unless_its_content_or_its_file_is_another(encode, clips):
    encode()
    file = clips.parent / "out/clip1/clip1.vov"
    first, when = file.read_bytes(), file.stat().st_mtime_ns
    assert encode()[0] == ["bad"] and file.stat().st_mtime_ns == when
    file.write_bytes(b"damaged")
    assert encode()[0] == ["clip1", "bad"] and file.read_bytes() == first
    media.write_frames(clips / "clip1", 255 - ball(6, 32, 32))
    assert encode()[0] == ["clip1", "bad"] and file.read_bytes() != first


def test_a_stopped_item_goes_on_and_a_file_of_somebody_else_stays(encode, clips):
    other = clips.parent / "out/clip1/clip1.vov"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    for _ in range(2):  # the second run does not take it for the first one's
        with pytest.raises(AssertionError, match="2 of 3 items failed"):  # the fixture awaits one
            encode()
    assert other.read_bytes() == b"mine"


def test_keys_are_of_content_caption_and_settings_not_of_places(tmp_path):
    for name, level in (("a", 0), ("b", 0), ("c", 1)):
        media.write_image(tmp_path / f"{name}.png", np.full((16, 16, 3), level, np.uint8))
    settings = dataset_item.Video(steps=4)
    a, b, c = (key_of(tmp_path / f"{name}.png", "", settings, dataset_item.MANAGED) for name in "abc")
    assert a == b != c
    for other in (dict(steps=5), dict(model_id="x"), dict(roi=str(tmp_path / "c.png"))):
        changed = dataclasses.replace(settings, **other)
        assert key_of(tmp_path / "a.png", "", changed, dataset_item.MANAGED) != a
    assert key_of(tmp_path / "a.png", "text", settings, dataset_item.MANAGED) != a
    for same in (dict(device="cpu"), dict(out_dir="elsewhere"), dict(overwrite=True), dict(config="nano")):
        assert key_of(tmp_path / "a.png", "", dataclasses.replace(settings, **same), dataset_item.MANAGED) == a


def test_columns_are_settings_and_others_are_refused(tmp_path):
    (tmp_path / "set.csv").write_text("path,steps,note\na.mp4,3,x\n")
    with pytest.raises(VovError, match="has a column 'note'; path, caption and settings"):
        read_items(str(tmp_path / "set.csv"), "video", columns={"steps"})
    (tmp_path / "set.csv").write_text("path,steps\na.mp4,3\nb.mp4,\n")
    assert [item.cells for item in read_items(str(tmp_path / "set.csv"), "video", columns={"steps"})] == [
        {"steps": "3"}, {}]


def test_names_of_folders_are_told_apart():
    assert dataset_item.unique(["a", "A", "b", "report", "a"]) == ["a", "A-2", "b", "report-2", "a-3"]


def test_totals_are_of_the_files_and_a_set_without_failures_leaves_no_list(tmp_path):
    rows = [{"name": n, "path": n, "tree": "video", "file": str(tmp_path / f"{n}.vov"), "bytes": size,
             "psnr": psnr, "seconds": 2.0}
            for n, size, psnr in (("a", 100, 20.0), ("b", 300, 24.0))]
    summary.write(tmp_path, rows, [("c", "why")], 9.0)
    assert (tmp_path / "failed.csv").read_text() == "path,reason\nc,why\n"
    found = summary.write(tmp_path, rows, [], 9.0)
    assert found["bytes"] == 400 and found["psnr"] == 22.0 and found["seconds_of_work"] == 4.0
    assert not (tmp_path / "failed.csv").exists() and len((tmp_path / "results.csv").read_text().splitlines()) == 3


def test_without_ray_one_line_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(VovError, match=r"pip install -r requirements-cluster\.txt"):
        cluster.run([1], "x:y", cluster.Resources(), 0, {}, print, print)


def test_an_address_where_nobody_answers_is_refused_at_once():
    pytest.importorskip("ray")
    with pytest.raises(VovError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: nobody answers there"):
        cluster.run([1], "x:y", cluster.Resources(address="127.0.0.1:1"), 0, {}, print, print)


def test_a_worker_lives_on_one_machine():
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}}, {"Alive": True, "Resources": {"CPU": 3.0}},
             {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    ray = SimpleNamespace(nodes=lambda: nodes, cluster_resources=lambda: {"CPU": 6.0, "GPU": 1.0})
    assert cluster._room(ray, cluster.Resources(cpus=2)) == 2 and cluster._room(ray, cluster.Resources(gpus=0.5)) == 2
    with pytest.raises(VovError, match="a worker needs 4 and 0; lower `cpus` or `gpus`"):
        cluster._room(ray, cluster.Resources(cpus=4))


def test_a_family_that_is_none_is_refused_with_the_settings():
    with pytest.raises(VovError, match="family='sound'"):
        config.load(SetOptions, {}, {"FAMILY": "sound"})


def die_once(task):
    """A task that kills its process the first time, and always where it says so."""
    import os
    from pathlib import Path

    mark = Path(task["mark"])
    if task["dies"] == "always" or (task["dies"] == "once" and not mark.exists()):
        mark.touch()
        os._exit(1)
    return {"seen": task["mark"]}


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_task_tried_again(tmp_path):
    pytest.importorskip("ray")
    tasks = [{"mark": str(tmp_path / str(n)), "dies": dies} for n, dies in enumerate(("", "once", "always", ""))]
    found, lost = {}, []
    cluster.run(tasks, "tests.test_dataset:die_once", cluster.Resources(cpus=1, workers=2), 1,
                {"PYTHONPATH": str(REPO)}, lambda number, answer: found.update({number: answer}),
                lambda number, times: lost.append(number))
    assert [found[n] for n in (0, 1, 3)] == [{"seen": tasks[n]["mark"]} for n in (0, 1, 3)]
    assert "died 2 times" in found[2]["error"] and sorted(lost) == [1, 2]


@pytest.mark.slow
def test_a_signal_ends_a_set_in_one_line_after_what_is_done(tmp_path):
    pytest.importorskip("ray")
    tasks = [{"mark": str(tmp_path / str(n)), "dies": ""} for n in range(3)]
    with signals.on_signals(), pytest.raises(signals.Stopped) as caught:
        cluster.run(tasks, "tests.test_dataset:die_once", cluster.Resources(cpus=1, workers=1), 0,
                    {"PYTHONPATH": str(REPO)}, lambda number, _: number or os.kill(os.getpid(), signal.SIGTERM), print)
    assert caught.value.code == 143 and caught.value.line.startswith("stopped by SIGTERM, 1 of 3 done; run the same")


def test_job_records_that_are_damaged_are_none(tmp_path):
    job = Job(tmp_path / "a.mp4", "a", tmp_path, {}, "video", 0, "key")
    job.record.write_text("[1, 2")
    assert job.recorded() == {} and not job.done() and not job.begin() and job.begin()


def test_keys_are_of_the_models_content_not_of_its_name_or_place(tmp_path):
    media.write_image(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    weights = np.random.default_rng(0).integers(0, 256, 5_000_000, dtype=np.uint8)  # more than is looked at
    for name, data in (("one", weights), ("copy", weights), ("tail", np.append(weights[:-1], ~weights[-1:])),
                       ("short", weights[:-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_bytes(data.tobytes())
    settings = dataset_item.Video(steps=4)
    one, copy, tail, short = (key_of(tmp_path / "a.png", "", settings, dataset_item.MANAGED, tmp_path / name)
                              for name in ("one", "copy", "tail", "short"))
    assert one == copy and len({one, tail, short}) == 3
    assert model_hash(tmp_path / "one") == model_hash(tmp_path / "copy")


def test_an_item_waits_for_the_process_of_a_killed_command_but_not_for_ever(tmp_path):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with locked(tmp_path, ".job"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with pytest.raises(VovError, match="another run is using it"), held(tmp_path, patience=0.3):
        pass
    threading.Timer(0.5, leave.set).start()
    with held(tmp_path, patience=10):
        assert leave.is_set()
    thread.join()


def test_after_a_failed_item_the_model_is_loaded_anew(encode):
    encode()  # its last item is a clip
    assert dataset_item.loaded
    assert encode()[0] == ["bad"] and not dataset_item.loaded
