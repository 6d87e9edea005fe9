"""Which frames make which chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A chunk before it is coded: `frames` frames of the video from `first` on, in scene number `scene`.

    chained: it begins with the last decoded frame of the chunk before.
    """

    first: int
    frames: int
    chained: bool
    scene: int


def spans(starts: Sequence[int], count: int, size: int, key_every: int = 0) -> list[Span]:
    """Chunks of a video of `count` frames; none crosses the start of a scene.

    Args:
        starts: first frame of every scene, from 0.
        size: frames that the model makes at a time; a chained chunk contributes one less.
        key_every: every so many chunks of a scene, one stands alone, so that decoding can start there; 0: the first.
    """
    found = []
    for scene, (first, end) in enumerate(zip(starts, [*starts[1:], count], strict=True)):
        number = 0
        while first < end:
            chained = number > 0 and not (key_every and number % key_every == 0) and size > 1
            frames = min(size - chained, end - first)
            found.append(Span(first, frames, chained, scene))
            first, number = first + frames, number + 1
    return found
