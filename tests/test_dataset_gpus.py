"""GPUs of a data set: Ray is told of two that this machine does not have, and assigns them to the set's workers."""

import json
import os
import sys
import time

import pytest

from tests.test_dataset import SMALL
from tests.test_fit import ball
from vov import VovError, config, media
from vov.commands import dataset, dataset_item
from vov.dataset import cluster
from vov.dataset.options import SetOptions

PATIENCE = 90  # seconds that a worker waits for the other


@pytest.fixture(scope="module")
def node():
    """Ray as on a machine of two cores whose user was given the GPUs 3 and 7. The set finds it running."""
    pytest.importorskip("ray")
    ray = cluster._ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
        ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def note_and_encode(task):
    """`encode_one`, after a note of what Ray gave this process; it begins when every item of the set has its note, so
    that no process can do two items."""
    import ray

    given = ray.get_runtime_context().get_assigned_resources()
    note = task.job.folder.parent / f"{task.job.name}.note"
    note.with_suffix(".new").write_text(json.dumps({
        "process": os.getpid(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "gpus": given.get("GPU", 0)}))
    note.with_suffix(".new").rename(note)
    end = time.monotonic() + PATIENCE
    while len(list(note.parent.glob("*.note"))) < 2:
        if time.monotonic() > end:
            return {"error": "the other worker never came"}
        time.sleep(0.05)
    return dataset_item.encode_one(task)


@pytest.fixture
def encode(node, tmp_path, tiny_wan, monkeypatch):
    """Encodes two clips with the command, whose tasks begin with a note; gives the notes."""
    def run(**asked):
        out = tmp_path / "out"
        for number in (1, 2):
            media.write_frames(tmp_path / f"in/clip{number}", ball(5, 32, 32))
        given = SMALL | dict(MANIFEST=str(tmp_path / "in"), OUT_DIR=str(out), MODEL_ID=str(tiny_wan)) | asked
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["encode_dataset"])
        inner = cluster.run
        monkeypatch.setattr(cluster, "run", lambda tasks, function, *rest: inner(
            tasks, "tests.test_dataset_gpus:note_and_encode", *rest))
        dataset.main(config.load(SetOptions, {}, given))
        assert all((out / f"clip{number}/clip{number}.vov").is_file() for number in (1, 2))
        return [json.loads(note.read_text()) for note in sorted(out.glob("*.note"))]
    return run


@pytest.mark.slow
def test_each_of_two_workers_sees_a_gpu_of_its_own(encode):
    first, second = encode(GPUS="1")
    assert first["process"] != second["process"] and first["gpus"] == second["gpus"] == 1
    assert {first["visible"], second["visible"]} == {"3", "7"}


@pytest.mark.slow
def test_two_workers_share_a_gpu_where_half_a_one_is_asked_for(encode):
    first, second = encode(GPUS="0.5")
    assert first["process"] != second["process"] and first["gpus"] == second["gpus"] == 0.5
    assert first["visible"] == second["visible"] in ("3", "7")


@pytest.mark.slow
def test_with_gpus_0_a_worker_gets_none_and_sees_none(encode):
    first, second = encode(GPUS="0")
    assert first["process"] != second["process"] and first["gpus"] == second["gpus"] == 0
    assert first["visible"] == second["visible"] == ""


@pytest.mark.parametrize(("asked", "gpus"), [
    (dict(gpus=2.0), 2.0), (dict(gpus=0.0, ray_address="a:1"), 0.0), (dict(ray_address="a:1"), 1.0),
    (dict(ray_address="a:1", device="cpu"), 0.0)])
def test_a_worker_asks_for_a_gpu_of_a_cluster_unless_told_otherwise(asked, gpus):
    assert dataset.resources(SetOptions(**asked)).gpus == gpus


def test_the_gpu_without_any_is_refused():
    with pytest.raises(VovError, match="GPUS=0 and DEVICE=cuda are set; raise GPUS, or set DEVICE=cpu"):
        dataset.resources(SetOptions(gpus=0.0, device="cuda"))
