"""The curves of scaling_curves, with conventional codecs in them: rows, means as JSON, and the figure of the README."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.experiments.scaling_curves import Curves
from vov import VovError
from vov.config import cli, option

if TYPE_CHECKING:
    from scripts.experiments.curves import Bench
    from scripts.experiments.rows import Rows

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
    from scripts.experiments.rows import Rows
    from vov import bitstream
    from vov.config import number_list
    from vov.evaluation.anchors import CODECS, parse_anchors

    if settings.redraw:
        curves_figure.redraw(Path(settings.results or Path(settings.out) / "curves"))
        return
    sizes = sorted({round(size) for size in number_list("ANCHOR_BYTES", settings.anchor_bytes, positive=True)})
    if settings.anchors != "auto" and any(name not in CODECS for name, _ in parse_anchors(settings.anchors)):
        raise VovError(f"ANCHORS={settings.anchors}: quantised latents are drawn by EXPLICIT here; leave explicit out")
    plain = Curves(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Curves)})
    rows = scaling_curves.main(plain)
    if settings.check:
        return
    fits, originals = ([Path(path) for path in text.split(",")] for text in (settings.fits, settings.originals))
    header = bitstream.read(fits[0]).header
    backbone = curves.backbone_for(settings, header, str(fits[0]))
    anchors = parse_anchors(AUTO[header.tree] if settings.anchors == "auto" else settings.anchors)
    folder = Path(settings.out)
    kept = Rows(folder / "curves.jsonl", folder)
    for fit in {fit.stem: fit for fit in fits}.values():
        bench = curves.Bench(fit, originals, backbone, folder)
        for name, preset in anchors:
            for row in anchor_rows(bench, name, preset, sizes, kept):
                print(curves.line(row), flush=True)
                rows.append(row)
    document = {"command": "bash scripts/scaling_curves.sh", "date": datetime.now(timezone.utc).date().isoformat(),
                "clips": sorted({row["clip"] for row in rows}), "tree": header.tree, "rows": curves.mean_rows(rows)}
    for target in filter(None, (str(folder / "curves"), settings.results)):
        curves_figure.save(Path(target), document)


def anchor_rows(bench: Bench, name: str, preset: str, sizes: Sequence[int], kept: Rows) -> Iterator[dict]:
    """A row for each size that the codec can keep to, kept or new; a size that it cannot has no row, and so no mean."""
    import numpy as np

    from scripts.experiments.rows import key, quality
    from vov.evaluation.anchors import CODECS, anchor_points

    for size in sizes:
        found = key(bench.backbone, [bench.source], "anchor", bench.target.shape, name, preset, size)
        if rows := kept.find(found):
            yield from rows
            continue
        place = bench.folder / bench.fit.stem / f"{name}_{preset}_{size}"
        count, fps = len(bench.target), bench.source.fps or 24.0
        [encoded] = anchor_points(CODECS[name].name, preset, bench.target, count, fps, [size], place)
        if encoded.bytes <= size:
            row = {"clip": bench.fit.stem, "fit": name, "scheme": f"{preset}: at most {size}",
                   "file": str(encoded.path.relative_to(bench.folder)), "bytes": encoded.bytes, "noise": 0,
                   "quality": encoded.quality, "command": encoded.command,
                   **quality(bench.target, np.stack(list(encoded.open())))}
            yield from kept.add(found, [row])


if __name__ == "__main__":
    usage = "FITS=a/x.vov,b/x.vov ORIGINALS=x.mp4 [VARIABLE=value …] bash scripts/scaling_curves.sh"
    cli.run(AnchoredCurves, main, usage)
