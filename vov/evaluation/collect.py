"""From measured pairs to what is in results.json: rows, means over clips, Bjøntegaard deltas, the environment."""

from __future__ import annotations

import dataclasses
import math
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from vov import VovError
from vov.config import environment_names, fields_of, rare
from vov.evaluation import bdrate, fvd
from vov.evaluation.anchors import ffmpeg
from vov.evaluation.catalogue import METRICS
from vov.evaluation.measure import Suite
from vov.evaluation.pairs import EvalConfig, Pair
from vov.evaluation.perceptual import Unavailable


def collect(pairs: Sequence[Pair], suite: Suite, settings: EvalConfig, anchors: Sequence[tuple[str, str]],
            curves: list[dict], notes: list[str], device: torch.device, images: bool) -> dict:
    """Everything as one JSON-ready dictionary."""
    rows = [pair_row(pair) for pair in pairs]
    reasons = {name: reason for pair in pairs for name, reason in pair.measured.unavailable.items()}
    shown = {name: reason for name, reason in reasons.items() if not any(name in row["metrics"] for row in rows)}
    return finite({
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": cli(settings, images),
        "config": dataclasses.asdict(settings),
        "environment": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else
            f"cpu, {torch.get_num_threads()} threads", "python": platform.python_version(), "torch": torch.__version__,
            "ffmpeg": ffmpeg_version() if anchors or {"vmaf", "xpsnr"} & set(suite.names()) else "",
            "packages": suite.versions, "weights_sha256": suite.weights},
        "images": images,
        "metrics": [name for name in METRICS if any(name in row["metrics"] for row in rows)],
        "unavailable": shown,
        "notes": [*notes, *([f"JOD: {suite.conditions()}"] if suite.conditions() else [])],
        "items": rows,
        "summary": summarise(pairs),
        "bd": deltas(pairs, bd_anchor(pairs, settings, anchors)),
        "reference_curves": curves,
    })


def cli(settings: EvalConfig, images: bool) -> str:
    """The command that repeats this run: every setting that differs from its default, however it was set."""
    usual = EvalConfig()
    variables, flags = [], []
    for name, field in fields_of(EvalConfig).items():
        if (value := getattr(settings, name)) != getattr(usual, name):
            text = shlex.quote(str(int(value) if isinstance(value, bool) else value))
            variables += [] if name in rare(EvalConfig) else [f"{environment_names(field)[0]}={text}"]
            flags += [f"--set {name}={text}"] if name in rare(EvalConfig) else []
    return " ".join([*variables, "bash image/eval.sh" if images else "bash video/eval/eval.sh", *flags])


def pair_row(pair: Pair) -> dict:
    """One entry of "items" in results.json."""
    m = pair.measured
    width, height = m.size
    return {
        "name": pair.name, "clip": pair.clip, "codec": pair.codec, "frames": pair.count, "width": width,
        "height": height, "fps": pair.fps, "bytes": None if pair.bytes is None else round(pair.bytes),
        "bpp": pair.bpp,
        "kB_per_s": pair.bytes / 1000 * pair.fps / pair.count if pair.bytes and pair.count > 1 else None,
        "rate_source": pair.rate_source, "metrics": m.values, "unavailable": m.unavailable,
        "fvd_clips": len(m.features["decoded"]) if m.features else None, "per_frame": m.per_frame, **pair.detail,
    }


def summarise(pairs: Sequence[Pair]) -> list[dict]:
    """Means over the clips of each codec that was measured once per clip; FVD over all its clips together."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.codec, []).append(pair)
    return [mean_row(codec, group) for codec, group in groups.items()
            if len(group) > 1 and len({pair.clip for pair in group}) == len(group)]


def mean_row(codec: str, group: Sequence[Pair]) -> dict[str, Any]:
    """The line of one codec in the summary."""
    measured = [pair.measured for pair in group]
    values = {name: float(np.mean([one.values[name] for one in measured]))
              for name in METRICS if all(name in one.values for one in measured)}
    rates = [pair.bpp for pair in group if pair.bpp]
    row: dict[str, Any] = {"codec": codec, "clips": len(group)}
    if all(one.features for one in measured):
        stacked = {key: np.concatenate([one.features[key] for one in measured]) for key in measured[0].features}
        values["fvd"] = fvd.frechet_distance(stacked["original"], stacked["decoded"])
        values["fvd_full"] = fvd.frechet_distance(stacked["original_full"], stacked["decoded_full"])
        row |= {"fvd_clips": len(stacked["decoded"]), "fvd_full_clips": len(group)}
    return row | {"bpp": float(np.mean(rates)) if len(rates) == len(group) else None, "metrics": values}


def bd_anchor(pairs: Sequence[Pair], settings: EvalConfig, anchors: Sequence[tuple[str, str]]) -> str:
    """The codec that BD-rates compare with, "" for none; raises VovError unless it is evaluated and has a rate."""
    chosen = settings.bd_anchor or (anchors[0][0] if anchors else "")
    rated = list(dict.fromkeys([*(pair.codec for pair in pairs if pair.bytes or pair.bpp), *dict(anchors)]))
    if chosen and chosen not in rated:
        raise VovError(f"`bd_anchor`={chosen}: none of the evaluated codecs with a rate; they are {', '.join(rated)}")
    return chosen


def deltas(pairs: Sequence[Pair], anchor: str) -> list[dict]:
    """BD-rate and BD-metric of every codec with two or more rates against the codec `anchor`, clip by clip."""
    if not anchor:
        return []
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}  # of a metric, codec and clip, in their order
    for pair, bpp in ((pair, pair.bpp) for pair in pairs if pair.bpp):
        for metric, value in pair.measured.values.items():
            curves.setdefault((metric, pair.codec, pair.clip), []).append((bpp, value))
    rows = []
    for metric, codec, clip in sorted(curves, key=lambda key: list(METRICS).index(key[0])):
        test, reference = curves[metric, codec, clip], curves.get((metric, anchor, clip), ())
        if codec != anchor and metric != "warp_original" and min(len(test), len(reference)) >= 2:
            rows.append({"metric": metric, "codec": codec, "anchor": anchor, "clip": clip,
                         **delta(reference, test, metric)})
    return rows


def delta(reference: bdrate.Curve, test: bdrate.Curve, metric: str) -> dict[str, Any]:
    """Both deltas of one curve against another; None, with the reason, where there is none."""
    found: dict[str, Any] = {}
    for key, function in (("bd_rate_percent", bdrate.bd_rate), ("bd_metric", bdrate.bd_metric)):
        try:
            found[key] = function(reference, test, metric)
        except Unavailable as error:
            found[key], found[f"{key}_reason"] = None, str(error)
    return found


def ffmpeg_version() -> str:
    """First line of ffmpeg -version."""
    text = subprocess.run([ffmpeg(), "-version"], capture_output=True, text=True, check=False).stdout
    return text.splitlines()[0] if text else ""


def finite(value: Any) -> Any:
    """`value` with infinities as the strings "inf", "-inf" and NaN as None, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else f"{float(value)}"
    return value
