"""Codes noise for the pictures of a .vov file: `BITSTREAM=x.vov bash image/scale.sh`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vov import VovError, cli
from vov.config import option
from vov.scaling.settings import ScalingConfig


@dataclass(frozen=True)
class Scale(ScalingConfig):
    """A .vov file, its originals, and where the result goes."""

    bitstream: str = option("", "the fitted .vov file (required)")
    original: str = option("", "the original, when the file holds one picture", alias=("IMAGE",))
    data_root: str = option("./data", "what the names of several pictures are relative to")
    output: str = option("", "the new file; default scaled/ and the name of BITSTREAM")
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    model_id: str = option("", "folder of the model; default: as the header says", alias=("QWEN_MODEL_ID",))
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Scale) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone and measures."""
    from vov import bitstream, codec, media, results
    from vov.scaling import command

    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a fitted .vov file")
    path = Path(settings.bitstream)
    stream = bitstream.read(path)
    output = Path(settings.output or f"scaled/{path.name}")
    results.check_outputs([output, output.with_suffix(""), output.with_suffix(".png")], settings.overwrite)
    if len(stream.items) == 1 and not settings.original:
        raise VovError("ORIGINAL is not set; give the picture that the noise is chosen for")
    files = [settings.original] if len(stream.items) == 1 else [
        Path(settings.data_root) / item.name for item in stream.items]
    sources = [codec.Source(media.read_image(file)[None], 0.0, item.caption, item.name)
               for file, item in zip(files, stream.items, strict=True)]

    from image.backbone import QwenBackbone
    backbone = QwenBackbone.load(settings.model_id or stream.header.model_id, settings.cache_dir, settings.device,
                                 stream.header.dtype, bool(settings.model_id))
    result = command.scale_command(stream, backbone, sources, settings, output)
    print(results.table(result))
    print(f"encoder    {result['encoder_psnr']:.2f} dB (what it saw before writing)")


if __name__ == "__main__":
    cli.run(Scale, main, "BITSTREAM=x.vov ORIGINAL=x.png [VARIABLE=value …] bash image/scale.sh [--flag value …]")
