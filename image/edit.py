"""Edits fitted pictures: `python -m image.edit {caption,merge} [flags]`; the .sh files call this."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from image.options import QwenOptions
from vov import cli
from vov.config import option, override
from vov.editing import EditConfig, numbered, run_command


@dataclass(frozen=True)
class Edit(EditConfig, QwenOptions):
    """Where the fits, the original and the result are."""

    name: str = option("edit", "names the output")
    output: str = option("", "the edited picture; default edits/NAME.png. A contact sheet is put beside it",
                         alias=("OUTPUT_IMAGE",))
    original: str = option("", "the original picture, for PSNR, LPIPS and the contact sheet (optional)",
                           alias=("IMAGE",))
    rank: int = override(EditConfig, "rank", 4)
    last_k: int = override(EditConfig, "last_k", 60)
    theta_length: int = override(EditConfig, "theta_length", 65536)
    width: int = override(EditConfig, "width", 512)
    height: int = override(EditConfig, "height", 512)
    num_frames: int = override(EditConfig, "num_frames", 1, help="pictures have one")


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
    """Edits with Qwen-Image."""
    from image.backbone import QwenBackbone

    output = Path(settings.output or f"edits/{settings.name}.png")
    print(run_command(sources, settings, QwenBackbone, ("ORIGINAL", settings.original), output))


if __name__ == "__main__":
    command = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if command == "caption":
        cli.run(EditCaption, caption, "WEIGHTS=x.vov CAPTION=… [VARIABLE=value …] bash image/edit_caption.sh")
    elif command == "merge":
        cli.run(EditMerge, merge, "WEIGHTS1=x.vov WEIGHTS2=y.vov CAPTION=… bash image/edit_merge.sh")
    else:
        raise SystemExit("usage: python -m image.edit {caption,merge}")
