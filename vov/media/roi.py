"""Regions of interest: where a residual counts for more. Only the encoder knows them; they cost no bytes.

A mask is a picture of the original's size: white counts ROI_WEIGHT times as much as black, grey in between. What
counts is the squared error of the latents, so that the mask is averaged over the pixels behind every latent value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vov import VovError
from vov.config import option
from vov.media import fit_geometry, image_files, read_image
from vov.runtime.files import content_hash, path_hash

if TYPE_CHECKING:  # --help needs no torch
    from torch import Tensor

    from vov.media.original import Original

S = TypeVar("S", bound="Original")


@dataclass(frozen=True)
class RoiOptions:
    """Where quality is wanted."""

    roi: str = option("", "region of interest: a mask (white: interest) for every frame or picture, or a folder: for a "
                      "clip a mask a frame, for pictures masks of their names; costs no bytes", identity=False,
                      per_stage=True)
    roi_weight: float = option(3.0, "how many times as much a squared error counts where ROI is white", minimum=1,
                               identity=False, per_stage=True)


@dataclass(frozen=True, eq=False)
class Region:
    """Masks uint8 [T or 1, H, W, 3] of the original's size, and what white weighs."""

    masks: np.ndarray
    weight: float

    @property
    def hash(self) -> str:
        """Names it among all."""
        return content_hash(self.weight, self.masks.shape, self.masks.tobytes())

    def latent(self, width: int, height: int, resize: str, shape: Sequence[int]) -> Tensor:
        """What each latent value of `shape` [1, C, T, h, w] counts: float32 [1, 1, T, h, w] with mean 1.

        The original was brought to width×height by `resize`. The first latent frame stands for the first frame, each
        later one for an equal share of the others.
        """
        import torch
        import torch.nn.functional as F

        shares = torch.from_numpy(fit_geometry(self.masks, width, height, resize)[..., 0].astype(np.float32) / 255)
        shares = F.adaptive_avg_pool2d(shares[:, None], (shape[3], shape[4]))[:, 0]
        frames = shape[2]
        if len(shares) == 1:
            shares = shares.expand(frames, -1, -1)
        elif frames > 1:
            later = shares[1:].reshape(frames - 1, -1, *shares.shape[1:]).mean(1)
            shares = torch.cat((shares[:1], later))
        weights = 1 + (self.weight - 1) * shares
        return (weights / weights.mean())[None, None]


class Masks:
    """The masks of a video's frames, read as they are needed: one for all, or a folder with one for each.

    Args:
        count, size: frames and (width, height) of the video as it is coded and shown.
    Raises:
        VovError: masks that do not fit the video.
    """

    def __init__(self, settings: RoiOptions, count: int, size: tuple[int, int]):
        path = Path(settings.roi)
        self.files = _files(path, count) if path.is_dir() else [_there(path)]
        for file in self.files:
            _check(read_image(file)[None], size, file)
        self.weight = settings.roi_weight
        self.hash = content_hash(self.weight, *(path_hash(file) for file in self.files))

    def region(self, first: int, count: int) -> Region:
        """The region of `count` frames from `first` on; the last mask stands for the frames after it."""
        wanted = self.files[first: first + count] or self.files[-1:] if len(self.files) > 1 else self.files
        masks = np.stack([read_image(file) for file in wanted])
        masks = np.concatenate((masks, np.repeat(masks[-1:], count - len(masks), 0))) if len(masks) > 1 else masks
        return Region(masks, self.weight)


def masks(settings: RoiOptions, count: int, size: tuple[int, int]) -> Masks | None:
    """`Masks` of ROI; None without it."""
    return Masks(settings, count, size) if settings.roi else None


def with_region(sources: Sequence[S], settings: RoiOptions) -> list[S]:
    """The sources with their `region`; as they are without ROI. Raises VovError for masks that do not fit them."""
    if not settings.roi:
        return list(sources)
    path = _there(Path(settings.roi))
    if path.is_file():
        mask = read_image(path)[None]
        return [_given(source, mask, settings, path) for source in sources]
    if len(sources[0].frames) > 1:
        (source,), count = sources, len(sources[0].frames)
        return [_given(source, np.stack([read_image(file) for file in _files(path, count)]), settings, path)]
    found = [next((path / Path(source.name).with_suffix(suffix) for suffix in (".png", Path(source.name).suffix)
                   if (path / Path(source.name).with_suffix(suffix)).is_file()), None) for source in sources]
    if missing := [source.name for source, file in zip(sources, found, strict=True) if file is None]:
        raise VovError(f"`roi`={path}: has no mask for {', '.join(missing[:5])}; name masks as their pictures, or give "
                       "one file")
    return [_given(source, read_image(file)[None], settings, file)
            for source, file in zip(sources, found, strict=True) if file]


def _there(path: Path) -> Path:
    if not path.exists():
        raise VovError(f"`roi`={path}: no such file or folder; give a mask, or a folder of masks")
    return path


def _files(path: Path, count: int) -> list[Path]:
    """The first `count` masks of a folder."""
    if len(files := image_files(path)) < count:
        raise VovError(f"`roi`={path}: has {len(files)} masks for {count} frames; give one a frame, or one file")
    return files[:count]


def _check(masks: np.ndarray, size: tuple[int, int], path: Path) -> None:
    width, height = size
    if masks.shape[1:3] != (height, width):
        raise VovError(f"`roi`={path}: is {masks.shape[2]}×{masks.shape[1]}, but the original is {width}×{height}; "
                       "give a mask of its size")


def _given(source: S, masks: np.ndarray, settings: RoiOptions, path: Path) -> S:
    height, width = source.frames.shape[1:3]
    _check(masks, (width, height), path)
    return replace(source, region=Region(masks, settings.roi_weight))
