"""A video of any length to one .vov file: `INPUT=film.mp4 OUT_DIR=runs/film bash video/encode.sh`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from video.options import CLIP_NAMES, WanOptions
from vov import VovError
from vov.config import cli, option, override
from vov.model.options import ModelOptions
from vov.sequence.settings import SequenceConfig

if TYPE_CHECKING:  # --help needs no torch
    from vov.model.backbone import Backbone
    from vov.sequence.share import Shared


@dataclass(frozen=True)
class Encode(SequenceConfig, WanOptions):
    """Where the video is and where the file goes."""

    config: str = option("wan2.1-1.3b", "preset in configs/ or a YAML file")
    frames_dir: str = option("", "a video file or a folder of frames (required)", name="INPUT", alias=CLIP_NAMES)
    out_dir: str = option("", "gets NAME.vov, its decode, result.json (required)")
    name: str = option("", "names the outputs; default: that of INPUT")
    caption: str = option("", "what the video shows; may be empty, and then costs nothing")
    model_id: str = override(ModelOptions, "model_id", "", alias=("WAN_MODEL_ID",))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Encode) -> None:
    """Codes, decodes, measures."""
    if not settings.frames_dir or not settings.out_dir:
        raise VovError("INPUT and OUT_DIR must be set; see --help")
    from vov.sequence.command import encode

    if said := encode(settings, *_what(settings)):
        print(said)


def shared(settings: Encode, fewest: int) -> Shared | None:
    """The same video, to be coded group by group, if it has at least `fewest` groups; `main` then finds them done."""
    from vov.sequence.share import Shared, most_groups

    if most_groups(settings, settings.frames_dir) < fewest:
        return None
    found = Shared(settings, *_what(settings))
    return found if len(found.groups) >= fewest else None


def _what(settings: Encode) -> tuple[type[Backbone], str, str, Path]:
    """Model, video, caption and file."""
    from vov.model.wan import WanBackbone

    name = settings.name or Path(settings.frames_dir).stem
    return WanBackbone, settings.frames_dir, " ".join(settings.caption.split()), Path(settings.out_dir) / f"{name}.vov"


if __name__ == "__main__":
    cli.run(Encode, main, "INPUT=film.mp4 OUT_DIR=runs/film [VARIABLE=value …] bash video/encode.sh",
            stages=("encode",))
