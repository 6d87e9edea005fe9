"""Edits fitted clips: `python -m video.edit {caption,merge} [flags]`; the .sh files call this."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from video.options import MODEL_ALIAS, VideoFit
from vov import cli
from vov.config import option

from vov.editing import EditConfig, numbered, run_command  # isort: skip


@dataclass(frozen=True)
class Edit(EditConfig):
    """Where the fits, the original and the result are."""

    name: str = option("HoneyBee", "names the output, and the caption file of a checkpoint that knows no caption")
    output_video: str = option("", "the edited clip; default edits/NAME.mp4. A contact sheet is put beside it",
                               alias=("OUTPUT",))
    original_frames_dir: str = option("", "the original clip, for PSNR, LPIPS and the contact sheet (optional)",
                                      alias=("ORIGINAL",))
    model_id: str = option("", "folder or hub id of the model; default: as the first fit says", alias=MODEL_ALIAS)


@dataclass(frozen=True)
class EditCaption(Edit):
    """One fit."""

    weights: str = option("", "a .vov file or a checkpoint, ours or the reference's (required)")


@dataclass(frozen=True)
class EditMerge(Edit):
    """Any number of fits."""

    weights1: str = option("", "first .vov file or checkpoint; its geometry, sampler and noise are used (required)")
    weights2: str = option("", "second; WEIGHTS3, WEIGHTS4 … in the environment may follow")


def caption(settings: EditCaption) -> None:
    """One θ, new caption."""
    run([settings.weights], settings)


def merge(settings: EditMerge) -> None:
    """Several θ, new caption."""
    run(numbered(settings.weights1, settings.weights2), settings)


def run(sources: list[str], settings: Edit) -> None:
    """Edits with Wan."""
    from vov import media

    fit = VideoFit(name=settings.name)
    if not settings.base_caption and (Path("video/descriptions") / f"descriptions_{settings.name}.txt").is_file() \
            and not sources[0].endswith(".vov"):
        settings = dataclasses.replace(settings, base_caption=fit.read_caption())

    def backbone(model_id: str, precision: str):
        from video.backbone import WanBackbone

        name = settings.model_id or model_id or fit.model_id
        return WanBackbone.load(name, settings.cache_dir, settings.device, precision, trusted=bool(settings.model_id))

    def original(frames: int):
        return media.read_clip(settings.original_frames_dir, frames) if settings.original_frames_dir else None

    run_command(sources, settings, backbone, original, Path(settings.output_video or f"edits/{settings.name}.mp4"))


if __name__ == "__main__":
    command = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if command == "caption":
        cli.run(EditCaption, caption, "WEIGHTS=x.vov CAPTION=… [VARIABLE=value …] bash video/edit/edit_caption.sh")
    elif command == "merge":
        cli.run(EditMerge, merge, "WEIGHTS1=x.vov WEIGHTS2=y.vov CAPTION=… bash video/edit/edit_merge.sh")
    else:
        raise SystemExit("usage: python -m video.edit {caption,merge}")
