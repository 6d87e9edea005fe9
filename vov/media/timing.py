"""When frames are shown: the rate behind time stamps, and which frame a constant rate shows when."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from vov import VovError

DEFAULT_FPS = 24.0  # of a folder of frames, which does not say
HIGHEST_FPS = 1000
MOST_REPEATS = 1000  # a picture that stands still for half a minute
LATE = 0.5  # of a frame's duration: a constant rate may show a frame that much early or late


def constant_rate(times: np.ndarray, last: float, tick: float) -> tuple[float, bool]:
    """(frames per second, whether the rate varies) of frames shown at `times` [T] seconds.

    A rate is constant when no frame would be shown more than half a frame early or late. Of a varying one the rate
    of the usual interval is given: that at which nothing but pauses and doubled frames is lost.

    Args:
        last: how long the last frame is shown, in seconds; counts when it is the only one.
        tick: the unit that the times are rounded to. Matroska's millisecond is coarser than 1001/30000 s needs, so
            the nearest usual rate within that rounding was meant.
    """
    count = len(times)
    if count < 2 or times[-1] <= times[0]:
        return (_usual(last, tick) if last > 0 else DEFAULT_FPS), False
    rate = _usual((times[-1] - times[0]) / (count - 1), tick / (count - 1))
    off = (times - times[0]) * rate - np.arange(count)
    if np.abs(off).max() < LATE:
        return rate, False
    steps = np.diff(times)
    usual = np.abs(steps - np.median(steps)) < np.median(steps) / 4
    runs = 1 + np.count_nonzero(np.diff(usual.astype(int)) == 1)  # each run of usual intervals is rounded twice
    return _usual(float(steps[usual].mean()), tick * runs / np.count_nonzero(usual)), True


def _usual(span: float, slack: float) -> float:
    """The rate with 1/rate = span: a whole number or that by 1.001 if it is within `slack` seconds, else 1/span."""
    rates = [whole * scale for whole in (round(1 / span) or 1, math.ceil(1 / span)) for scale in (1, 1000 / 1001)]
    rate = min(rates, key=lambda r: abs(1 / r - span))
    return float(rate) if abs(1 / rate - span) <= slack else 1 / span


def at_constant_rate(times: np.ndarray, duration: float, fps: float, path: Path | str = "") -> np.ndarray:
    """Which frame is on screen in the middle of each of `fps` intervals a second: int64 [round(duration·fps)].

    Raises VovError when the time stamps cannot be true: a frame that stands for MOST_REPEATS.
    """
    if duration * fps > MOST_REPEATS * (len(times) + 1):
        raise VovError(f"{path}: time stamps of {len(times)} frames span {duration:g} s, at {fps:g} frames a second "
                       f"{duration * fps:.0f} frames; set `fps` lower, or re-encode the video")
    middles = (np.arange(max(1, round(duration * fps))) + 0.5) / fps
    return np.maximum(np.searchsorted(times, middles, side="right") - 1, 0)


def first_frame(start: str | int | float, fps: float) -> int:
    """The frame that START means: 48 is a frame's number; 2.5s, 1:02.5 and 0:01:02 are times.

    Raises VovError for anything else, or for a negative number.
    """
    text = str(start).strip() or "0"
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d+(\.\d*)?s", text):
        return round(float(text[:-1]) * fps)
    if re.fullmatch(r"(\d+:)?\d+:\d+(\.\d*)?", text):
        seconds = 0.0
        for part in text.split(":"):
            seconds = 60 * seconds + float(part)
        return round(seconds * fps)
    raise VovError(f"`start`={start}: neither a frame's number (48) nor a time (2.5s, 1:02.5)")
