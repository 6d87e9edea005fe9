"""What `scripts/kodak.sh` does with a group of pictures: θ, coded noise, other codecs at the same bytes, a mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from image.options import ImageFit, at_size
from vov.codec import Source

from scripts.experiments import fits
from scripts.experiments.rows import quality
from vov import bitstream, codec, media
from vov.evaluation import anchors
from vov.model.backbone import Backbone
from vov.noise import search
from vov.noise.options import ScalingConfig


def code(group: Sequence[Source], stages: Sequence[ImageFit], backbone: Backbone, scaling: ScalingConfig | None,
         anchor_names: str, folder: Path) -> list[dict]:
    """Two stages, noise if wanted, the file, its decode; then every anchor at the bytes of each picture."""
    path = folder / f"{Path(group[0].name).stem}.vov"
    fits.fit_file(backbone, group, [at_size(stage, group, backbone.unit) for stage in stages], path)
    if scaling:
        scaled, _ = search.scale(bitstream.read(path), backbone, group, scaling)
        bitstream.write(path, scaled)
    rows, share = [], path.stat().st_size / len(group)
    for source, clip in zip(group, codec.decode_file(path, backbone), strict=True):
        decoded = {"vov": (share, clip.frames)}
        for name, preset in anchors.parse_anchors(anchor_names):
            place = folder / "anchors" / name / Path(source.name).stem
            (best,) = anchors.anchor_points(name, preset, source.frames, 1, 1.0, [round(share)], place)
            decoded[name] = (best.bytes, next(iter(best.open()))[None])
        row = {"name": source.name, "file": path.name, "codecs": list(decoded)}
        for name, (size, frames) in decoded.items():
            media.write_image(folder / "pictures" / name / f"{Path(source.name).stem}.png", frames[0])
            row[name] = {"bytes": size, "bpp": 8 * size / source.frames[0, ..., 0].size,
                         **quality(source.frames, frames)}
        media.write_image(folder / "pictures/original" / f"{Path(source.name).stem}.png", source.frames[0])
        rows.append(row)
    return rows


def mosaic(rows: list[dict], folder: Path) -> None:
    """One line a picture: the original, then every codec."""
    lines = [media.side_by_side(*(media.read_image(folder / "pictures" / name / f"{Path(row['name']).stem}.png")[None]
                                  for name in ["original", *row["codecs"]]))[0] for row in rows]
    wide = max(line.shape[1] for line in lines)
    media.write_image(folder / "mosaic.png", np.concatenate(
        [np.pad(line, ((0, 4), (0, wide - line.shape[1]), (0, 0)), constant_values=255) for line in lines]))
