"""Decodes a .vov file: `BITSTREAM=x.vov OUTPUT_DIR=… bash video/reconstruct/reconstruct.sh`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video.options import WanOptions
from vov import VovError, cli
from vov.config import option, read_by
from vov.files import refuse_overlap
from vov.scaling.settings import TextureOption


@dataclass(frozen=True)
class Reconstruct(TextureOption, WanOptions):
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

    path, folder = Path(settings.bitstream), Path(settings.output_dir)
    refuse_overlap([folder / path.stem, folder / f"{path.stem}.mp4"], read_by(settings), "OUTPUT_DIR")
    # Before the model: a bad file fails at once.
    stream = codec.read_file(path, WanBackbone, settings.decode_limit, sequences=True, texture=settings.texture)
    precision, texture = stream.header.dtype, settings.textures

    def backbone() -> WanBackbone:
        return settings.load(WanBackbone, stream.header, settings.bitstream)

    if stream.sequence:
        from vov.sequence.command import decode_to

        identity = results.made_from(settings, precision, path, settings.start_at, settings.frames, *texture)
        paths = decode_to(stream, backbone, folder, path.stem, identity, settings, str(path))
    else:
        identity = results.made_from(settings, precision, path, *texture)
        paths = results.decode_to(folder, path.stem, [""], stream.header.num_frames, identity, settings.overwrite,
                                  lambda: codec.decode_file(path, backbone(), settings.decode_limit,
                                                            settings.texture))
    print(" and ".join(map(str, paths)))


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov [OUTPUT_DIR=…] bash video/reconstruct/reconstruct.sh")
