"""What TEXTURE does to files with coded noise: their decodes at several values, every metric there is, and a picture.

`FILES=a.vov,b.vov ORIGINALS=a.mp4,b.mp4 python -m studies.texture.run`; files must be coded with RESIZE=crop.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError, bitstream, media
from vov.commands.run_report import Meter
from vov.config import cli, number_list, option, override
from vov.decoding.decode import Decoder, read
from vov.evaluation import catalogue
from vov.evaluation.measure import Suite
from vov.media import FrameSource
from vov.model.options import ModelOptions
from vov.model.registry import backbone_class

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texture(ModelOptions):
    """Files, originals, what to measure."""

    model_id: str = override(ModelOptions, "model_id", "nano-video")
    files: str = option("", ".vov files of one tree with coded noise, with commas between (required)")
    originals: str = option("", "their originals, in the same order (required)")
    textures: str = option("0,0.25,0.5,0.75,1", "values of TEXTURE")
    metrics: str = option("psnr,ms_ssim,stlpips_alex,stlpips_vgg,ssimulacra2,jod", "see METRICS of eval.sh")
    out: str = option("runs/texture", "gets the decodes and texture.png")


def decoded(path: Path, backbone, texture: float, folder: Path, original: FrameSource) -> tuple[FrameSource, float]:
    """The frames of a file at one value of TEXTURE, in a folder, and the seam in dB (nan where there is none)."""
    stream = read(path, limit=0)
    meter = Meter(original, stream)
    with Decoder(stream, backbone, texture) as decoder:
        for number, frame in enumerate(decoder.frames()):
            media.write_image(folder / f"{number:05d}.png", frame)
            meter.add(frame)
    seam = meter.result().get("seam_db")
    return FrameSource(folder), float("nan") if seam is None else seam


def main(settings: Texture) -> None:
    """Decodes, measures, prints the mean of every metric for every value, draws."""
    files, originals = ([Path(p) for p in given.split(",") if p] for given in (settings.files, settings.originals))
    if not files or len(files) != len(originals):
        raise VovError("give as many ORIGINALS as FILES, with commas between")
    first = bitstream.read(files[0]).header
    backbone = settings.load(backbone_class(first.tree), first, str(files[0]))
    suite = Suite(skipped=catalogue.left_out(settings.metrics, False, True, first.tree == "image"))
    textures, out, rows = number_list("TEXTURES", settings.textures), Path(settings.out), {}
    lines = []
    for path, clip in zip(files, originals, strict=True):
        stream = bitstream.read(path)
        header, length = stream.header, stream.sequence.frames if stream.sequence else stream.header.num_frames
        original = FrameSource(clip, frames=length, size=(header.width, header.height), resize="crop")
        middle = len(original) // 2
        line = [next(iter(original.read(middle, 1)))]
        for texture in textures:
            shown, seam = decoded(path, backbone, texture, out / f"{path.stem}-{texture:g}", original)
            found = suite.measure(original, shown, len(original)).values
            rows.setdefault(texture, []).append(found)
            line.append(next(iter(shown.read(middle, 1))))
            log.info("%s TEXTURE=%g seam=%.2f %s", path.stem, texture, seam,
                     " ".join(f"{k}={v:.4f}" for k, v in found.items()))
        lines.append(np.concatenate(line, 1))
    media.write_image(out / "texture.png", np.concatenate(lines))
    names = [name for name in catalogue.METRICS if all(name in found for group in rows.values() for found in group)]
    print("TEXTURE | " + " | ".join(catalogue.METRICS[name].label for name in names))
    for texture, group in rows.items():
        print(f"{texture:g} | " + " | ".join(
            f"{np.mean([found[name] for found in group]):.{catalogue.METRICS[name].digits}f}" for name in names))


if __name__ == "__main__":
    cli.run(Texture, main, "FILES=a.vov ORIGINALS=a.mp4 [VARIABLE=value …] python -m studies.texture.run")
