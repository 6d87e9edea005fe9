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
    from video.backbone import WanBackbone
    from vov import codec, results
    from vov.files import refuse_existing, refuse_unwritable

    path, folder = Path(settings.bitstream), Path(settings.output_dir)
    stream = codec.read_file(path, WanBackbone)  # before the model: a bad file fails at once
    header = stream.header
    if stream.sequence:
        from vov.sequence.command import decode

        refuse_unwritable([folder / path.stem, folder / f"{path.stem}.mp4"], "OUTPUT_DIR")
        for output in (folder / path.stem, folder / f"{path.stem}.mp4"):
            refuse_existing(output, settings.overwrite)
        backbone = settings.load(WanBackbone, header, settings.bitstream)
        done = decode(stream, backbone, folder, path.stem, settings.start_at, settings.frames or None)
        print(f"{done['frames'][0]} frames of {done['size']} in {folder / path.stem} and {folder / path.stem}.mp4")
        return
    paths = results.decode_to(
        folder, path.stem, [""], header.num_frames, results.made_from(settings, header.dtype, path), settings.overwrite,
        lambda: codec.decode_file(path, settings.load(WanBackbone, header, settings.bitstream)))
    print(f"{header.num_frames} frames in {' and '.join(map(str, paths))}")


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov [OUTPUT_DIR=…] bash video/reconstruct/reconstruct.sh")
