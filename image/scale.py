"""Codes noise for the pictures of a .vov file: `BITSTREAM=x.vov bash image/scale.sh`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image.options import QwenOptions
from vov import VovError, cli
from vov.config import option
from vov.roi import with_region
from vov.scaling.settings import ScalingConfig


@dataclass(frozen=True)
class Scale(ScalingConfig, QwenOptions):
    """A .vov file, its originals, and where the result goes."""

    bitstream: str = option("", "the fitted .vov file (required)")
    original: str = option("", "the original, when the file holds one picture", alias=("IMAGE",))
    data_root: str = option("./data", "what the names of several pictures are relative to")
    output: str = option("", "the new file; default scaled/ and the name of BITSTREAM")
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Scale) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone and measures."""
    from image.backbone import QwenBackbone
    from vov import codec, media, results
    from vov.scaling import command

    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a fitted .vov file")
    path = Path(settings.bitstream)
    stream = codec.read_file(path, QwenBackbone, settings.decode_limit)
    output = Path(settings.output or f"scaled/{path.name}")
    if len(stream.items) == 1 and not settings.original:
        raise VovError("ORIGINAL is not set; give the picture that the noise is chosen for")
    files = [settings.original] if len(stream.items) == 1 else [
        Path(settings.data_root) / item.name for item in stream.items]
    sources = [codec.Source(media.read_image(file)[None], 0.0, item.caption, item.name)
               for file, item in zip(files, stream.items, strict=True)]
    for file, source, item in zip(files, sources, stream.items, strict=True):
        media.refuse_other_size(file, source.frames, item.original_width, item.original_height,
                                "ORIGINAL" if len(files) == 1 else "DATA_ROOT")
    sources = with_region(sources, settings)
    with command.outputs_of(path, stream.header.dtype, sources, settings, output,
                            inputs=[Path(file) for file in files]) as outputs:
        result = command.scale_command(stream, lambda: settings.load(QwenBackbone, stream.header, str(path)), sources,
                                       settings, output, outputs)
    print(results.table(result))
    print(f"encoder    {result['encoder_psnr']:.2f} dB (what it saw before writing)")


if __name__ == "__main__":
    cli.run(Scale, main, "BITSTREAM=x.vov ORIGINAL=x.png [VARIABLE=value …] bash image/scale.sh [--flag value …]")
