"""What a fit of either medium is given; the other commands take their model and their inputs from here too."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov import VovError
from vov.bitstream import Item
from vov.bitstream.header import HIGHEST
from vov.config import option, override
from vov.fitting.settings import FitConfig
from vov.media.roi import with_region
from vov.model.options import ModelOptions
from vov.model.registry import USUAL
from vov.runtime.files import REPO, read_text

if TYPE_CHECKING:  # --help, and a signal in its first seconds, need no torch
    from vov.media.original import Original

log = logging.getLogger(__name__)
EXAMPLES = "./descriptions/example_descriptions.txt"
CLIP_NAMES = ("FRAMES_DIR", "ORIGINAL_FRAMES_DIR")  # of INPUT, as the paper's own scripts call it
REFERENCE_CLIP = "HoneyBee"  # NAME of the reference's commands, where nothing says which clip it is


def named(name: str, clip: str) -> str:
    """NAME, else the name of the clip's file or folder, else the reference's clip."""
    path = Path(clip) if Path(clip).stem.strip(".") else Path(clip).resolve()  # of "..", the folder that it is
    return name or (path.stem if clip else REFERENCE_CLIP)


def caption_path(name: str) -> Path:
    """Where the caption of a clip of this name is looked for."""
    return REPO / "video" / "descriptions" / f"descriptions_{name}.txt"


@dataclass(frozen=True)
class WanOptions(ModelOptions):
    """The model of a command that reads a video's file."""

    model_id: str = override(ModelOptions, "model_id", "", alias=("WAN_MODEL_ID",))


@dataclass(frozen=True)
class QwenOptions(ModelOptions):
    """The model of a command that reads a file of pictures."""

    model_id: str = override(ModelOptions, "model_id", "", alias=("QWEN_MODEL_ID",))


@dataclass(frozen=True)
class VideoFit(FitConfig):
    """Fitting θ to one clip."""

    config: str = override(FitConfig, "config", "wan2.1-1.3b")
    name: str = option("", "name of the clip: names the outputs and the default caption file; default: that of "
                       f"INPUT, without one {REFERENCE_CLIP}", identity=False)
    frames_dir: str = option("", "the clip: a video file or a folder of frames (required)", name="INPUT",
                             alias=CLIP_NAMES, identity=False)
    caption: str = option("", "what the clip shows; over CAPTION_FILE", identity=False)
    caption_file: str = option("", "text file with the caption; default video/descriptions/descriptions_NAME.txt",
                               identity=False)
    num_frames: int = option(81, "frames to code, 4n+1", name="CHUNK_FRAMES", alias=("NUM_FRAMES",), minimum=1,
                             maximum=HIGHEST["num_frames"])
    fps: float = option(0.0, "frames per second: a video is brought to it, a folder's frames have it; 0: the "
                        "source's (24 for a folder)", minimum=0, maximum=HIGHEST["fps"])
    model_id: str = override(FitConfig, "model_id", USUAL["video"], help="hub id or folder of the model",
                             alias=("WAN_MODEL_ID",))
    width: int = override(FitConfig, "width", 832, help="pixels, a multiple of 16")
    height: int = override(FitConfig, "height", 480, help="pixels, a multiple of 16")

    @property
    def clip_name(self) -> str:
        """What the clip is called: `named`."""
        return named(self.name, self.frames_dir)

    def originals(self) -> list[Original]:
        """Reads the clip and its caption."""
        from vov.media import read_clip
        from vov.media.original import Original

        if not self.frames_dir:
            raise VovError("INPUT is not set; give a video file or a folder of frames")
        clip = read_clip(self.frames_dir, self.num_frames, fps=self.fps)
        return with_region([Original(clip.frames, clip.fps, self.read_caption(), self.clip_name)], self)

    def read_caption(self) -> str:
        """CAPTION, else the contents of CAPTION_FILE or of the caption file of the clip's name.

        Empty, and said so, for a clip that nobody has named and that has no such file: another clip's caption would be
        wrong. Raises VovError when a file that was named is missing, or a caption is blank.
        """
        if text := " ".join(self.caption.split()):
            return text
        if self.caption:
            raise VovError("CAPTION: the caption is empty; write what the clip shows, or leave it unset")
        path = Path(self.caption_file) if self.caption_file else caption_path(self.clip_name)
        if not path.is_file():
            if not (self.name or self.caption_file):
                log.warning("%s: the caption stays empty, which suits coded noise; for a fitted θ set CAPTION to what "
                            "the clip shows (the paper's fits have captions)", self.clip_name)
                return ""
            raise VovError(f"{path}: no such caption file; set CAPTION or CAPTION_FILE")
        text = " ".join(read_text(path).split())
        if not text:
            raise VovError(f"{path}: the caption is empty; write what the clip shows, or set CAPTION")
        return text


