"""From the rows of `scripts/results.sh` to what is in results.json: rows, means over originals, Bjøntegaard deltas."""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scripts.results.originals import Measured
from scripts.results.settings import Results
from scripts.results.ways import EXPLICIT, KINDS, WAYS
from vov import VovError
from vov.evaluation.catalogue import METRICS
from vov.evaluation.collect import delta, ffmpeg_version, finite
from vov.evaluation.measure import Suite

# what BD-rates are against
BD_ANCHORS = {"clips": ("x264", "x265", "vvc", "explicit", "random"), "sequences": ("x265", "vvc", "independent"),
              "pictures": ("jpeg", "webp", "avif", "explicit", "random", "frozen")}


def build(rows: Sequence[dict], settings: Results, suite: Suite, originals: Sequence[Measured],
          notes: Sequence[str]) -> dict:
    """Everything as one JSON-ready dictionary."""
    shown = [{name: value for name, value in row.items() if name not in ("key", "of", "file_hash")} for row in rows]
    names = [name for name in METRICS if any(name in row["metrics"] for row in shown)]
    return finite({
        "command": cli(settings), "extent": settings.extent,
        "dates": sorted({row["date"] for row in shown}), "devices": sorted({row["device"] for row in shown}),
        "threads": torch.get_num_threads(),
        "versions": versions(suite),
        "minutes": round(sum(row["seconds"] or 0 for row in shown) / 60, 1),
        "originals": {kind: [one.name for one in originals if one.kind == kind] for kind in KINDS},
        "free": sorted({f"{one.kind}/{one.name}" for one in originals if one.free}),
        "metrics": names,
        "unavailable": {name: suite.unavailable.get(name, "needs larger pictures or more frames")
                        for name in settings.wanted() if name not in names},
        "notes": [*notes, *([f"JOD: {suite.conditions()}"] if suite.conditions() else [])],
        "rows": shown, "means": means(shown), "bd": deltas(shown)})


def versions(suite: Suite) -> dict:
    """What the figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "ffmpeg": ffmpeg_version(),
            "packages": list(suite.versions)}


def refuse_mixture(before: dict, extent: str, suite: Suite, path: Path) -> None:
    """Raises VovError when rows of now may not stand beside those of `before`."""
    now = versions(suite) | {"extent": extent}
    then = before["versions"] | {"extent": before["extent"]}
    if other := [name for name in ("extent", "ffmpeg", "packages") if now[name] != then[name]]:
        name = other[0]
        raise VovError(f"{path}: was made with another {name} ({then[name]}, now {now[name]}); measure everything "
                       "anew, without ADD")


def added(before: dict, now: dict) -> dict:
    """The document `now` with the rows of `before` that it does not measure anew."""
    def name(row: dict) -> tuple:
        return row["kind"], row["clip"], row["way"], row["asked"]

    anew = {name(row) for row in now["rows"]}
    rows = [row for row in before["rows"] if name(row) not in anew] + now["rows"]
    names = {key for document in (before, now) for key in document["metrics"]}
    found = {key: sorted({*before[key], *now[key]}) for key in ("dates", "devices", "free")}
    commands = list(dict.fromkeys([*before["command"].split(" && "), now["command"]]))
    originals = {kind: list(dict.fromkeys(before["originals"][kind] + now["originals"][kind]))
                 for kind in KINDS}
    return now | found | {
        "command": " && ".join(commands), "originals": originals, "metrics": [key for key in METRICS if key in names],
        "minutes": round(sum(row["seconds"] or 0 for row in rows) / 60, 1),
        "unavailable": {key: why for key, why in (before["unavailable"] | now["unavailable"]).items()
                        if key not in names},
        "notes": list(dict.fromkeys(before["notes"] + now["notes"])),
        "rows": rows, "means": means(rows), "bd": deltas(rows)}


def cli(settings: Results) -> str:
    """The command that repeats this run: every variable that differs from its default; of a path only its name."""
    usual = type(settings)()
    changed = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)
               if getattr(settings, field.name) != getattr(usual, field.name)}
    for name in ("extent", "out", "results", "media_dir", "add"):
        changed.pop(name, None)
    words = [f"{name.upper()}={shlex.quote(plain(str(value)))}" for name, value in changed.items()]
    return " ".join([*words, "bash scripts/results.sh", settings.extent])


def plain(text: str) -> str:
    """A list without the folders of this machine."""
    return ",".join(word if "/" not in word else f"{word.partition('=')[0]}={Path(word).name}" if "=" in word
                    else Path(word).name for word in text.split(","))


def means(rows: Sequence[dict]) -> list[dict]:
    """The mean over the originals of a kind, for every (way, size) that all of them have."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["asked"], row["way"]), []).append(row)
    count = {kind: len({row["clip"] for row in rows if row["kind"] == kind}) for kind in KINDS}
    found = []
    for (kind, asked, way), group in groups.items():
        if len(group) == count[kind]:
            names = [name for name in METRICS if all(isinstance(row["metrics"].get(name), float) for row in group)]
            found.append({"kind": kind, "way": way, "asked": asked, "originals": len(group),
                          "bytes": float(np.mean([row["bytes"] for row in group])),
                          "seconds": None if any(row["seconds"] is None for row in group) else float(
                              np.mean([row["seconds"] for row in group])),
                          "metrics": {name: float(np.mean([row["metrics"][name] for row in group])) for name in names}})
    order = [*WAYS, EXPLICIT]
    return sorted(found, key=lambda m: (list(KINDS).index(m["kind"]), m["asked"],
                                        order.index(m["way"]) if m["way"] in order else len(order)))


def deltas(rows: Sequence[dict]) -> list[dict]:
    """BD-rate of every way against the named anchors, mean over the originals of a kind.

    Where the curves of one original share no range there is none: a mean of the others would be of those that suit.
    """
    curves: dict[tuple, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row["metrics"].items():
            if isinstance(value, float):
                curves.setdefault((row["kind"], name, row["way"], row["clip"]), []).append((row["bytes"], value))
    found = []
    for kind, anchors in BD_ANCHORS.items():
        clips = sorted({row["clip"] for row in rows if row["kind"] == kind})
        ways = list(dict.fromkeys(row["way"] for row in rows if row["kind"] == kind))
        for name in METRICS:
            for way, anchor in ((way, anchor) for way in ways for anchor in anchors if way != anchor):
                pairs = [(curves.get((kind, name, anchor, clip), []), curves.get((kind, name, way, clip), []))
                         for clip in clips]
                values = [delta(a, b, name)["bd_rate_percent"] for a, b in pairs]
                if None not in values:
                    found.append({"kind": kind, "metric": name, "way": way, "anchor": anchor,
                                  "bd_rate_percent": float(np.mean(values)), "originals": len(clips)})
    return found


def read(path: Path) -> dict:
    """results.json; VovError where it is not there or not one of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["rows"], document["means"], document["bd"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VovError(f"{path}: no results ({error}); make them with: bash scripts/results.sh") from error
    return document
