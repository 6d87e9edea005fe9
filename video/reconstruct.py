"""Decodes a .vov file: `BITSTREAM=x.vov OUTPUT_DIR=… bash video/reconstruct/reconstruct.sh`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video.options import WanOptions
from vov import VovError, cli
from vov.config import option


@dataclass(frozen=True)
class Reconstruct(WanOptions):
    """Where the file and the model are; how to decode is in the file's header."""

    bitstream: str = option("", "the .vov file (required)")
    output_dir: str = option("./recon_out", "gets NAME/00000.png … and NAME.mp4", alias=("OUT_DIR",))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Reconstruct) -> None:
    """Reads, checks, decodes, writes."""
    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a .vov file")
    from video.backbone import WanBackbone
    from vov import codec, results

    path, folder = Path(settings.bitstream), Path(settings.output_dir)
    header = codec.read_file(path, WanBackbone).header  # before the model: a bad file fails at once
    paths = results.decode_to(
        folder, path.stem, [""], header.num_frames, results.made_from(settings, header.dtype, path), settings.overwrite,
        lambda: codec.decode_file(path, settings.load(WanBackbone, header, settings.bitstream)))
    print(f"{header.num_frames} frames in {' and '.join(map(str, paths))}")


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov [OUTPUT_DIR=…] bash video/reconstruct/reconstruct.sh")
