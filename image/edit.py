"""Edits fitted pictures: `python -m image.edit {caption,merge} [flags]`; the .sh files call this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image.options import QwenOptions
from vov.config import cli, option, override
from vov.editing.settings import EditConfig, OneFit, SeveralFits


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
    num_frames: int = override(EditConfig, "num_frames", 1)

    UNUSED = ("num_frames", "fps")


@dataclass(frozen=True)
class EditCaption(OneFit, Edit):
    """One fit, a new caption."""


@dataclass(frozen=True)
class EditMerge(SeveralFits, Edit):
    """Several fits, a new caption."""


def run(settings: EditCaption | EditMerge) -> None:
    """Edits with Qwen-Image."""
    from vov.editing.command import run_command
    from vov.model.qwen import QwenBackbone

    output = Path(settings.output or f"edits/{settings.name}.png")
    print(run_command(settings.sources(), settings, QwenBackbone, ("ORIGINAL", settings.original), output))


if __name__ == "__main__":
    cli.run_one_of({
        "caption": (EditCaption, run, "WEIGHTS=x.vov CAPTION=… [VARIABLE=value …] bash image/edit_caption.sh"),
        "merge": (EditMerge, run, "WEIGHTS1=x.vov WEIGHTS2=y.vov CAPTION=… bash image/edit_merge.sh")})
