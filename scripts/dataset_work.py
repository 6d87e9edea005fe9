"""The items of a set as jobs, and the work on one of them in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import video.encode
from scripts.dataset_settings import KINDS, MANAGED, USUAL, SetOptions, VideoSet, columns_of, kept, settings_of
from scripts.items import Listed, read_by_set, read_items
from vov import VovError, cli, config, media
from vov.dataset.jobs import NUMBERS, Job, held, key_of, refuse_missing
from vov.dataset.tasks import Task
from vov.files import refuse_overlap
from vov.model.lookup import find_model
from vov.outputs import SET, refuse_foreign

log = logging.getLogger(__name__)


def jobs_of(settings: Any, given: dict[str, Any]) -> list[Job | tuple[Listed, str]]:
    """A job for every item, or (item, why) for one that cannot be tried. given: flags of the command line."""
    columns = set().union(*(columns_of(tree) for tree in KINDS if settings.family in ("", tree)))
    items = read_items(settings.manifest, settings.family, settings.caption, columns, settings.out_dir)
    names = unique([item.path.stem for item in items])
    refuse_originals(settings, items, names)
    found: list[Job | tuple[Listed, str]] = []
    for item, name in zip(items, names, strict=True):
        try:
            refuse_missing(item.path)
            tree = settings.family or ("video" if media.is_moving(item.path) else "image")
            one = settings_of(tree, settings.family, given, os.environ, item.cells)
            found.append(job_of(tree, item, name, one, Path(settings.out_dir) / name))
        except (VovError, OSError) as error:
            found.append((item, cli.one_line(error)))
    trees = {job.tree for job in found if isinstance(job, Job)}
    if len(trees) > 1 and (given.get("model_id") or os.environ.get("MODEL_ID")):
        raise VovError("MODEL_ID is set, but the set has pictures and videos; set IMAGE_MODEL_ID and VIDEO_MODEL_ID")
    return found


def refuse_originals(settings: Any, items: list[Listed], names: list[str]) -> None:
    """Raises VovError when the set's files, or an item's folder, would touch what is read or what no run made."""
    folder = Path(settings.out_dir)
    own = [folder / name for name in SET]
    refuse_overlap([*own, folder / "report", *(folder / name for name in names)], read_by_set(settings, items))
    refuse_foreign(own)


def job_of(tree: str, item: Listed, name: str, settings: Any, folder: Path) -> Job:
    """An item as a job of its tree. Raises VovError where its model is missing."""
    place = {KINDS[tree][2]: str(item.path), "out_dir": str(folder), "name": name, "caption": item.caption,
             "manifest": ""}  # an item is all that its process reads
    settings = dataclasses.replace(settings, **place)
    model = find_model(settings.model_id or USUAL[tree](), settings.cache_dir, instead=f"nano-{tree}")
    key = key_of(item.path, item.caption, settings, (*MANAGED, *config.variables(SetOptions)), model)
    return Job(item.path, name, folder, dataclasses.asdict(settings) | {"family": tree}, key)


def unique(stems: list[str]) -> list[str]:
    """Names of folders: the stems, with a number behind those that others have too, and away from the set's own."""
    seen: set[str] = {"report", "results", "manifest", "failed"}
    found = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in seen:
            number += 1
            name = f"{stem}-{number}"
        seen.add(name.casefold())
        found.append(name)
    return found


def encode_one(task: Task) -> dict[str, Any]:
    """Does a task in this process: the item's record, {"seconds"} of a group, {"groups", "seconds"} of a video that is
    to be shared out, or {"error": one line}. What encode.sh would print goes to the task's log."""
    try:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with held(task.job.folder, name=task.lock), task.log.open("a") as said, redirect_stdout(said), \
                redirect_stderr(said):
            return work(task)
    except VovError as error:
        kept.clear()  # it may have been left with half of what adapts it
        return {"error": cli.one_line(error)}
    except Exception as error:
        kept.clear()
        with task.log.open("a") as said:
            traceback.print_exc(file=said)
        log = task.log.relative_to(task.job.folder)
        return {"error": cli.one_line(cli.machine_problem(error) or f"{type(error).__name__}: {error}; see {log}")}


def work(task: Task) -> dict[str, Any]:
    """The same; raises what goes wrong."""
    job, begun = task.job, time.monotonic()
    cls, main, _ = KINDS[job.tree]

    def seconds() -> float:
        return round(time.monotonic() - begun + task.seconds, 1)

    if task.group is not None:
        shared(job).code(task.group)
        return {"seconds": seconds()}
    if not task.groups and (film := shared(job)):
        film.plan()
        return {"groups": len(film.groups), "seconds": seconds()}
    overwrite = job.begin() or job.settings["overwrite"]
    main(cls(**job.settings | {"overwrite": overwrite}))
    results = (job.folder / "result.json", job.file.with_suffix(".json"))
    found = json.loads(next(path for path in results if path.is_file()).read_bytes())
    numbers = {name: found[name] for name in NUMBERS if name in found}
    return job.finish(numbers | {"seconds": seconds(), "node": os.uname().nodename})


def shared(job: Job) -> Any:
    """A video that is to be shared out, as `Shared`, kept as long as its model is; None for all other items."""
    if job.tree != "video" or not job.settings["split_from"]:
        return None
    if kept.get("film") != (job.folder, job.key):
        found = video.encode.shared(VideoSet(**job.settings), job.settings["split_from"])
        kept.update(film=(job.folder, job.key), shared=found)
    return kept["shared"]


def report(settings: Any, folder: Path, trees: set[str]) -> None:
    """report/report.html of all that is done, pictures and videos on one page."""
    if not settings.report or not trees:
        return
    import image.evaluate
    import video.evaluate
    from vov.evaluation.pairs import EvalConfig

    tree = image.evaluate if trees == {"image"} else video.evaluate  # to which a picture is a clip of one frame
    asked = EvalConfig(manifest=str(folder / "manifest.csv"), out_dir=str(folder / "report"), overwrite=True,
                       work_dir=str(folder / "report/work"), metrics="psnr,ms_ssim", device=settings.device)
    try:
        with (folder / "report.log").open("w") as said, redirect_stdout(said):
            tree.main(asked)
    except VovError as error:  # the files are what was asked for
        log.warning("no report: %s", cli.one_line(error))
        return
    print(f"report: {folder}/report/report.html")
