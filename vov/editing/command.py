"""What the editing commands of both trees do: read the fits, edit, write result and contact sheet, measure both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vov import VovError, media, metrics
from vov.config import read_by
from vov.editing.edit import Adaptation, edit, load
from vov.editing.settings import EditConfig
from vov.files import path_hash, refuse_overlap
from vov.model.backbone import Backbone
from vov.outputs import Outputs
from vov.results import made_from, settings_of


def sheet(original: np.ndarray | None, reconstruction: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """original | reconstruction | edit as one picture [H, W, 3]; of a clip its first, middle and last frames."""
    clips = [clip for clip in (original, reconstruction, edited) if clip is not None]
    return media.side_by_side(*[media.contact_sheet(clip, 3)[None] for clip in clips])[0]


def measures(original: np.ndarray, edited: np.ndarray) -> dict[str, str]:
    """{metric: text} of an edit against the original; LPIPS needs its weights, else says what is missing."""
    from vov.evaluation.catalogue import only
    from vov.evaluation.measure import Suite

    suite = Suite(skipped=only("lpips_vgg", "lpips_alex"))
    found = suite.measure(original, edited, len(original))
    values = {"PSNR": f"{metrics.psnr(original, edited):.2f} dB"}
    for name in ("lpips_vgg", "lpips_alex"):
        values[name] = f"{found.values[name]:.4f}" if name in found.values else f"n/a ({suite.unavailable.get(name)})"
    return values


def run_command(sources: Sequence[str], settings: EditConfig, kind: type[Backbone], original: tuple[str, str],
                output: Path) -> str:
    """What the commands of both trees do: edit, write `output` (a video or a picture) and OUTPUT_sheet.png.

    kind: the tree's backbone. original: the name of its variable and its path, "" for none. Returns what to print.
    """
    if not settings.caption.strip():
        raise VovError("CAPTION is not set; say what the edited result shows")
    beside = output.with_name(f"{output.stem}_sheet.png")
    refuse_overlap([output, beside], [*sources, original[1], *read_by(settings)], "OUTPUT")
    adaptations = [load(source, settings, kind) for source in sources]
    first = adaptations[0]
    if first.num_frames == 1:
        media.refuse_no_picture(output, "OUTPUT")
    clip = first.original(*original)
    identity = made_from(settings, first.header.dtype if first.header else "", sources[0],
                         *map(path_hash, sources[1:]), *([clip.fps, clip.frames.shape, clip.frames.tobytes()] if clip
                                                         else []), settings_of(settings, EditConfig))
    with Outputs(output.name, [output, beside], identity, settings.overwrite, "OUTPUT") as outputs:
        if outputs.complete:
            return f"{output} and {beside} are there already, from the same fits and settings"
        backbone = settings.load(kind, first.header or first.metadata, first.source)
        reconstruction, edited = edit(backbone, adaptations, settings)
        outputs.make(output, lambda: media.write_video(output, edited, first.fps) if len(edited) > 1
                     else media.write_image(output, edited[0]))
        said, target = compare(first, clip, reconstruction, edited)
        outputs.make(beside, lambda: media.write_image(beside, sheet(target, reconstruction, edited)))
        outputs.finish()
        return "\n".join([*said, f"{output} and {beside}"])


def compare(first: Adaptation, clip: media.Clip | None, reconstruction: np.ndarray,
            edited: np.ndarray) -> tuple[list[str], np.ndarray | None]:
    """(lines that say how far reconstruction and edit are from the original and each other, the original as fitted)."""
    target, said = None, []
    if clip is not None:
        target = media.fit_geometry(clip.frames, first.settings.width, first.settings.height, first.settings.resize)
        for name, frames in (("reconstruction", reconstruction), ("edit", edited)):
            said.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in measures(target, frames).items()))
    said.append(f"edit against reconstruction: PSNR {metrics.psnr(reconstruction, edited):.2f} dB")
    return said, target
