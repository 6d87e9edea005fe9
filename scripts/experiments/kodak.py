"""Pictures as θ, next to JPEG, WebP and AVIF at the same bytes: a table, one JSON line a picture, a mosaic."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from vov import VovError, config
from vov.config import cli, option


@dataclass(frozen=True)
class Kodak:
    """Which pictures, at what size, how many to one θ; the fit's settings come from CONFIG and the environment."""

    description_file: str = option("./descriptions/kodak.txt", "one path|caption a line; found here or in image/")
    data_root: str = option("", "the folder with the pictures (required)")
    start: int = option(1, "first picture", minimum=1)
    end: int = option(0, "last picture; 0: all", minimum=0)
    divide: int = option(2, "width and height are divided by this (before measuring anything)", minimum=1)
    group: int = option(1, "pictures that share one θ", minimum=1)
    scaling: str = option("", "coded noise after each fit, as in scaling_curves.sh: atoms:100:2000:score=lookahead")
    anchors: str = option("jpeg,webp,avif", "what else to code the pictures with; none: nothing")
    out_dir: str = option("runs/kodak", "gets results.jsonl, mosaic.png and the files; what it holds of equal settings "
                         "is kept")


def main(settings: Kodak) -> None:
    """Fits the groups that results.jsonl does not have yet, prints the table, writes the mosaic."""
    from image.options import ImageFit

    from scripts.experiments import curves, pictures
    from scripts.experiments.rows import Rows, key, mean
    from vov.model.qwen import QwenBackbone

    scaling = curves.parse(settings.scaling) if settings.scaling else None  # its mistakes before any work
    environ = {"CONFIG": "nano-image"} | {k: v for k, v in os.environ.items() if v}
    given = {"preview_every": "0", "resize": "pad", "name": "x", "width": "0", "height": "0"}
    stages = [config.load(ImageFit, given, environ, stage) for stage in config.STAGES]
    stages[0] = dataclasses.replace(stages[0], lambda_rate=0.0)
    groups, folder = read_groups(settings), Path(settings.out_dir)
    kept, rows = Rows(folder / "results.jsonl", folder), []
    backbone = stages[0].load(QwenBackbone)
    for group in groups:
        found = key(backbone, group, *(stage.identity() for stage in stages), scaling, settings.anchors)
        new = kept.find(found) or kept.add(found, pictures.code(
            group, stages, backbone, scaling, settings.anchors, folder))
        for row in new:
            print("  ".join([f"{row['name']:<12}", *(cell(name, row[name]) for name in row["codecs"])]), flush=True)
        rows += new
    names = rows[0]["codecs"]
    means = {n: {k: mean([row[n][k] for row in rows]) for k in rows[0][n]} for n in names}
    print("  ".join([f"{'mean':<12}", *(cell(name, means[name]) for name in names)]))
    print(f"{folder / 'mosaic.png'}: {' | '.join(['original', *names])}")
    pictures.mosaic(rows, folder)


def read_groups(settings: Kodak) -> list[list]:
    """The pictures, divided, as groups of `vov.codec.Source`; all mistakes of the settings before any work."""
    from image.options import described, read_pictures

    from vov import media
    from vov.evaluation import anchors

    if not settings.data_root:
        raise VovError("DATA_ROOT is not set; give the folder with the Kodak pictures (https://r0k.us/graphics/kodak)")
    anchors.parse_anchors(settings.anchors)
    sources = read_pictures(described(settings.description_file, settings.start, settings.end), settings.data_root)
    small = [dataclasses.replace(s, frames=media.resize(s.frames, *(
        max(1, n // settings.divide) for n in s.frames.shape[2:0:-1]))) for s in sources]
    return [small[first:first + settings.group] for first in range(0, len(small), settings.group)]


def cell(name: str, row: dict) -> str:
    """One codec's result as text."""
    from scripts.experiments.rows import four_digits

    return (f"{name} {row['bytes']:5.0f} B {row['bpp']:.3f} bpp {row['psnr']:5.2f} dB "
            f"{four_digits(row['ms_ssim'])}")


if __name__ == "__main__":
    cli.run(Kodak, main, "DATA_ROOT=kodak bash scripts/kodak.sh [--flag value …]")
