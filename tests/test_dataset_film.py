"""A long video of a set: its groups are tasks of their own, and the file is the one that encode.sh makes alone."""

import json
import sys
from collections import deque

import pytest

from tests.test_fit import ball
from vov import config, media
from vov.commands import dataset, dataset_item
from vov.commands.encode import EncodeVideo, encode_video
from vov.dataset import cluster
from vov.dataset.jobs import Job
from vov.dataset.options import SetOptions
from vov.dataset.progress import Progress
from vov.dataset.tasks import Task, Tasks
from vov.runtime.files import REPO
from vov.sequence.chunk import ChunkCoder
from vov.sequence.plan import groups, spans
from vov.sequence.scenes import scene_starts
from vov.sequence.settings import SequenceConfig
from vov.sequence.share import most_groups

SMALL = dict(WIDTH="32", HEIGHT="32", NUM_FRAMES="5", STEPS="4", BYTES_PER_FRAME="12", SCORE="pixel", DEVICE="cpu",
             RESIZE="crop", REPORT="0", KEY_EVERY="2", SPLIT_FROM="4", SCENE_THETA="8", SCENE_STEPS="2", CONFIG="")


@pytest.fixture
def film(tmp_path, tiny_wan, monkeypatch):
    """27 frames in two scenes, 6 chunks in 4 groups, each scene with a θ; and a clip that stays whole."""
    media.write_frames(tmp_path / "in/film", ball(27, 32, 32))
    media.write_frames(tmp_path / "in/clip", ball(4, 32, 32))
    (tmp_path / "cuts.txt").write_text("0\n14\n")
    found = SMALL | dict(MANIFEST=str(tmp_path / "in"), OUT_DIR=str(tmp_path / "out"), MODEL_ID=str(tiny_wan))
    (tmp_path / "in.csv").write_text(f"path,scenes\nin/film,{tmp_path}/cuts.txt\nin/clip,none\n")
    found["MANIFEST"] = str(tmp_path / "in.csv")
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["encode_dataset"])
    dataset_item.loaded.clear()
    return found


@pytest.fixture
def coded(monkeypatch):
    """The numbers of the chunks that are coded, as they are."""
    numbers, code = [], ChunkCoder.code
    monkeypatch.setattr(ChunkCoder, "code", lambda self, job, *rest: (
        numbers.append(job.number), code(self, job, *rest))[1])
    return numbers


@pytest.fixture
def run(film, monkeypatch):
    """Runs the set without Ray, every task as if in a new process, of added tasks the last first; `stop` ends it before
    a task of this title. Gives the titles of the tasks done."""
    def now(stop=""):
        titles = []

        def here(tasks, function, resources, retries, environ, done, lost, wanted):
            waiting = deque(range(len(tasks)))
            while waiting:
                number = waiting.popleft()
                if tasks[number].title == stop:
                    raise KeyboardInterrupt
                dataset_item.loaded.clear()
                titles.append(tasks[number].title)
                first = len(tasks)
                tasks.extend(done(number, dataset_item.encode_one(tasks[number])))
                waiting.extendleft(range(first, len(tasks)))

        monkeypatch.setattr(cluster, "run", here)
        dataset.main(config.load(SetOptions, {}, film))
        return titles
    return now


def test_a_video_of_many_groups_is_shared_out_and_its_file_is_what_encode_makes_alone(run, film, tmp_path, coded,
                                                                                    capsys):
    assert run() == ["film", "film, group 3", "film, group 2", "film, group 1", "film, group 0", "film", "clip"]
    assert coded == [5, 3, 4, 2, 0, 1, 0]  # every chunk once; the last one is the clip's
    printed = capsys.readouterr().out
    assert "film  is shared out in 4 groups" in printed and "film, group 0  coded, " in printed
    assert "0 to go\n" in printed and "[1/2] film " in printed
    alone = config.load(EncodeVideo, dict(
        frames_dir=str(tmp_path / "in/film"), out_dir=str(tmp_path / "alone"), scenes=str(tmp_path / "cuts.txt"),
        name="film"), film, "encode")
    encode_video(alone)
    assert (tmp_path / "out/film/film.vov").read_bytes() == (tmp_path / "alone/film.vov").read_bytes()
    rows = json.loads((tmp_path / "out/results.json").read_text())["items"]
    assert [row["name"] for row in rows] == ["film", "clip"]


