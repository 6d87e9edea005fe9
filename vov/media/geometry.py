"""Sizes: bringing frames to the model's geometry and back, and putting pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vov import VovError

MODES = ("crop", "pad", "stretch")


@dataclass(frozen=True)
class Geometry:
    """How frames of one size become frames of another, and back; sizes are (width, height).

    crop: scale to cover, cut the centre. stretch: scale each axis. pad: scale down if larger, then repeat the edge to
    the right and bottom. `restore` undoes stretch and pad; a crop stays as it is.
    """

    source: tuple[int, int]
    coded: tuple[int, int]
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise VovError(f"`resize`={self.mode}: must be one of {', '.join(MODES)}")

    @property
    def shown(self) -> tuple[int, int]:
        """The size after `restore`."""
        return self.coded if self.mode == "crop" else self.source

    @property
    def content(self) -> tuple[int, int]:
        """The size of the picture inside a coded frame; the rest is padding."""
        if self.mode != "pad":
            return self.coded
        scale = min(1.0, self.coded[0] / self.source[0], self.coded[1] / self.source[1])
        return max(1, round(self.source[0] * scale)), max(1, round(self.source[1] * scale))

    def fit(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] of the source's size to the coded size."""
        if self.source == self.coded:
            return frames
        width, height = self.coded
        if self.mode == "stretch":
            return resize(frames, width, height)
        if self.mode == "pad":
            inner_width, inner_height = self.content
            return np.pad(resize(frames, inner_width, inner_height),
                          ((0, 0), (0, height - inner_height), (0, width - inner_width), (0, 0)), mode="edge")
        scale = max(width / self.source[0], height / self.source[1])
        cover = max(width, round(self.source[0] * scale)), max(height, round(self.source[1] * scale))
        left, top = (cover[0] - width) // 2, (cover[1] - height) // 2
        return resize(frames, *cover)[:, top:top + height, left:left + width]

    def restore(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] of the coded size back to the source's."""
        if self.mode == "crop" or self.source == self.coded:
            return frames
        width, height = self.content
        return resize(frames[:, :height, :width], *self.source)


def geometry_for(width: int, height: int, multiple: int, mode: str = "pad", pixels: int = 0) -> Geometry:
    """The coded size for a source of any size, whose sides must be multiples of `multiple`.

    The aspect is kept as well as multiples allow: pad rounds up (a few rows are repeated), crop down, stretch to the
    nearest. With `pixels` the picture is first scaled down until the coded frame has no more than that.

    Raises:
        VovError: `pixels` below the smallest frame, or an unknown mode.
    """
    rounding: Callable[[float], int] = (
        math.floor if mode == "crop" else round if mode == "stretch" else math.ceil)
    if pixels and pixels < multiple**2:
        raise VovError(f"{pixels} pixels are fewer than the smallest frame's, {multiple}×{multiple}")
    scale = 1.0
    while True:
        wide, high = (max(1, rounding(side * scale / multiple)) * multiple for side in (width, height))
        if not pixels or wide * high <= pixels:
            return Geometry((width, height), (wide, high), mode)
        scale *= min(0.99, math.sqrt(pixels / (wide * high)))


def fit_geometry(frames: np.ndarray, width: int, height: int, mode: str) -> np.ndarray:
    """Brings uint8 [T, H, W, 3] to [T, height, width, 3]; see `Geometry`."""
    return Geometry((frames.shape[2], frames.shape[1]), (width, height), mode).fit(frames)


def restore_geometry(frames: np.ndarray, width: int, height: int, mode: str) -> np.ndarray:
    """Undoes `fit_geometry` for a source of width×height; a crop stays as it is."""
    return Geometry((width, height), (frames.shape[2], frames.shape[1]), mode).restore(frames)


def refuse_other_size(path: str | Path, frames: np.ndarray, width: int, height: int, field: str) -> None:
    """Raises VovError when the original [T, H, W, 3] in `field` has not the size that a file was made from."""
    if (found := (frames.shape[2], frames.shape[1])) != (width, height):
        raise VovError(f"`{field}`={path}: {found[0]}×{found[1]}, but the file was made from {width}×{height}; "
                       "give the very original that it was made from")


def resize(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [T, H, W, 3] to [T, height, width, 3]; Lanczos, antialiased."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])


def view(frame: np.ndarray, box: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """What a camera sees of a picture [H, W, 3] through (left, top, right, bottom), in fractions of a pixel too."""
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS, box=box))


def side_by_side(*clips: np.ndarray) -> np.ndarray:
    """Clips [T, H, W, 3] of equal T, scaled to the first one's height, next to each other with a thin gap."""
    height = clips[0].shape[1]
    parts = []
    for index, clip in enumerate(clips):
        if index:
            parts.append(np.full((len(clip), height, 4, 3), 255, np.uint8))
        parts.append(resize(clip, round(clip.shape[2] * height / clip.shape[1]), height))
    return np.concatenate(parts, axis=2)


def contact_sheet(clip: np.ndarray, columns: int = 4) -> np.ndarray:
    """One picture of `columns` frames spread evenly over a clip [T, H, W, 3], stacked top to bottom."""
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    return np.concatenate([clip[i] for i in chosen], axis=0)
