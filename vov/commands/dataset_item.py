"""The items of a set as jobs, and the work on one of them in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vov import VovError, media
from vov.commands import encode
from vov.commands.run_report import NAME
from vov.config import cli, environment_names, fields_of, keys_of, load, preset_path
from vov.config.retired import current_preset
from vov.dataset.items import Listed, read_by_set, read_items
from vov.dataset.jobs import NUMBERS, Job, held, key_of, refuse_missing
from vov.dataset.options import SetOptions
from vov.dataset.tasks import Task
from vov.model.lookup import find_model
from vov.model.registry import USUAL
from vov.runtime.files import refuse_overlap
from vov.runtime.resumable import SET, refuse_foreign

if TYPE_CHECKING:  # what stands behind `LoadedModel` in its subclasses
    from vov.model.backbone import Backbone
    from vov.model.options import ModelOptions as Loader
else:
    Loader = object

log = logging.getLogger(__name__)
WORDS = {"video": ("video", "wan"), "image": ("image",)}  # in the names of presets
MANAGED = ("frames_dir", "image", "out_dir", "name", "caption", "overwrite", "description_file", "caption_start",
           "caption_end", "data_root", "config")  # what the set decides for each item, or what a preset has set
loaded: dict[str, Any] = {}  # the model of this process, and the video that it works on


class LoadedModel(Loader):
    """Loads a model once for all items that want the same."""

    def load(self, kind: type[Backbone], made: Any = None, source: str = "the file") -> Backbone:
        """As `ModelOptions.load`."""
        wanted = (kind.__name__, self.model_id, self.cache_dir, self.device, self.precision(), self.offload)
        if loaded.get("wanted") != wanted:
            loaded.clear()  # its memory first
            loaded.update(model=super().load(kind, made, source), wanted=wanted)
        return loaded["model"]


@dataclass(frozen=True)
class Video(LoadedModel, encode.EncodeVideo):
    """A video of a set."""


@dataclass(frozen=True)
class Picture(LoadedModel, encode.EncodePictures):
    """A picture of a set."""


MEDIA: dict[str, tuple[type[Video | Picture], Callable[[Any], None], str]] = {
    "video": (Video, encode.encode_video, "frames_dir"), "image": (Picture, encode.encode_pictures, "image")}


def columns_of(medium: str) -> set[str]:
    """The names of settings that a row of the manifest may have."""
    managed = {*MANAGED, *fields_of(SetOptions)} - {"config"}
    return {name for name, field in keys_of(MEDIA[medium][0]).items() if field not in managed}


def settings_of(medium: str, family: str, given: Mapping[str, Any], environ: Mapping[str, str],
                cells: Mapping[str, str] | None = None) -> Video | Picture:
    """The settings of an item: cells of its row > VIDEO_X or IMAGE_X > flags > X > preset > defaults.

    Args:
        family: FAMILY; without one, CONFIG is for its own medium, and the other gets `counterpart`.
        given: flags of the command line, by field name.
    Raises:
        VovError: a value does not fit, or a cell is no setting of the medium.
    """
    cells, (cls, _, _), prefix = cells or {}, MEDIA[medium], f"{medium.upper()}_"
    if strange := sorted(set(cells) - columns_of(medium)):
        raise VovError(f"{strange[0].upper()} is no setting of {medium}/encode.sh; leave the cell empty")
    own = {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix) and value}
    fields, keys = fields_of(cls), keys_of(cls)
    said = {name: value for name, value in given.items()
            if name in fields and not own.keys() & set(environment_names(fields[name]))}
    config = said.pop("config", "") or environ.get("CONFIG", "")
    config = own.get("CONFIG", "") or (config if family else counterpart(medium, config))
    named = {"config": config} if config else {}
    of_row = {keys[name]: value for name, value in cells.items()}
    return load(cls, said | named | of_row, {**environ, "CONFIG": ""} | own, "encode")


def counterpart(medium: str, preset: str) -> str:
    """The preset, if it is the medium's or nobody's; of another's the one of the same name, nano-image for
    nano-video; "", for the defaults, where there is none."""
    preset = current_preset(preset, "encode")
    name = Path(preset).stem
    media_named = [one for one, words in WORDS.items() if any(word in name for word in words)]
    if not media_named or medium in media_named:
        return preset
    twin = name.replace(media_named[0], medium)
    try:
        preset_path(twin)
    except VovError:
        return ""
    return twin


def jobs_of(settings: Any, given: dict[str, Any]) -> list[Job | tuple[Listed, str]]:
    """A job for every item, or (item, why) for one that cannot be tried. given: flags of the command line."""
    columns = set().union(*(columns_of(medium) for medium in MEDIA if settings.family in ("", medium)))
    items = read_items(settings.manifest, settings.family, settings.caption, columns, settings.out_dir)
    names = unique([item.path.stem for item in items])
    refuse_originals(settings, items, names)
    found: list[Job | tuple[Listed, str]] = []
    for item, name in zip(items, names, strict=True):
        try:
            refuse_missing(item.path)
            medium = settings.family or ("video" if media.is_moving(item.path) else "image")
            one = settings_of(medium, settings.family, given, os.environ, item.cells)
            found.append(job_of(medium, item, name, one, (Path(settings.out_dir) / name, settings.split_from)))
        except (VovError, OSError) as error:
            found.append((item, cli.one_line(error)))
    kinds = {job.medium for job in found if isinstance(job, Job)}
    if len(kinds) > 1 and (given.get("model_id") or os.environ.get("MODEL_ID")):
        raise VovError("MODEL_ID is set, but the set has pictures and videos; set IMAGE_MODEL_ID and VIDEO_MODEL_ID")
    return found


def refuse_originals(settings: SetOptions, items: list[Listed], names: list[str]) -> None:
    """Raises VovError when the set's files, or an item's folder, would touch what is read or what no run made."""
    folder = Path(settings.out_dir)
    own = [folder / name for name in SET]
    refuse_overlap([*own, folder / "report", *(folder / name for name in names)], read_by_set(settings, items))
    refuse_foreign(own)


def job_of(medium: str, item: Listed, name: str, settings: Any, place: tuple[Path, int]) -> Job:
    """An item as a job. place: its folder, SPLIT_FROM. Raises VovError where its model is missing."""
    folder, split_from = place
    places = {MEDIA[medium][2]: str(item.path), "out_dir": str(folder), "name": name, "caption": item.caption}
    settings = dataclasses.replace(settings, **places)
    model = find_model(settings.model_id or USUAL[medium], settings.cache_dir, instead=f"nano-{medium}")
    key = key_of(item.path, item.caption, settings, MANAGED, model)
    return Job(item.path, name, folder, dataclasses.asdict(settings), medium, split_from, key)


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
        loaded.clear()  # it may have been left with half of what adapts it
        return {"error": cli.one_line(error)}
    except Exception as error:
        loaded.clear()
        with task.log.open("a") as said:
            traceback.print_exc(file=said)
        log = task.log.relative_to(task.job.folder)
        return {"error": cli.one_line(cli.machine_problem(error) or f"{type(error).__name__}: {error}; see {log}")}


def work(task: Task) -> dict[str, Any]:
    """The same; raises what goes wrong."""
    job, begun = task.job, time.monotonic()
    cls, main, _ = MEDIA[job.medium]

    def seconds() -> float:
        return round(time.monotonic() - begun + task.seconds, 1)

    if task.group is not None:
        shared(job).code(task.group)
        return {"seconds": seconds()}
    if not task.groups and (film := shared(job)):
        film.plan()
        return {"groups": len(film.groups), "seconds": seconds()}
    overwrite = job.begin() or job.settings["overwrite"]
    main(cls(**{**job.settings, "overwrite": overwrite}))
    found = json.loads((job.folder / NAME).read_bytes())
    numbers = {name: found[name] for name in NUMBERS if name in found}
    return job.finish(numbers | {"seconds": seconds(), "node": os.uname().nodename})


def shared(job: Job) -> Any:
    """A video that is to be shared out, as `Shared`, loaded as long as its model is; None for all other items."""
    if job.medium != "video" or not job.split_from:
        return None
    if loaded.get("film") != (job.folder, job.key):
        found = encode.shared(Video(**job.settings), job.split_from)
        loaded.update(film=(job.folder, job.key), shared=found)
    return loaded["shared"]


def report(settings: SetOptions, folder: Path, media: set[str]) -> None:
    """report/report.html of all that is done, pictures and videos on one page."""
    if not settings.report or not media:
        return
    from vov.commands.evaluate import evaluate_clips, evaluate_pictures
    from vov.evaluation.pairs import EvalConfig

    asked = EvalConfig(manifest=str(folder / "manifest.csv"), out_dir=str(folder / "report"), overwrite=True,
                       work_dir=str(folder / "report/work"), metrics="psnr,ms_ssim", device=settings.device)
    try:
        with (folder / "report.log").open("w") as said, redirect_stdout(said):
            (evaluate_pictures if media == {"image"} else evaluate_clips)(asked)  # to which a picture is one frame
    except VovError as error:  # the files are what was asked for
        log.warning("no report: %s", cli.one_line(error))
        return
    print(f"report: {folder}/report/report.html")
