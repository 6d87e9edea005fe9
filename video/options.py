"""What the video tree adds to the shared configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.bitstream.header import HIGHEST
from vov.config import option, override
from vov.files import REPO, read_text
from vov.fitting.settings import FitConfig
from vov.model.options import ModelOptions
from vov.roi import with_region

logger = logging.getLogger(__name__)
REFERENCE_CLIP = "HoneyBee"  # NAME of the reference's commands, where nothing says which clip it is


@dataclass(frozen=True)
class WanOptions(ModelOptions):
    """The model of a command that reads a file."""

    model_id: str = override(ModelOptions, "model_id", "", alias=("WAN_MODEL_ID",))


def named(name: str, clip: str) -> str:
    """NAME, else the name of the clip's file or folder, else the reference's clip."""
    path = Path(clip) if Path(clip).stem.strip(".") else Path(clip).resolve()  # of "..", the folder that it is
    return name or (path.stem if clip else REFERENCE_CLIP)


def caption_path(name: str) -> Path:
    """Where the caption of a clip of this name is looked for."""
    return REPO / "video" / "descriptions" / f"descriptions_{name}.txt"


@dataclass(frozen=True)
class VideoFit(FitConfig):
    """Fitting θ to one clip."""

    config: str = override(FitConfig, "config", "wan2.1-1.3b")
    name: str = option("", "name of the clip: names the outputs and the default caption file; default: that of "
                       f"FRAMES_DIR, without one {REFERENCE_CLIP}", identity=False)
    frames_dir: str = option("", "the clip: a folder of frames or a video file (required)", identity=False)
    caption: str = option("", "what the clip shows; over CAPTION_FILE", identity=False)
    caption_file: str = option("", "text file with the caption; default video/descriptions/descriptions_NAME.txt",
                               identity=False)
    num_frames: int = option(81, "frames to code, 4n+1", minimum=1, maximum=HIGHEST["num_frames"])
    fps: float = option(0.0, "frames per second: a video is brought to it, a folder's frames have it; 0: the "
                        "source's (24 for a folder)", minimum=0, maximum=HIGHEST["fps"])
    model_id: str = override(FitConfig, "model_id", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
                             help="hub id or folder of the model", alias=("WAN_MODEL_ID",))
    width: int = override(FitConfig, "width", 832, help="pixels, a multiple of 16")
    height: int = override(FitConfig, "height", 480, help="pixels, a multiple of 16")

    @property
    def clip_name(self) -> str:
        """What the clip is called: `named`."""
        return named(self.name, self.frames_dir)

    def source(self):
        """Reads the clip and its caption: a `vov.codec.Source`."""
        from vov.codec import Source  # here: --help needs no torch
        from vov.media import read_clip

        if not self.frames_dir:
            raise VovError("FRAMES_DIR is not set; give a folder of frames or a video file")
        clip = read_clip(self.frames_dir, self.num_frames, fps=self.fps)
        return with_region([Source(clip.frames, clip.fps, self.read_caption(), self.clip_name)], self)[0]

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
                logger.warning("%s: the caption stays empty, which suits coded noise; for a fitted θ set CAPTION to "
                               "what the clip shows (the paper's fits have captions)", self.clip_name)
                return ""
            raise VovError(f"{path}: no such caption file; set CAPTION or CAPTION_FILE")
        text = " ".join(read_text(path).split())
        if not text:
            raise VovError(f"{path}: the caption is empty; write what the clip shows, or set CAPTION")
        return text
