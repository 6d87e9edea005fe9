"""What the video tree adds to the shared configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.bitstream.header import HIGHEST
from vov.config import option, override
from vov.fitting.settings import FitConfig
from vov.media.roi import with_region
from vov.model.options import ModelOptions
from vov.runtime.files import REPO, read_text

CLIP_NAMES = ("FRAMES_DIR", "ORIGINAL_FRAMES_DIR")  # of INPUT, as the paper's own scripts call it


@dataclass(frozen=True)
class WanOptions(ModelOptions):
    """The model of a command that reads a file."""

    model_id: str = override(ModelOptions, "model_id", "", alias=("WAN_MODEL_ID",))


@dataclass(frozen=True)
class VideoFit(FitConfig):
    """Fitting θ to one clip."""

    config: str = override(FitConfig, "config", "wan2.1-1.3b")
    name: str = option("HoneyBee", "name of the clip: names the outputs and the default caption file", identity=False)
    frames_dir: str = option("", "the clip: a video file or a folder of frames (required)", name="INPUT",
                             alias=CLIP_NAMES, identity=False)
    caption: str = option("", "what the clip shows; over CAPTION_FILE", identity=False)
    caption_file: str = option("", "text file with the caption; default video/descriptions/descriptions_NAME.txt",
                               identity=False)
    num_frames: int = option(81, "frames to code, 4n+1", name="CHUNK_FRAMES", alias=("NUM_FRAMES",), minimum=1,
                             maximum=HIGHEST["num_frames"])
    fps: float = option(0.0, "frames per second: a video is brought to it, a folder's frames have it; 0: the "
                        "source's (24 for a folder)", minimum=0, maximum=HIGHEST["fps"])
    model_id: str = override(FitConfig, "model_id", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
                             help="hub id or folder of the model", alias=("WAN_MODEL_ID",))
    width: int = override(FitConfig, "width", 832, help="pixels, a multiple of 16")
    height: int = override(FitConfig, "height", 480, help="pixels, a multiple of 16")

    def source(self):
        """Reads the clip and its caption: a `vov.codec.Source`."""
        from vov.codec import Source  # here: --help needs no torch
        from vov.media import read_clip

        if not self.frames_dir:
            raise VovError("INPUT is not set; give a video file or a folder of frames")
        clip = read_clip(self.frames_dir, self.num_frames, fps=self.fps)
        return with_region([Source(clip.frames, clip.fps, self.read_caption(), self.name)], self)[0]

    def read_caption(self, missing: str | None = None) -> str:
        """CAPTION, else the contents of CAPTION_FILE; without either `missing`, or a VovError when that is None."""
        if self.caption:
            return " ".join(self.caption.split())
        path = Path(self.caption_file) if self.caption_file else (
            REPO / "video" / "descriptions" / f"descriptions_{self.name}.txt")
        if not path.is_file():
            if missing is not None:
                return missing
            raise VovError(f"{path}: no such caption file; set CAPTION or CAPTION_FILE")
        text = " ".join(read_text(path).split())
        if not text:
            raise VovError(f"{path}: the caption is empty; write what the clip shows, or set CAPTION")
        return text
