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


def spans(starts: Sequence[int], count: int, size: int, key_every: int = 0, unit: int = 1) -> list[Span]:
    """Chunks of a video of `count` frames; none crosses the start of a scene.

    The chunks of a scene are as few as can be, and about equally long: a short one at the end would take all the
    model's steps for a few frames, and come out worse.

    Args:
        starts: first frame of every scene, from 0.
        size: frames that the model makes at a time; a chained chunk contributes one less.
        key_every: every so many chunks of a scene, one stands alone, so that decoding can start there; 0: the first.
        unit: frames of a later latent frame; chunks are shortened by whole ones.
    """
    found = []
    for scene, (first, end) in enumerate(zip(starts, [*starts[1:], count], strict=True)):
        most = 1 + key_every * (size - 1) if key_every or size == 1 else end - first
        chains = -(-(end - first) // most)
        for chain in even(end - first, chains, chains, unit):
            chunks = max(1, -(-(chain - 1) // max(1, size - 1)))
            for number, frames in enumerate(even(chain, chunks, 1, unit)):
                found.append(Span(first, frames, number > 0, scene))
                first += frames
    return found


def even(frames: int, parts: int, heads: int, unit: int) -> list[int]:
    """So many frames in `parts` runs that differ by one unit at most; the last one lacks what does not fill a unit.

    heads: how many of the runs, from the first on, begin with a frame of their own before the units.
    """
    whole = -(-(frames - heads) // unit)
    lengths = [(number < heads) + unit * (whole // parts + (number < whole % parts)) for number in range(parts)]
    lengths[-1] -= sum(lengths) - frames
    return lengths


def groups(planned: Sequence[Span]) -> list[list[int]]:
    """Numbers of the chunks from one that stands alone to the next: a group can be coded without the others."""
    found: list[list[int]] = []
    for number, span in enumerate(planned):
        if not span.chained:
            found.append([])
        found[-1].append(number)
    return found