@dataclass(frozen=True)
class ImageFit(FitConfig):
    """Fitting θ to one picture, or to a set of captioned pictures."""

    config: str = override(FitConfig, "config", "qwen-image")
    name: str = option("", "names the outputs; default: the picture's name, or the description file's", identity=False)
    image: str = option("", "one picture, with CAPTION; over DESCRIPTION_FILE", name="INPUT", alias=("IMAGE",),
                        identity=False)
    caption: str = option("", "what INPUT shows", identity=False)
    description_file: str = option(EXAMPLES, "one path|caption a line; found here or in image/", identity=False)
    caption_start: int = option(1, "first picture of DESCRIPTION_FILE, counted from 1", minimum=1, identity=False)
    caption_end: int = option(1, "last picture of DESCRIPTION_FILE; 0: the last there is", minimum=0, identity=False)
    data_root: str = option("./data", "what the paths in DESCRIPTION_FILE are relative to", identity=False)
    model_id: str = override(FitConfig, "model_id", USUAL["image"], help="hub id or folder of the model",
                             alias=("QWEN_MODEL_ID",))
    width: int = override(FitConfig, "width", 512, help="pixels, a multiple of 16; 0: the largest picture's, padded",
                          minimum=0)
    height: int = override(FitConfig, "height", 512,
                           help="pixels, a multiple of 16; 0: the largest picture's, padded", minimum=0)
    rank: int = override(FitConfig, "rank", 4)
    theta_length: int = override(FitConfig, "theta_length", 65536)
    last_k: int = override(FitConfig, "last_k", 60)
    train_steps: int = override(FitConfig, "train_steps", 5000)
    batch_size: int = override(FitConfig, "batch_size", 16,
                               help="samples of one forward pass; fewer when fewer pictures make a whole pass")
    accum_step: int = override(FitConfig, "accum_step", 2)
    shift: float = override(FitConfig, "shift", 0.0,
                            help="σ grid shift: σ' = s·σ / (1 + (s − 1)·σ); 0: the model's own, by size")
    save_every: int = override(FitConfig, "save_every", 50)

    def originals(self, caption_needed: bool = True) -> list[Original]:
        """Reads the chosen pictures. Raises VovError for any that is missing, naming all of them."""
        from vov.commands.pictures import described, read_pictures
        from vov.media import read_image
        from vov.media.original import Original

        if not self.image:
            if self.caption:
                raise VovError("CAPTION is set, but INPUT is not; give a picture, or captions in DESCRIPTION_FILE")
            entries = described(self.description_file, self.caption_start, self.caption_end)
            return with_region(read_pictures(entries, self.data_root), self)
        caption = " ".join(self.caption.split())
        if not caption and caption_needed:
            raise VovError("CAPTION is not set; say what INPUT shows")
        Item(caption, 1, 1)  # its bounds, checked before any time is spent
        return with_region([Original(read_image(self.image)[None], 0.0, caption, Path(self.image).name)], self)

    def files(self) -> list[Path]:
        """Where the chosen pictures are."""
        from vov.commands.pictures import described

        if self.image:
            return [Path(self.image)]
        entries = described(self.description_file, self.caption_start, self.caption_end)
        return [Path(self.data_root) / name for name, _ in entries]

    def run_name(self, originals: Sequence[Original]) -> str:
        """NAME, else the stem of the only picture, else that of DESCRIPTION_FILE."""
        return self.name or Path(originals[0].name if len(originals) == 1 else self.description_file).stem
