"""Pictures as θ, next to JPEG, WebP and AVIF at the same bytes: a table, one JSON line a picture, a mosaic."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vov import VovError, cli, config
from vov.config import option


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
    out_dir: str = option("runs/kodak", "gets results.jsonl, mosaic.png and the files; pictures already in it are kept")


def main(settings: Kodak) -> None:
    """Fits the groups that are not in results.jsonl yet, then prints the table and writes the mosaic."""
    from image.backbone import QwenBackbone
    from image.options import ImageFit, described, read_pictures
    from scripts.experiments import curves
    from vov import media

    if not settings.data_root:
        raise VovError("DATA_ROOT is not set; give the folder with the Kodak pictures (https://r0k.us/graphics/kodak)")
    if settings.scaling:
        curves.parse(settings.scaling)  # its mistakes before any work
    sources = read_pictures(described(settings.description_file, settings.start, settings.end), settings.data_root)
    environ = {"CONFIG": "nano-image"} | {k: v for k, v in os.environ.items() if v}
    given = {"preview_every": "0", "resize": "pad", "name": "x", "width": "0", "height": "0"}
    stages = [config.load(ImageFit, given, environ, stage) for stage in config.STAGES]
    stages[0] = dataclasses.replace(stages[0], lambda_rate=0.0)
    folder = Path(settings.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()] if (
        folder / "results.jsonl").is_file() else []
    backbone = QwenBackbone.load(stages[0].model_id, stages[0].cache_dir, stages[0].device, stages[0].precision)
    for first in range(0, len(sources), settings.group):
        group = [dataclasses.replace(s, frames=media.resize(s.frames, *(
            n // settings.divide for n in s.frames.shape[2:0:-1]))) for s in sources[first:first + settings.group]]
        if {s.name for s in group} <= {row["name"] for row in rows}:
            continue
        for row in code(group, stages, backbone, settings, folder):
            rows.append(row)
            with (folder / "results.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print("  ".join([f"{row['name']:<12}", *(cell(name, row[name]) for name in row["codecs"])]), flush=True)
    names = rows[0]["codecs"]
    mean = {n: {k: sum(row[n][k] for row in rows) / len(rows) for k in rows[0][n]} for n in names}
    print("  ".join([f"{'mean':<12}", *(cell(name, mean[name]) for name in names)]))
    print(f"{folder / 'mosaic.png'}: {' | '.join(['original', *names])}")
    mosaic(rows, folder)


def cell(name: str, row: dict) -> str:
    """One codec's result as text."""
    return f"{name} {row['bytes']:5.0f} B {row['bpp']:.3f} bpp {row['psnr']:5.2f} dB {row['ms_ssim']:.4f}"


def code(group, stages, backbone, settings: Kodak, folder: Path) -> list[dict]:
    """Two stages, noise if wanted, the file, its decode; then every anchor at the bytes of each picture."""
    from image.options import at_size
    from scripts.experiments import curves
    from vov import bitstream, codec, media, metrics
    from vov.evaluation import anchors
    from vov.scaling import search

    stages = [at_size(stage, group, backbone.unit) for stage in stages]
    encoder, start, stem = codec.Encoder(backbone, group, stages[0]), None, Path(group[0].name).stem
    with tempfile.TemporaryDirectory() as run:
        for number, stage in enumerate(stages):
            fitted = encoder.fit(stage, Path(run) / f"{stem} stage {number + 1}", start)
            start = {"unilora_theta_d": fitted.theta}
    path = folder / f"{stem}.vov"
    encoder.write(path, stages[1], fitted)
    encoder.close()
    if settings.scaling:
        scaled, _ = search.scale(bitstream.read(path), backbone, group, curves.parse(settings.scaling))
        bitstream.write(path, scaled)
    rows, share = [], path.stat().st_size / len(group)
    for source, clip in zip(group, codec.decode_file(path, backbone), strict=True):
        decoded = {"vov": (share, clip.frames)}
        for name, preset in anchors.parse_anchors(settings.anchors):
            place = folder / "anchors" / name / Path(source.name).stem
            (best,) = anchors.anchor_points(name, preset, source.frames, 1, 1.0, [round(share)], place)
            decoded[name] = (best.bytes, next(iter(best.open()))[None])
        row = {"name": source.name, "codecs": list(decoded)}
        for name, (size, frames) in decoded.items():
            media.write_image(folder / "pictures" / name / f"{Path(source.name).stem}.png", frames[0])
            row[name] = {"bytes": size, "bpp": 8 * size / source.frames[0, ..., 0].size,
                         "psnr": metrics.psnr(source.frames, frames), "ms_ssim": metrics.ms_ssim(source.frames, frames)}
        media.write_image(folder / "pictures/original" / f"{Path(source.name).stem}.png", source.frames[0])
        rows.append(row)
    return rows


def mosaic(rows: list[dict], folder: Path) -> None:
    """One line a picture: the original, then every codec."""
    import numpy as np

    from vov import media

    lines = [media.side_by_side(*(media.read_image(folder / "pictures" / name / f"{Path(row['name']).stem}.png")[None]
                                  for name in ["original", *row["codecs"]]))[0] for row in rows]
    wide = max(line.shape[1] for line in lines)
    media.write_image(folder / "mosaic.png", np.concatenate(
        [np.pad(line, ((0, 4), (0, wide - line.shape[1]), (0, 0)), constant_values=255) for line in lines]))


if __name__ == "__main__":
    cli.run(Kodak, main, "DATA_ROOT=kodak bash scripts/kodak.sh [--flag value …]")