def test_groups_that_are_coded_are_not_coded_again(run, coded, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(stop="film, group 1")
    assert coded == [5, 3, 4] and not (tmp_path / "out/film/film.vov").exists()
    assert run()[:3] == ["film", "film, group 3", "film, group 2"]
    assert coded == [5, 3, 4, 2, 0, 1, 0]
    assert run() == []


def test_a_group_that_fails_is_one_line_and_ends_the_work_on_its_video(tmp_path):
    jobs = [Job(tmp_path / f"{name}.mp4", name, tmp_path / name, {}, "video", 4, "key") for name in "ab"]
    tasks = Tasks(jobs, Progress(tmp_path, jobs, [], [], 2))
    tasks.tasks.extend(tasks.done(0, {"groups": 3, "seconds": 1.0}))
    assert [task.title for task in tasks.tasks] == ["a", "b", "a, group 0", "a, group 1", "a, group 2"]
    assert tasks.done(2, {"seconds": 1.0}) == [] == tasks.done(3, {"error": "damaged"})
    assert [tasks.wanted(number) for number in (1, 4)] == [True, False]
    assert tasks.done(4, {"error": "damaged too"}) == []
    assert tasks.progress.failed == [(str(tmp_path / "a.mp4"), "damaged")]
    assert (tmp_path / "failed.csv").read_text() == f"path,reason\n{tmp_path}/a.mp4,damaged\n"


def test_seconds_of_a_shared_video_are_those_of_all_its_tasks(tmp_path):
    jobs = [Job(tmp_path / "a.mp4", "a", tmp_path / "a", {}, "video", 4, "key")]
    tasks = Tasks(jobs, Progress(tmp_path, jobs, [], [], 1))
    tasks.tasks.extend(tasks.done(0, {"groups": 2, "seconds": 1.0}))
    tasks.done(1, {"seconds": 2.0})
    assert tasks.done(2, {"seconds": 4.0}) == [Task(jobs[0], None, 2, 7.0)]


@pytest.mark.parametrize(("size", "key_every"), [(5, 0), (5, 1), (5, 2), (5, 3), (1, 0), (9, 2)])
@pytest.mark.parametrize("scenes", ["0", "0\n9\n23\n", "0\n1\n2\n3\n"])
def test_groups_are_no_more_than_was_said_before_looking(size, key_every, scenes, tmp_path):
    media.write_frames(tmp_path / "film", ball(27, 32, 32))
    (tmp_path / "cuts.txt").write_text(scenes)
    settings = SequenceConfig(num_frames=size, key_every=key_every, scenes=str(tmp_path / "cuts.txt"))
    planned = spans(scene_starts(settings.scenes, (), 27, 3), 27, size, key_every, 4 if size > 1 else 1)
    assert len(groups(planned)) <= most_groups(settings, str(tmp_path / "film"))
    assert [number for group in groups(planned) for number in group] == list(range(len(planned)))
    assert not any(planned[group[0]].chained for group in groups(planned))
    assert all(planned[number].chained for group in groups(planned) for number in group[1:])


def test_short_clips_and_a_wanted_quality_are_not_shared_out(tmp_path):
    media.write_frames(tmp_path / "film", ball(9, 32, 32))
    clip = str(tmp_path / "film")
    assert most_groups(SequenceConfig(num_frames=81), clip) == 1
    assert most_groups(SequenceConfig(num_frames=5, scenes="none"), clip) == 1
    assert most_groups(SequenceConfig(num_frames=5, key_every=1, target_psnr=30.0), clip) == 1


def one_of_many(task):
    """A task that brings two more; the first of these kills its process once."""
    import os
    from pathlib import Path

    mark = Path(task["mark"])
    if task["dies"] and not mark.exists():
        mark.touch()
        os._exit(1)
    with (mark.parent / "done.txt").open("a") as file:
        file.write(f"{task['name']}\n")
    return {"more": task["more"]}


@pytest.mark.slow
def test_tasks_that_follow_are_done_and_one_whose_worker_dies_is_tried_again_alone(tmp_path):
    pytest.importorskip("ray")
    tasks = [{"name": "film", "more": 2, "dies": False, "mark": str(tmp_path / "film")}]
    lost = []

    def done(number, found):
        return [{"name": f"group {n}", "more": 0, "dies": n == 0, "mark": str(tmp_path / str(n))}
                for n in range(found["more"])]

    cluster.run(tasks, "tests.test_dataset_film:one_of_many", cluster.Resources(cpus=1, workers=2), 1,
                {"PYTHONPATH": str(REPO)}, done, lambda number, times: lost.append(number))
    assert lost == [1] and sorted((tmp_path / "done.txt").read_text().splitlines()) == ["film", "group 0", "group 1"]
