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
    start_at: int = option(0, "of a sequence: first frame to decode; only the chunks that are needed are", minimum=0)
    frames: int = option(0, "of a sequence: how many frames; 0: to the end", minimum=0)
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Reconstruct) -> None:
    """Reads, checks, decodes, writes."""
    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a .vov file")
    from vov import bitstream, codec, results

    stream = bitstream.read(settings.bitstream)  # before the model: a bad file fails in milliseconds
    folder, name = Path(settings.output_dir), Path(settings.bitstream).stem
    results.check_outputs([folder / name, folder / f"{name}.mp4"], settings.overwrite, "OUTPUT_DIR")
    from video.backbone import WanBackbone

    backbone = settings.load(WanBackbone, stream.header, settings.bitstream)
    if stream.sequence:
        from vov.sequence.command import decode

        done = decode(stream, backbone, folder, name, settings.start_at, settings.frames or None)
        print(f"{done['frames'][0]} frames of {done['size']} in {folder / name} and {folder / name}.mp4")
        return
    (clip,) = codec.decode_file(settings.bitstream, backbone)
    results.save_decoded(folder, name, clip)
    print(f"{len(clip.frames)} frames of {clip.size[0]}×{clip.size[1]} in {folder / name} and {folder / name}.mp4")


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov [OUTPUT_DIR=…] bash video/reconstruct/reconstruct.sh")
