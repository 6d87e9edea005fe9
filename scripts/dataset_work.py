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

from scripts.dataset_settings import KINDS, USUAL, SetOptions, kept
from scripts.items import Listed, read_items
from vov import VovError, cli, config
from vov.dataset.jobs import NUMBERS, Job, held, key_of, refuse_missing
from vov.model.lookup import find_model

log = logging.getLogger(__name__)
MANAGED = ("frames_dir", "image", "out_dir", "name", "caption", "overwrite", "description_file", "caption_start",
           "caption_end", "data_root", "config")  # what the set decides for each item, or what a preset has set


def jobs_of(settings: Any, kind: str, given: dict[str, Any]) -> list[Job | tuple[Listed, str]]:
    """A job for every item, or (item, why) for one that cannot be tried. given: flags of the command line."""
    cls, _, original = KINDS[kind]
    allowed = {name for name in config.variables(cls) if name not in MANAGED and name not in
               config.variables(SetOptions)} | {"config"}
    items = read_items(settings.manifest, kind, settings.caption, allowed)
    usual = USUAL[kind]()
    found, names = [], unique([item.path.stem for item in items])
    for item, name in zip(items, names, strict=True):
        folder = Path(settings.out_dir) / name
        place = {original: str(item.path), "out_dir": str(folder), "name": name, "caption": item.caption}
        try:
            refuse_missing(item.path)
            one = config.load(cls, given | item.cells, os.environ, "encode")
            one = dataclasses.replace(one, **place)
            model = find_model(one.model_id or usual, one.cache_dir)
            key = key_of(item.path, item.caption, one, (*MANAGED, *config.variables(SetOptions)), model)
            found.append(Job(item.path, name, folder, dataclasses.asdict(one) | {"family": kind}, key))
        except (VovError, OSError) as error:
            found.append((item, cli.one_line(error)))
    return found


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


def encode_one(job: Job) -> dict[str, Any]:
    """Does a job in this process: its record, or {"error": one line}. What encode.sh would print goes to log.txt."""
    cls, main, _ = KINDS[job.settings["family"]]
    begun = time.monotonic()
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with (held(job.folder), (job.folder / "log.txt").open("a") as said,
              redirect_stdout(said), redirect_stderr(said)):
            overwrite = job.begin() or job.settings["overwrite"]
            main(cls(**job.settings | {"overwrite": overwrite}))
        results = (job.folder / "result.json", job.file.with_suffix(".json"))
        found = json.loads(next(path for path in results if path.is_file()).read_bytes())
        numbers = {name: found[name] for name in NUMBERS if name in found}
        return job.finish(numbers | {"seconds": round(time.monotonic() - begun, 1), "node": os.uname().nodename})
    except VovError as error:
        kept.clear()  # it may have been left with half of what adapts it
        return {"error": cli.one_line(error)}
    except Exception as error:
        kept.clear()
        with (job.folder / "log.txt").open("a") as said:
            traceback.print_exc(file=said)
        return {"error": cli.one_line(cli.machine_problem(error) or f"{type(error).__name__}: {error}; see log.txt")}


def report(settings: Any, kind: str, folder: Path) -> None:
    """report/report.html of all that is done, by the tree's evaluation."""
    if not settings.report or len((folder / "manifest.csv").read_text().splitlines()) < 2:
        return
    import image.evaluate
    import video.evaluate
    from vov.evaluation.pairs import EvalConfig

    tree = {"image": image.evaluate, "video": video.evaluate}[kind]
    asked = EvalConfig(manifest=str(folder / "manifest.csv"), out_dir=str(folder / "report"), overwrite=True,
                       work_dir=str(folder / "report/work"), metrics="psnr,ms_ssim", model_id=settings.model_id,
                       cache_dir=settings.cache_dir, device=settings.device)
    try:
        with (folder / "report.log").open("w") as said, redirect_stdout(said):
            tree.main(asked)
    except VovError as error:  # the files are what was asked for
        log.warning("no report: %s", cli.one_line(error))
        return
    print(f"report: {folder}/report/report.html")
