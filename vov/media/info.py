"""What is known of a medium before any frame of it is read."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np

from vov import VovError

IDENTITY = ((1, 0), (0, 1))


@dataclass(frozen=True, eq=False)
class Info:
    """What a medium says about itself, and what reading makes of it.

    Attributes:
        width, height: as displayed: upright, with square pixels.
        times: float64 [T], seconds from the first frame at which each is shown.
        duration: seconds, the last frame's share included.
        rate: frames per second at which the frames are shown; of a varying rate the usual one.
        variable: the rate varies.
        timed: False for pictures in a folder, whose rate is only a default.
        coded: (width, height) in the file.
        turn: the 2×2 display matrix, entries −1, 0, 1: column vectors (x, y) of the coded picture to the displayed.
        aspect: width of a coded pixel over its height.
        transfer: "pq" or "hlg", else "".
        wide: name of primaries wider than BT.709's, else "".
        audio: codec of the sound, "" when there is none.
        begin: when the first frame is shown, in the file's own seconds.
        notes: what reading does that a user would want to know, a few words each.
    """

    path: Path
    width: int
    height: int
    times: np.ndarray
    duration: float
    rate: float
    variable: bool = False
    timed: bool = True
    coded: tuple[int, int] = (0, 0)
    turn: tuple[tuple[int, int], tuple[int, int]] = IDENTITY
    aspect: Fraction = Fraction(1)
    interlaced: bool = False
    transfer: str = ""
    wide: str = ""
    pixel_format: str = "rgb24"
    alpha: bool = False
    audio: str = ""
    begin: Fraction = Fraction(0)
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self.times)


def with_av(name: str) -> ModuleType:
    """The module vov.media.NAME, which needs PyAV; pictures and folders of frames do without it.

    Raises VovError when PyAV is not installed.
    """
    try:
        return importlib.import_module(f"vov.media.{name}")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise VovError("PyAV is not installed, so no video can be read or written; run scripts/setup.sh") from error
