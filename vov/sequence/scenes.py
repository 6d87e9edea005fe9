"""Where a video is cut into scenes: PySceneDetect's adaptive detector, a file of the user's, or nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vov import VovError
from vov.runtime.files import read_text

WIDTH = 160  # frames are looked at this small: detection needs no more


def shortest_scene(chunk: int) -> int:
    """Fewest frames of a scene that is detected: half a chunk, since each scene takes a chunk of its own."""
    return chunk // 2 + 1


def scene_starts(text: str, frames: Iterable[np.ndarray], count: int, shortest: int) -> list[int]:
    """The first frame of every scene, beginning with 0.

    Args:
        text: auto; none; or a file with the number of a scene's first frame on each line (# comments).
        frames: uint8 RGB [H, W, 3], `count` of them; only looked at for auto.
        shortest: fewest frames of a scene that auto finds.
    """
    if text == "none":
        return [0]
    if text == "auto":
        return detect(frames, count, shortest)
    return _from_file(Path(text), count)


def detect(frames: Iterable[np.ndarray], count: int, shortest: int) -> list[int]:
    """Cuts by the change of hue, saturation and lightness against that of the frames around.

    A cut closer than `shortest` frames to the one before, or to the end, is left out: it would cost a key chunk.
    """
    try:
        import cv2
        from scenedetect.detectors import AdaptiveDetector
    except ImportError:
        raise VovError("`scenes`=auto needs scenedetect; run scripts/setup.sh, or set `scenes`=none") from None
    detector, found = AdaptiveDetector(min_scene_len=max(1, shortest)), [0]
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        small = cv2.resize(frame, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)
        found += detector.process_frame(number, np.ascontiguousarray(small[..., ::-1]))
    found += detector.post_process(count)
    kept = [0]
    for cut in sorted(set(map(int, found))):
        if cut - kept[-1] >= shortest and count - cut >= shortest:
            kept.append(cut)
    return kept


def _from_file(path: Path, count: int) -> list[int]:
    if not path.is_file():
        raise VovError(f"`scenes`={path}: no such file; use auto, none, or a file with a first frame on each line")
    starts = [0]
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not text.isdecimal() or not int(text) < count:
            raise VovError(f"{path}, line {number}: {text!r} is no frame of the video, which has {count} (from 0)")
        starts.append(int(text))
    return sorted(set(starts))
