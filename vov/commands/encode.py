"""`encode`: pictures or a video of any length to a .vov file of coded noise, by the frozen model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov import VovError
from vov.commands.options import CLIP_NAMES, ImageFit, QwenOptions, WanOptions
from vov.config import option, override
from vov.model.options import ModelOptions
from vov.model.registry import backbone_class
from vov.noise.options import ScalingConfig
from vov.sequence.settings import SequenceConfig

if TYPE_CHECKING:  # --help needs no torch
    from vov.sequence.share import Shared


@dataclass(frozen=True)
class EncodeVideo(SequenceConfig, WanOptions):
    """Where the video is and where the file goes."""

    config: str = option("wan2.1-1.3b", "preset in configs/ or a YAML file")
    frames_dir: str = option("", "a video file or a folder of frames (required)", name="INPUT", alias=CLIP_NAMES)
    out_dir: str = option("", "gets NAME.vov, its decode, result.json (required)")
    name: str = option("", "names the outputs; default: that of INPUT")
    caption: str = option("", "what the video shows; may be empty, and then costs nothing")
    model_id: str = override(ModelOptions, "model_id", "", alias=("WAN_MODEL_ID",))
    overwrite: bool = option(False, "replace existing outputs")

    @property
    def file(self) -> Path:
        """The .vov file."""
        return Path(self.out_dir) / f"{self.name or Path(self.frames_dir).stem}.vov"

    @property
    def words(self) -> str:
        """The caption on one line."""
        return " ".join(self.caption.split())


@dataclass(frozen=True)
class EncodePictures(ScalingConfig, QwenOptions):
    """Which pictures, and where the file goes."""

    UNUSED = ("scaling",)

    config: str = option("qwen-image", "preset in configs/ or a YAML file")
    image: str = option("", "one picture; over DESCRIPTION_FILE", name="INPUT", alias=("IMAGE",))
    caption: str = option("", "what INPUT shows; may be empty")
    description_file: str = option("", "one path|caption a line, for several pictures in one file")
    caption_start: int = option(1, "first picture of DESCRIPTION_FILE, counted from 1", minimum=1)
    caption_end: int = option(0, "last picture of DESCRIPTION_FILE; 0: the last there is", minimum=0)
    data_root: str = option("./data", "what the paths in DESCRIPTION_FILE are relative to")
    out_dir: str = option("", "gets NAME.vov, its decode, result.json (required)")
    name: str = option("", "names the outputs; default: the picture's name, or the description file's")
    width: int = option(0, "pixels; 0: the largest picture's, padded", minimum=0)
    height: int = option(0, "pixels; 0: the largest picture's, padded", minimum=0)
    shift: float = override(ImageFit, "shift", 0.0, rare=False)
    seed: int = option(42, "of the decoder's noise", minimum=0)
    steps: int = override(ScalingConfig, "steps", 50, help="sampler steps", minimum=2)
    scaling_bytes: int = override(ScalingConfig, "scaling_bytes", 2000)
    score: str = override(ScalingConfig, "score", "blend")
    overwrite: bool = option(False, "replace existing outputs")


def encode_pictures(settings: EncodePictures) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone, measures."""
    import json

    from vov.commands.add_noise import code_items, outputs_of
    from vov.commands.pictures import at_size
    from vov.commands.run_report import NAME, table
    from vov.noise.items import frozen_file

    if not settings.out_dir:
        raise VovError("OUT_DIR is not set; see --help")
    if not settings.image and not settings.description_file:
        raise VovError("INPUT is not set; give a picture, or with DESCRIPTION_FILE several for one file")
    asked = {name: getattr(settings, name) for name in (
        "image", "caption", "description_file", "caption_start", "caption_end", "data_root", "name", "width", "height",
        "shift", "seed", "roi", "roi_weight")}
    fit = dataclasses.replace(ImageFit(), decode_steps=settings.steps, **asked)
    originals = fit.originals(caption_needed=False)
    path = Path(settings.out_dir) / f"{fit.run_name(originals)}.vov"
    with outputs_of(None, None, originals, settings, path, fit.width, fit.height, fit.shift, fit.seed,
                    inputs=fit.files()) as outputs:
        if outputs.complete:
            print(table(json.loads((path.parent / NAME).read_bytes())))
            return
        backbone = settings.load(backbone_class("image"))
        fit = at_size(fit, originals, backbone.unit)
        stream = frozen_file(backbone, originals, fit)
        print(table(code_items(stream, lambda: backbone, originals, settings, path, outputs)))


def encode_video(settings: EncodeVideo) -> None:
    """Codes, decodes, measures; of several processes all but the first print nothing."""
    from vov.commands.film import encode

    refuse_missing(settings)
    if said := encode(settings):
        print(said)


def refuse_missing(settings: EncodeVideo) -> None:
    """Raises VovError where the video or the folder is not named."""
    missing = [name for name, value in (("INPUT", settings.frames_dir), ("OUT_DIR", settings.out_dir)) if not value]
    if missing:
        raise VovError(f"{' and '.join(missing)} must be set; see --help")


def shared(settings: EncodeVideo, fewest: int) -> Shared | None:
    """The same video, to be coded group by group, if it has at least `fewest` groups; `encode_video` then finds them
    done."""
    from vov.commands.film import outputs_of
    from vov.sequence.share import Shared, most_groups

    outputs_of(settings)  # what is wrong with them, before any chunk is coded
    if most_groups(settings, settings.frames_dir) < fewest:
        return None
    found = Shared(settings, backbone_class("video"), settings.frames_dir, settings.words, settings.file.parent)
    return found if len(found.groups) >= fewest else None
