"""A data set to .vov files: `MANIFEST=clips.csv OUT_DIR=runs/set bash scripts/encode_dataset.sh`.

Every item becomes what encode.sh makes of it alone, to the byte.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

import image.encode
import video.encode
from scripts.items import Listed, read_items
from vov import VovError, cli, config
from vov.config import option, override
from vov.dataset.jobs import NUMBERS, Job, held, key_of, refuse_missing
from vov.files import REPO, locked
from vov.model.lookup import find_model

log = logging.getLogger(__name__)
USAGE = "MANIFEST=clips.csv OUT_DIR=runs/set [VARIABLE=value …] bash scripts/encode_dataset.sh"
MANAGED = ("frames_dir", "image", "out_dir", "name", "caption", "overwrite", "description_file", "caption_start",
           "caption_end", "data_root", "config")  # what the set decides for each item, or what a preset has set
GETS = "gets NAME/ for every item, results.csv and .json, failed.csv, report/ (required)"
_kept: dict[str, Any] = {}  # the model that this process has loaded


class KeptModel:
    """Loads a model once for all items that want the same."""

    def load(self, kind: type, *made: Any) -> Any:
        """As `ModelOptions.load`."""
        wanted = (kind.__name__, self.model_id, self.cache_dir, self.device, self.precision(), self.offload)
        if _kept.get("wanted") != wanted:
            _kept.clear()  # its memory first
            _kept.update(model=super().load(kind, *made), wanted=wanted)
        _kept["model"].collection_dir = self.collection_dir
        return _kept["model"]


@dataclass(frozen=True)
class SetOptions:
    """Which items, and on what."""

    manifest: str = option("", "a CSV file with a column path, and if wanted caption and any variable of encode.sh in "
                           "lower case; or a folder of pictures or clips (required)", identity=False)
    family: str = option("", "image or video; empty: video where CONFIG says wan or video, else image",
                         choices=("", "image", "video"), identity=False)
    workers: int = option(0, "processes that encode, each with a model of its own; 0: as many as there are GPUs, or "
                          "CPUs / CPUS", minimum=0, identity=False)
    cpus: float = option(1.0, "CPU cores of a worker", minimum=0.1, identity=False)
    gpus: float = option(-1.0, "GPUs of a worker, parts allowed; -1: 1 where this machine has GPUs or RAY_ADDRESS is "
                         "set, and DEVICE is not cpu", minimum=-1, identity=False)
    retries: int = option(2, "how often an item is tried again whose process died", minimum=0, identity=False)
    report: bool = option(True, "make report.html with PSNR and MS-SSIM at the end", identity=False)


@dataclass(frozen=True)
class VideoSet(KeptModel, SetOptions, video.encode.Encode):
    """A set of videos; the other variables are those of video/encode.sh."""

    out_dir: str = override(video.encode.Encode, "out_dir", "", help=GETS)


@dataclass(frozen=True)
class ImageSet(KeptModel, SetOptions, image.encode.Encode):
    """A set of pictures; the other variables are those of image/encode.sh."""

    out_dir: str = override(image.encode.Encode, "out_dir", "", help=GETS)


def _usual_video() -> str:
    from video.backbone import WanBackbone

    return WanBackbone.usual_model


def _usual_image() -> str:
    from image.backbone import QwenBackbone

    return QwenBackbone.usual_model


USUAL = {"video": _usual_video, "image": _usual_image}  # --help needs no torch
KINDS = {"video": (VideoSet, video.encode.main, "frames_dir"), "image": (ImageSet, image.encode.main, "image")}


def family(arguments: list[str], environ: dict[str, str]) -> str:
    """FAMILY, or what the name of CONFIG says."""
    def given(name: str) -> str:
        flags = [b for a, b in pairwise(arguments) if a == f"--{name}"]
        return (flags or [environ.get(name.upper(), "")])[-1]
    found = given("family") or ("video" if any(word in given("config") for word in ("wan", "video")) else "image")
    if found not in KINDS:
        raise VovError(f"FAMILY={found!r:.40}: must be image or video")
    return found


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
        _kept.clear()  # it may have been left with half of what adapts it
        return {"error": cli.one_line(error)}
    except Exception as error:
        _kept.clear()
        with (job.folder / "log.txt").open("a") as said:
            traceback.print_exc(file=said)
        return {"error": cli.one_line(cli.machine_problem(error) or f"{type(error).__name__}: {error}; see log.txt")}


class Progress:
    """A line for every item that ends, a bar for the set, and the files that say where it stands."""

    def __init__(self, folder: Path, jobs: list[Job], failed: list[tuple[str, str]], rows: list[dict], total: int):
        self.folder, self.jobs, self.failed, self.rows, self.total = folder, jobs, failed, rows, total
        self.bar = tqdm(total=total, initial=total - len(jobs), desc="set", unit="item", dynamic_ncols=True)

    def done(self, number: int, found: dict[str, Any]) -> None:
        """An item's record or error."""
        from vov.dataset import summary

        job = self.jobs[number]
        if "error" in found:
            self.failed.append((str(job.path), found["error"]))
            summary.write_failed(self.folder, self.failed)
            text = f"failed: {found['error']}"
        else:
            self.rows.append(found)
            text = f"{found['bytes']:,} bytes  {found['psnr']:.2f} dB  {found['seconds']:.0f} s"
        self.bar.update()
        tqdm.write(f"[{len(self.rows) + len(self.failed)}/{self.total}] {job.name}  {text}", file=sys.stdout)

    def lost(self, number: int, times: int) -> None:
        """An item whose process died."""
        tqdm.write(f"{self.jobs[number].name}: its process died; try {times + 1}", file=sys.stdout)


