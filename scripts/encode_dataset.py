"""A data set to .vov files: `MANIFEST=clips.csv OUT_DIR=runs/set bash scripts/encode_dataset.sh`.

Every item becomes what encode.sh makes of it alone, to the byte.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from scripts.dataset_settings import KINDS, ImageSet, SetOptions, VideoSet, family
from scripts.dataset_work import jobs_of, report
from vov import VovError, cli
from vov.dataset.jobs import Job
from vov.files import REPO, locked

USAGE = "MANIFEST=clips.csv OUT_DIR=runs/set [VARIABLE=value …] bash scripts/encode_dataset.sh"


def main(settings: VideoSet | ImageSet) -> None:
    """Encodes what is not done, writes what came out."""
    from vov.dataset import cluster, summary
    from vov.dataset.progress import Progress

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
        print("".join(f"{path}  not possible: {why}\n" for path, why in failed), end="", flush=True)
        progress = Progress(folder, rest, failed, [job.recorded() for job in done], len(found))
        environ = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": str(max(1, int(settings.cpus)))} | {
            name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TORCH_HOME", "HF_HOME")
            if name in os.environ}
        try:
            if rest:
                cluster.run(rest, "scripts.dataset_work:encode_one", resources(settings), settings.retries, environ,
                            progress.done, progress.lost)
        finally:
            progress.bar.close()
            order = {job.name: number for number, job in enumerate(jobs)}
            rows = sorted(progress.rows, key=lambda row: order[row["name"]])
            whole = summary.write(folder, rows, failed, time.monotonic() - begun)
        report(settings, kind, folder)
        quality = f"mean PSNR {whole['psnr']:.2f} dB, " if whole["files"] else ""
        print(f"{whole['files']} files, {whole['bytes']:,} bytes, {quality}{whole['seconds']:.0f} s; "
              f"{folder}/results.csv")
    if failed:
        raise VovError(f"{len(failed)} of {len(found)} items failed; why is in {folder}/failed.csv; mend them and run "
                       "the same command again")


def resources(settings: SetOptions) -> Any:
    """What a worker gets."""
    from vov.dataset.cluster import Resources

    gpus = settings.gpus
    if gpus < 0:
        import torch
        gpus = float(settings.device != "cpu" and (bool(settings.ray_address) or torch.cuda.is_available()))
    return Resources(settings.cpus, gpus, settings.workers, settings.ray_address)


if __name__ == "__main__":
    cli.run(KINDS[family(sys.argv[1:], dict(os.environ))][0], main, USAGE, stages=("encode",))
