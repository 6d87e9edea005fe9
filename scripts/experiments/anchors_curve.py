"""The curves of scaling_curves, with conventional codecs in them: rows, means as JSON, and the figure of the README."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from scripts.experiments.scaling_curves import Curves
from vov import VovError, cli
from vov.config import option

AUTO = {"video": "x264=veryslow,x265=veryslow,svtav1=2", "image": "jpeg,webp,avif"}


@dataclasses.dataclass(frozen=True)
class AnchoredCurves(Curves):
    """The variables of the curves, and which codecs are drawn beside them."""

    anchors: str = option("auto", "codecs as in eval.sh, CODEC or CODEC=PRESET with commas; auto: "
                                  + " or ".join(AUTO.values()) + "; none: none")
    anchor_bytes: str = option("500,750,1250,2250,4250", "for each of these sizes: the finest anchor not larger")
    results: str = option("", "also writes the means as RESULTS.json and the figure as RESULTS.svg and RESULTS.png")
    redraw: bool = option(False, "measure nothing: draw RESULTS.json again")


def main(settings: AnchoredCurves) -> None:
    """Measures ours, then the anchors; prints and draws all of them."""
    from scripts.experiments import curves, curves_figure, scaling_curves
    from vov import bitstream
    from vov.evaluation.anchors import parse_anchors

    if settings.redraw:
        curves_figure.redraw(Path(settings.results or Path(settings.out) / "curves"))
        return
    try:
        sizes = [int(size) for size in settings.anchor_bytes.split(",")]
    except ValueError:
        raise VovError(f"ANCHOR_BYTES={settings.anchor_bytes}: must be whole numbers with commas between") from None
    if settings.anchors != "auto":
        parse_anchors(settings.anchors)  # mistakes before any work
    plain = Curves(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Curves)})
    scaling_curves.main(plain)
    if settings.check:
        return
    path = Path(settings.out) / "curves.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    fits = {Path(fit).stem: Path(fit) for fit in settings.fits.split(",")}
    tree = bitstream.read(next(iter(fits.values()))).header.tree
    for clip, fit in fits.items():
        bench = curves.Bench(fit, [Path(p) for p in settings.originals.split(",")], None)
        for name, preset in parse_anchors(AUTO[tree] if settings.anchors == "auto" else settings.anchors):
            done = {row["scheme"] for row in rows if row["clip"] == clip and row["fit"] == name}
            todo = [size for size in sizes if f"{preset}: at most {size}" not in done]
            for row in anchor_rows(bench, name, preset, todo, Path(settings.out)):
                scaling_curves.add(row, rows, path)
    means = curves.mean_rows([row for row in rows if row.get("bytes")])
    document = {"command": "bash scripts/scaling_curves.sh", "date": datetime.now(timezone.utc).date().isoformat(),
                "clips": sorted({row["clip"] for row in rows}), "tree": tree, "rows": means}
    for target in filter(None, (str(Path(settings.out) / "curves"), settings.results)):
        curves_figure.save(Path(target), document)


def anchor_rows(bench, name: str, preset: str, sizes: Sequence[int], folder: Path) -> list[dict]:
    """One row for each size that the codec can keep to; a codec that cannot has no row, and so no mean there."""
    import numpy as np

    from vov.evaluation.anchors import CODECS, anchor_points

    if name not in CODECS:
        raise VovError(f"ANCHORS: {name} is drawn by EXPLICIT here; leave it out")
    rows = []
    for size in sizes:
        place = folder / bench.fit.stem / f"{name}_{preset}_{size}"
        count, fps = len(bench.target), bench.source.fps or 24.0
        [encoded] = anchor_points(name, preset, bench.target, count, fps, [size], place)
        if encoded.bytes <= size:
            rows.append({"clip": bench.fit.stem, "fit": name, "scheme": f"{preset}: at most {size}",
                         "file": str(encoded.path.relative_to(folder)), "bytes": encoded.bytes, "noise": 0,
                         "quality": encoded.quality, "command": encoded.command,
                         **bench.quality(np.stack(list(encoded.open())))})
    return rows


if __name__ == "__main__":
    usage = "FITS=a/x.vov,b/x.vov ORIGINALS=x.mp4 [VARIABLE=value …] bash scripts/scaling_curves.sh"
    cli.run(AnchoredCurves, main, usage)
