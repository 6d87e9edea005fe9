"""Rate and quality over a grid of settings: many two-stage fits in one process, one table, one JSONL file."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from video.options import VideoFit
from vov import VovError, cli, config
from vov.config import option


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is varied; every other setting comes from CONFIG and the environment, as in run_two_stage.sh."""

    clips: str = option("", "comma-separated folders or videos; NAME is the last part of the path (required)")
    vary: str = option("", "grid, e.g. 'theta_length=4096,8192 stage2.lambda_rate=0.001,0.01'")
    out: str = option("runs/sweep.jsonl", "one line per fit; fits already in it are skipped")
    keep: str = option("", "folder that gets the .vov of every fit; each point of a larger grid has its own in it")
    random_base: bool = option(False, "forget the pretrained transformer: what is the prior worth?")


def grid(text: str) -> list[dict[str, str]]:
    """'a=1,2 b=3' → [{a: 1, b: 3}, {a: 2, b: 3}]."""
    axes = []
    for part in text.split():
        name, _, values = part.partition("=")
        if not values:
            raise VovError(f"VARY: {part!r} is not name=value,value")
        axes.append([(name, value) for value in values.split(",")])
    return [dict(point) for point in itertools.product(*axes)]


def stage_settings(point: dict[str, str], clip: str, stage: str) -> VideoFit:
    """The settings of one stage at one point of the grid; `stage2.lr` varies one stage alone."""
    chosen = {k.split(".")[-1]: v for k, v in point.items() if "." not in k or k.startswith(stage + ".")}
    name = Path(clip).stem
    return config.load(VideoFit, {"frames_dir": clip, "name": name, "preview_every": "0", **chosen}, os.environ, stage)


def run(point: dict[str, str], clip: str, backbone, keep: Path | None = None) -> dict:
    """Two stages, a file (kept in `keep`), its decode: bytes on disk and PSNR of the decoded frames."""
    from vov.codec import Encoder, decode_file
    from vov.results import report

    first, second = (stage_settings(point, clip, stage) for stage in config.STAGES)
    source = second.source()
    start, begun = None, time.monotonic()
    encoder = Encoder(backbone, [source], second)
    with tempfile.TemporaryDirectory() as folder:
        for number, stage in enumerate((first, second)):
            fitted = encoder.fit(stage, Path(folder) / str(number), start, preview=False)
            start = {"unilora_theta_d": fitted.theta}
        path = (keep or Path(folder)) / f"{second.name}.vov"
        encoder.write(path, second, fitted)
        encoder.close()
        fit_seconds = time.monotonic() - begun
        begun = time.monotonic()
        result = report(path, decode_file(path, backbone), [source], second,
                        {"fit": fit_seconds, "decode": time.monotonic() - begun})
    return {"clip": second.name, **point, **{k: result[k] for k in ("bytes", "bpp", "psnr", "ms_ssim", "seconds")}}


def main(settings: Sweep) -> None:
    """Prints a line per fit."""
    from video.backbone import WanBackbone

    if not settings.clips:
        raise VovError("CLIPS is not set; give folders or videos, separated by commas")
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    key = ("clip", "vary", "random_base")
    done = {tuple(json.loads(line)[k] for k in key) for line in out.read_text().splitlines()} if out.exists() else set()
    base = stage_settings({}, "none", "")
    backbone = WanBackbone.load(base.model_id, base.cache_dir, base.device, base.dtype)
    if settings.random_base:
        fresh = type(backbone.transformer).from_config(backbone.transformer.config).to(backbone.device, backbone.dtype)
        backbone.transformer.load_state_dict(fresh.state_dict())
    points = grid(settings.vary)
    for clip, point in itertools.product(settings.clips.split(","), points):
        vary = " ".join(f"{k}={v}" for k, v in point.items())
        if (Path(clip).stem, vary, settings.random_base) in done:
            continue
        keep = Path(settings.keep, *([vary.replace(" ", "_")] if len(points) > 1 else [])) if settings.keep else None
        result = run(point, clip, backbone, keep) | {"vary": vary, "random_base": settings.random_base}
        with out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{result['clip']:<18} {vary:<60} {result['bytes']:>7} bytes {result['psnr']:6.2f} dB "
              f"MS-SSIM {result['ms_ssim']:.4f} {result['seconds']['fit']:6.1f} s", flush=True)


if __name__ == "__main__":
    cli.run(Sweep, main, "CLIPS=a.mp4,b.mp4 VARY='theta_length=4096,8192' bash scripts/sweep.sh")