def main(settings: VideoSet | ImageSet) -> None:
    """Encodes what is not done, writes what came out."""
    from vov.dataset import cluster, summary

    if not settings.manifest or not settings.out_dir:
        raise VovError("MANIFEST and OUT_DIR must be set; see --help")
    kind, begun, folder = family(sys.argv[1:], dict(os.environ)), time.monotonic(), Path(settings.out_dir)
    given = {k: v for k, v in cli.parse(KINDS[kind][0], sys.argv[1:], USAGE).items() if v is not None}
    with locked(folder):
        found = jobs_of(settings, kind, given)
        jobs = [job for job in found if isinstance(job, Job)]
        failed = [(str(one[0].path), one[1]) for one in found if not isinstance(one, Job)]
        done = [job for job in jobs if job.done()] if not settings.overwrite else []
        rest = [job for job in jobs if job not in done]
        print(f"{len(found)} items: {len(done)} done before, {len(rest)} to do, {len(failed)} not possible", flush=True)
        progress = Progress(folder, rest, failed, [job.recorded() for job in done], len(found))
        environ = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": str(max(1, int(settings.cpus)))} | {
            name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TORCH_HOME", "HF_HOME")
            if name in os.environ}
        try:
            if rest:
                cluster.run(rest, "scripts.encode_dataset:encode_one", resources(settings), settings.retries, environ,
                            progress.done, progress.lost)
        finally:
            progress.bar.close()
            order = {job.name: number for number, job in enumerate(jobs)}
            rows = sorted(progress.rows, key=lambda row: order[row["name"]])
            whole = summary.write(folder, rows, failed, time.monotonic() - begun)
        report(settings, kind, folder)
        print(f"{whole['files']} files, {whole['bytes']:,} bytes, mean PSNR {whole.get('psnr', float('nan')):.2f} dB, "
              f"{whole['seconds']:.0f} s; {folder}/results.csv")
    if failed:
        raise VovError(f"{len(failed)} of {len(found)} items failed; why is in {folder}/failed.csv; mend them and run "
                       "the same command again")


def resources(settings: SetOptions) -> Any:
    """What a worker gets."""
    from vov.dataset.cluster import Resources

    gpus = settings.gpus
    if gpus < 0:
        import torch
        gpus = float(settings.device != "cpu" and (bool(os.environ.get("RAY_ADDRESS")) or torch.cuda.is_available()))
    return Resources(settings.cpus, gpus, settings.workers)


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


if __name__ == "__main__":
    cli.run(KINDS[family(sys.argv[1:], dict(os.environ))][0], main, USAGE, stages=("encode",))
