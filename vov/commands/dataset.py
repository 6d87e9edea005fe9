"""A data set to .vov files: `MANIFEST=clips.csv OUT_DIR=runs/set bash scripts/encode_dataset.sh`.

Every item becomes what encode.sh makes of it alone, to the byte.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from vov import VovError
from vov.commands.encode import EncodePictures, EncodeVideo
from vov.config import cli
from vov.dataset.options import SetOptions
from vov.runtime.files import REPO, locked
from vov.runtime.resumable import SET, claim

USAGE = "MANIFEST=clips.csv OUT_DIR=runs/set [VARIABLE=value …] bash scripts/encode_dataset.sh"
ENCODE = {"video/encode.sh": EncodeVideo, "image/encode.sh": EncodePictures}  # whose variables go with a set's
NAMES = {"image": "pictures", "video": "videos"}


def main(settings: SetOptions) -> None:
    """Encodes what is not done, writes what came out."""
    from vov.commands.dataset_item import jobs_of, report
    from vov.dataset import cluster, summary
    from vov.dataset.jobs import Job
    from vov.dataset.progress import Progress
    from vov.dataset.tasks import Tasks

    if not settings.manifest or not settings.out_dir:
        raise VovError("MANIFEST and OUT_DIR must be set; see --help")
    begun, folder = time.monotonic(), Path(settings.out_dir)
    with locked(folder):
        found = jobs_of(settings, flags())
        claim(folder, SET)
        jobs = [job for job in found if isinstance(job, Job)]
        failed = [(str(one[0].path), one[1]) for one in found if not isinstance(one, Job)]
        done = [job for job in jobs if job.done()] if not settings.overwrite else []
        # one tree after the other: a process changes its model but once
        rest = sorted((job for job in jobs if job not in done), key=lambda job: job.medium)
        print(f"{len(found)} items: {len(done)} done before, {len(rest)} to do, {len(failed)} not possible", flush=True)
        print("".join(f"{path}  not possible: {why}\n" for path, why in failed), end="", flush=True)
        progress = Progress(folder, rest, failed, [job.recorded() | {"tree": job.medium} for job in done], len(found))
        try:
            if rest:
                tasks = Tasks(rest, progress)
                cluster.run(tasks.tasks, "vov.commands.dataset_item:encode_one", resources(settings), settings.retries,
                            environment(settings), tasks.done, tasks.lost, tasks.wanted)
        finally:
            progress.bar.close()
            order = {job.name: number for number, job in enumerate(jobs)}
            rows = sorted(progress.rows, key=lambda row: order[row["name"]])
            whole = summary.write(folder, rows, failed, time.monotonic() - begun)
        report(settings, folder, {row["tree"] for row in rows})
        parts = [f"{what}: {line(whole[tree])}\n" for tree, what in NAMES.items() if tree in whole]
        print(f"{''.join(parts)}{line(whole)}, {whole['seconds']:.0f} s; {folder}/results.csv")
    if failed:
        raise VovError(f"{len(failed)} of {len(found)} items failed; why is in {folder}/failed.csv; mend them and run "
                       "the same command again")


def flags() -> dict[str, Any]:
    """The flags of the command line but --help, by field name."""
    given = [flag for flag in sys.argv[1:] if flag not in ("--help", "-h")]
    parsed = cli.parse(SetOptions, given, USAGE, more=ENCODE)
    return {name: value for name, value in parsed.items() if value is not None}


def line(totals: dict[str, Any]) -> str:
    """What a set, or its part of one tree, came to."""
    quality = f", mean PSNR {totals['psnr']:.2f} dB" if totals["files"] else ""
    return f"{totals['files']} files, {totals['bytes']:,} bytes{quality}"


def environment(settings: SetOptions) -> dict[str, str]:
    """The variables of a worker."""
    passed = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TORCH_HOME", "HF_HOME")
    return {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": str(max(1, int(settings.cpus)))} | {
        name: os.environ[name] for name in passed if name in os.environ}


def resources(settings: SetOptions) -> Any:
    """What a worker gets."""
    from vov.dataset.cluster import Resources

    gpus = settings.gpus
    if gpus == 0 and settings.device == "cuda":
        raise VovError("GPUS=0 and DEVICE=cuda are set; raise GPUS, or set DEVICE=cpu")
    if gpus < 0:
        import torch
        gpus = float(settings.device != "cpu" and (bool(settings.ray_address) or torch.cuda.is_available()))
    return Resources(settings.cpus, gpus, settings.workers, settings.ray_address)


if __name__ == "__main__":
    cli.run(SetOptions, main, USAGE, more=ENCODE)
