"""The size or the quality that a file is asked to have, and how many bytes that is: for θ and for noise alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vov import VovError
from vov.config import option

SIZES = ("target_bytes", "target_bpp", "target_kbps")
NEAR_DB = 0.1  # TARGET_PSNR is met to this
SLACK = 0.03  # share of a size that may stay unused


@dataclass(frozen=True)
class TargetOptions:
    """What the finished file is to have; of all four, one may be set."""

    target_bytes: int = option(0, "size of the whole file, sound apart, met to 3 % and never exceeded", minimum=0,
                               per_stage=True)
    target_bpp: float = option(0.0, "size of the whole file in bits a pixel, likewise", minimum=0, per_stage=True)
    target_kbps: float = option(0.0, "size of the whole file in kilobits a second, likewise", minimum=0,
                                per_stage=True)
    target_psnr: float = option(0.0, "PSNR of the decoded file in dB, met to 0.1", minimum=0, per_stage=True)


def asked(settings: TargetOptions) -> str:
    """The name of the one target that is set, "" for none. Raises VovError for two."""
    found = [name for name in (*SIZES, "target_psnr") if getattr(settings, name)]
    if len(found) > 1:
        raise VovError(f"{' and '.join(f'`{name}`' for name in found)} are set; give one of them")
    return found[0] if found else ""


def whole(settings: TargetOptions, shapes: Sequence[tuple[int, ...]], fps: float) -> int:
    """Bytes that a file of clips [T, H, W, …] of these shapes may have; 0: no size was asked for.

    fps: frames a second; TARGET_KBPS has no meaning for pictures (T = 1) and is refused with a VovError.
    """
    if settings.target_kbps:
        if shapes[0][0] == 1:
            raise VovError("`target_kbps`: a picture has no duration; use `target_bytes` or `target_bpp`")
        return int(settings.target_kbps * 125 * sum(shape[0] for shape in shapes) / fps)
    if settings.target_bpp:
        return int(settings.target_bpp / 8 * sum(math.prod(shape[:3]) for shape in shapes))
    return settings.target_bytes


NO_TARGET: dict[str, Any] = dict.fromkeys((*SIZES, "target_psnr"), 0)  # of a stage that is aimed at nothing
