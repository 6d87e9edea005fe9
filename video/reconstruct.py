"""Decodes a .vov file: `BITSTREAM=x.vov OUTPUT_DIR=… bash video/reconstruct/reconstruct.sh`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video.options import MODEL_ALIAS
from vov import VovError, cli
from vov.config import option


@dataclass(frozen=True)
class Reconstruct:
    """Where the file and the model are; how to decode is in the file's header."""

    bitstream: str = option("", "the .vov file (required)")
    output_dir: str = option("./recon_out", "gets NAME/00000.png … and NAME.mp4", alias=("OUT_DIR",))
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    model_id: str = option("", "folder of the model; default: found by the name in the header", alias=MODEL_ALIAS)
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Reconstruct) -> None:
    """Reads, checks, decodes, writes."""
    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a .vov file")
    from vov import bitstream
    header = bitstream.read(settings.bitstream).header  # before the model: a bad file fails in milliseconds
    folder, name = Path(settings.output_dir), Path(settings.bitstream).stem
    from vov import codec, results
    results.check_outputs([folder / name, folder / f"{name}.mp4"], settings.overwrite)

    from video.backbone import WanBackbone
    backbone = WanBackbone.load(settings.model_id or header.model_id, settings.cache_dir, settings.device, header.dtype,
                                trusted=bool(settings.model_id))
    (clip,) = codec.decode_file(settings.bitstream, backbone)
    results.save_decoded(folder, name, clip)
    print(f"{len(clip.frames)} frames of {clip.size[0]}×{clip.size[1]} in {folder / name} and {folder / name}.mp4")


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov [OUTPUT_DIR=…] bash video/reconstruct/reconstruct.sh")
