"""Rate and quality over a grid of settings: many two-stage fits in one process, one table, one JSONL file."""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.config import cli, option


@dataclass(frozen=True)
class Sweep:
    """What is varied; every other setting comes from CONFIG and the environment, as in run_two_stage.sh."""

    clips: str = option("", "comma-separated folders or videos; NAME is the last part of the path (required)")
    vary: str = option("", "grid, e.g. 'theta_length=4096,8192 stage2.lambda_rate=0.001,0.01'")
    out: str = option("runs/sweep.jsonl", "a line per fit; what has a line of equal settings, clip and model is not "
                      "fitted again")
    keep: str = option("", "folder that gets the .vov of every fit; each point of a larger grid has its own in it")
    random_base: bool = option(False, "a transformer drawn from SEED instead of the pretrained one: what is the prior "
                               "worth? Its files decode with that very transformer only")


def main(settings: Sweep) -> None:
    """Prints a line per fit."""
    from scripts.results.kept import Rows, key
    from studies.theta import fits
    from vov.model.wan import WanBackbone

    if not settings.clips:
        raise VovError("CLIPS is not set; give folders or videos, separated by commas")
    points = fits.grid(settings.vary)
    planned = [(point, fits.stages_of(point, clip, os.environ))
               for clip, point in itertools.product(settings.clips.split(","), points)]
    for _, stages in planned:
        stages[-1].originals()  # all mistakes before any work
    base = planned[0][1][0]
    if settings.random_base and (base.quantize not in ("auto", "none") or base.offload != "none"):
        raise VovError("RANDOM_BASE=1 draws plain weights on the device; leave QUANTIZE and OFFLOAD unset")
    backbone = base.load(WanBackbone)
    if settings.random_base:
        backbone = fits.random_base(backbone, base.seed)
    rows = Rows(Path(settings.out), Path(settings.keep))
    for point, stages in planned:
        (original,), vary = stages[-1].originals(), " ".join(f"{k}={v}" for k, v in point.items())
        place = Path(*([vary.replace(" ", "_")] if len(points) > 1 else []), f"{original.name}.vov")
        found = key(backbone, [original], *(stage.identity() for stage in stages), str(place) if settings.keep else "")
        (row,) = rows.find(found) or [{}]
        again = bool(row)
        if not again:
            with tempfile.TemporaryDirectory() as scratch:
                row = {"clip": original.name, "vary": vary, "random_base": settings.random_base, **point,
                       **fits.measured_fit(backbone, original, stages, Path(settings.keep or scratch, place))}
            rows.add(found, [row | ({"file": str(place)} if settings.keep else {})])
        print(line(row, " (from OUT)" * again), flush=True)


def line(row: dict, remark: str) -> str:
    """One fit as text."""
    from scripts.results.kept import four_digits

    return (f"{row['clip']:<18} {row['vary']:<60} {row['bytes']:>7} bytes {row['psnr']:6.2f} dB MS-SSIM "
            f"{four_digits(row['ms_ssim'])} {row['seconds']['fit']:6.1f} s{remark}")


if __name__ == "__main__":
    cli.run(Sweep, main, "CLIPS=a.mp4,b.mp4 VARY='theta_length=4096,8192' python -m studies.theta.run")
