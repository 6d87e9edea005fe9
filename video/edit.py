"""Edits fitted clips: `python -m video.edit {caption,merge} [flags]`; the .sh files call this."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from video.options import VideoFit, WanOptions, caption_path
from vov import cli
from vov.config import option
from vov.editing.settings import EditConfig, OneFit, SeveralFits


@dataclass(frozen=True)
class Edit(EditConfig, WanOptions):
    """Where the fits, the original and the result are."""

    name: str = option("", "names the output, and the caption file of a checkpoint that knows no caption; default: the "
                       "name of the first fit, and no caption file")
    output_video: str = option("", "the edited clip; default edits/NAME.mp4. A contact sheet is put beside it",
                               alias=("OUTPUT",))
    original_frames_dir: str = option("", "the original clip, for PSNR, LPIPS and the contact sheet (optional)",
                                      alias=("ORIGINAL",))


@dataclass(frozen=True)
class EditCaption(OneFit, Edit):
    """One fit, a new caption."""


@dataclass(frozen=True)
class EditMerge(SeveralFits, Edit):
    """Several fits, a new caption."""


def run(settings: EditCaption | EditMerge) -> None:
    """Edits with Wan."""
    from video.backbone import WanBackbone
    from vov.editing.command import run_command

    sources = settings.sources()
    path = caption_path(settings.name)
    if settings.name and path.is_file() and not settings.base_caption and not sources[0].endswith(".vov"):
        settings = dataclasses.replace(settings, base_caption=VideoFit(caption_file=str(path)).read_caption())
    output = Path(settings.output_video or f"edits/{settings.name or Path(sources[0]).stem}.mp4")
    print(run_command(sources, settings, WanBackbone, ("ORIGINAL_FRAMES_DIR", settings.original_frames_dir), output))


if __name__ == "__main__":
    cli.run_one_of({
        "caption": (EditCaption, run, "WEIGHTS=x.vov CAPTION=… [VARIABLE=value …] bash video/edit/edit_caption.sh"),
        "merge": (EditMerge, run, "WEIGHTS1=x.vov WEIGHTS2=y.vov CAPTION=… bash video/edit/edit_merge.sh")})
