"""`edit`: a new caption for one fit, or several merged; writes the result and a contact sheet, measures both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov import VovError
from vov.commands.options import QwenOptions, VideoFit, WanOptions, caption_path
from vov.config import option, override, read_by
from vov.editing.settings import EditConfig, OneFit, SeveralFits
from vov.model.registry import backbone_class

if TYPE_CHECKING:  # --help needs no torch
    import numpy as np

    from vov import media
    from vov.editing.edit import Adaptation


@dataclass(frozen=True)
class _Video(EditConfig, WanOptions):
    """Where the fits, the original and the result are."""

    name: str = option("", "names the output, and the caption file of a checkpoint that knows no caption; default: the "
                       "name of the first fit, and no caption file")
    output_video: str = option("", "the edited clip; default edits/NAME.mp4. A contact sheet is put beside it",
                               name="OUTPUT", alias=("OUTPUT_VIDEO",))
    original_frames_dir: str = option("", "the original clip, for PSNR, LPIPS and the contact sheet (optional)",
                                      name="ORIGINAL", alias=("ORIGINAL_FRAMES_DIR",))


@dataclass(frozen=True)
class _Picture(EditConfig, QwenOptions):
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
class EditVideo(OneFit, _Video):
    """One clip, a new caption."""


@dataclass(frozen=True)
class MergeVideos(SeveralFits, _Video):
    """Several fits, a new caption."""


@dataclass(frozen=True)
class EditPicture(OneFit, _Picture):
    """One picture, a new caption."""


@dataclass(frozen=True)
class MergePictures(SeveralFits, _Picture):
    """Several fits, a new caption."""


def edit_video(settings: EditVideo | MergeVideos) -> None:
    """Edits with Wan."""
    sources = settings.sources()
    path = caption_path(settings.name)
    if settings.name and path.is_file() and not settings.base_caption and not sources[0].endswith(".vov"):
        settings = dataclasses.replace(settings, base_caption=VideoFit(caption_file=str(path)).read_caption())
    output = Path(settings.output_video or f"edits/{settings.name or Path(sources[0]).stem}.mp4")
    print(_edit(sources, settings, "video", ("original", settings.original_frames_dir), output))


def edit_picture(settings: EditPicture | MergePictures) -> None:
    """Edits with Qwen-Image."""
    output = Path(settings.output or f"edits/{settings.name}.png")
    print(_edit(settings.sources(), settings, "image", ("original", settings.original), output))


def _edit(sources: Sequence[str], settings: EditConfig, medium: str, original: tuple[str, str], output: Path) -> str:
    """Edits, writes `output` (a video or a picture) and OUTPUT_sheet.png; returns what to print.

    original: the name of its variable and its path, "" for none.
    """
    from vov import media
    from vov.commands.run_report import made_from, settings_of
    from vov.editing.edit import edit, load
    from vov.runtime.files import path_hash, refuse_overlap
    from vov.runtime.resumable import Outputs

    if not settings.caption.strip():
        raise VovError("CAPTION is not set; say what the edited result shows")
    beside = output.with_name(f"{output.stem}_sheet.png")
    adaptations = [load(source, settings, medium) for source in sources]
    _refuse_to_merge(adaptations)
    first = adaptations[0]
    if medium == "image":
        media.refuse_no_picture(output, "output")
    clip = first.original(*original)
    refuse_overlap([output, beside], [*sources, original[1], *read_by(settings)], "output")
    identity = made_from(settings, first.stream.header.dtype if first.stream else "", sources[0],
                         *map(path_hash, sources[1:]), *([clip.fps, clip.frames.shape, clip.frames.tobytes()] if clip
                                                         else []), settings_of(settings, EditConfig))
    with Outputs(output.name, [output, beside], identity, settings.overwrite, "output") as outputs:
        if outputs.complete:
            return f"{output} and {beside} are there already, from the same fits and settings"
        made = first.stream.header if first.stream else first.metadata
        backbone = settings.load(backbone_class(medium), made, first.source)
        reconstruction, edited = edit(backbone, adaptations, settings)
        outputs.make(output, lambda: media.write_video(output, edited, first.fps) if medium == "video"
                     else media.write_image(output, edited[0]))
        said, target = compare(first, clip, reconstruction, edited)
        outputs.make(beside, lambda: media.write_image(beside, sheet(target, reconstruction, edited)))
        outputs.finish()
        return "\n".join([*said, f"{output} and {beside}"])


def _refuse_to_merge(adaptations: Sequence[Adaptation]) -> None:
    """Raises VovError for files that cannot be merged: one has no θ of its own, or they are not of one collection."""
    for each in adaptations if len(adaptations) > 1 else ():
        if each.theta is None:
            what = ("is a video of chunks, whose θ's, if any, are of its scenes" if each.stream and each.stream.sequence
                    else "holds coded noise and no θ")
            raise VovError(f"{each.source}: {what}, so there is nothing to merge; fit the clip or picture "
                           "(run_two_stage.sh, train_multi.sh), or edit it alone with edit_caption.sh")
        if _collection(each) != _collection(adaptations[0]):
            raise VovError(f"{each.source}: is not over the same collection as {adaptations[0].source}; merge fits "
                           "over one collection, or over none")


def _collection(each: Adaptation) -> bytes:
    return each.stream.collection if each.stream else b""


def sheet(original: np.ndarray | None, reconstruction: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """original | reconstruction | edit as one picture [H, W, 3]; of a clip its first, middle and last frames."""
    from vov import media

    clips = [clip for clip in (original, reconstruction, edited) if clip is not None]
    return media.side_by_side(*[media.contact_sheet(clip, 3)[None] for clip in clips])[0]


def measures(original: np.ndarray, edited: np.ndarray) -> dict[str, str]:
    """{metric: text} of an edit against the original; LPIPS needs its weights, else says what is missing."""
    from vov import metrics
    from vov.evaluation.catalogue import only
    from vov.evaluation.measure import Suite

    suite = Suite(skipped=only("lpips_vgg", "lpips_alex"))
    found = suite.measure(original, edited, len(original))
    values = {"PSNR": f"{metrics.psnr(original, edited):.2f} dB"}
    for name in ("lpips_vgg", "lpips_alex"):
        values[name] = f"{found.values[name]:.4f}" if name in found.values else f"n/a ({suite.unavailable.get(name)})"
    return values


def compare(first: Adaptation, clip: media.Clip | None, reconstruction: np.ndarray,
            edited: np.ndarray) -> tuple[list[str], np.ndarray | None]:
    """(lines that say how far reconstruction and edit are from the original and each other, the original as shown)."""
    from vov import media, metrics

    target, said = None, []
    if clip is not None:
        fit, height, width = first.settings, *edited.shape[1:3]
        cropped = fit.resize == "crop" or clip.size != (width, height)
        target = media.fit_geometry(clip.frames, width, height, "crop") if cropped else clip.frames
        for name, frames in (("reconstruction", reconstruction), ("edit", edited)):
            said.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in measures(target, frames).items()))
    said.append(f"edit against reconstruction: PSNR {metrics.psnr(reconstruction, edited):.2f} dB")
    return said, target
