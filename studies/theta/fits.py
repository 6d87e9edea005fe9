"""Fits that studies repeat: points of a grid of settings, both stages in one go, a model that knows nothing."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vov import VovError, bitstream, config
from vov.commands.options import VideoFit
from vov.commands.run_report import Meter, report
from vov.decoding.decode import decode
from vov.fitting.encoder import Encoder
from vov.fitting.settings import FitConfig, refuse_disagreement
from vov.media.original import Original
from vov.model.backbone import Backbone

Point = dict[str, str]  # of the grid: variable → value
FIXED = ("config", "name", "frames_dir", "model_id", "cache_dir", "device", "dtype", "quantize", "offload")


def grid(text: str) -> list[Point]:
    """'a=1,2 b=3' → [{a: 1, b: 3}, {a: 2, b: 3}]; VovError for anything that a fit of one model cannot vary."""
    axes: dict[str, list[tuple[str, str]]] = {}
    known = [name for name in config.fields_of(VideoFit) if name not in FIXED]
    for part in text.split():
        name, _, values = part.partition("=")
        stage, _, variable = name.rpartition(".")
        if not values:
            raise VovError(f"VARY: {part!r} is not name=value,value")
        if variable not in known or stage not in ("", *config.STAGES) or name in axes:
            problem = "is named twice" if name in axes else "is nothing that can be varied"
            raise VovError(f"VARY: {name!r} {problem}; use a variable of bash video/train/run_two_stage.sh --help, in "
                           f"small letters, alone or after stage1. or stage2., and none of {', '.join(FIXED)}")
        axes[name] = [(name, value) for value in values.split(",")]
    return [dict(point) for point in itertools.product(*axes.values())]


def stages_of(point: Point, clip: str, environ: Mapping[str, str]) -> list[VideoFit]:
    """The settings of both stages at one point of the grid; `stage2.lr` varies one stage alone."""
    stages = []
    for stage in config.STAGES:
        chosen = {k.split(".")[-1]: v for k, v in point.items() if "." not in k or k.startswith(stage + ".")}
        given = {"frames_dir": clip, "name": Path(clip).stem, "preview_every": "0", **chosen}
        stages.append(config.load(VideoFit, given, environ, stage))
    refuse_disagreement(dict(zip(config.STAGES, stages, strict=True)))
    return stages


def random_base(backbone: Backbone, seed: int) -> Backbone:
    """The same model with an untrained transformer drawn from `seed`; its name and fingerprint are its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = type(backbone.transformer).from_config(backbone.transformer.config)
    return type(backbone)(backbone.path, f"{backbone.name}-random-{seed}",
                          transformer.to(backbone.device, backbone.dtype), backbone.vae, backbone.device,
                          backbone.dtype)


def fit_file(backbone: Backbone, originals: Sequence[Original], stages: Sequence[FitConfig], path: Path) -> float:
    """Fits θ to the originals, stage after stage, and writes `path`; returns the seconds that took."""
    start, begun = None, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Encoder(backbone, originals, stages[-1]) as encoder:
        for number, settings in enumerate(stages, 1):
            fitted = encoder.fit(settings, Path(folder) / f"{path.stem} stage {number}", start, preview=False)
            start = {"unilora_theta_d": fitted.theta}
        encoder.write(path, stages[-1], fitted)
    return time.monotonic() - begun


def measured_fit(backbone: Backbone, original: Original, stages: Sequence[FitConfig], path: Path) -> dict:
    """`fit_file` of one clip, then its decode: bytes on disk, quality of the decoded frames, seconds of both."""
    seconds, begun = fit_file(backbone, [original], stages, path), time.monotonic()
    stream = bitstream.read(path)
    (clip,) = decode(stream, backbone)
    spent, meter = {"fit": seconds, "decode": time.monotonic() - begun}, Meter(original.frames, stream)
    for frame in clip.frames:
        meter.add(frame)
    result = report(path, stream, [meter], spent)
    return {name: result[name] for name in ("bytes", "bpp", "psnr", "ms_ssim", "seconds")}
