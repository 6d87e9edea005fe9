"""Who gets how many bytes: the budget of a video, shared out among its chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vov.bitstream.sequence_code import MAX_SCALE, Chunk, Scene, payload_bytes
from vov.sequence.plan import Span

LENGTHS = 3  # bytes by which the length field of a section may still grow


class Ledger:
    """What is spent and what is left while a video is planned, scene after scene and chunk after chunk.

    The bytes of a chunk follow from its scene's profile and its scale, before any of it is coded.

    Args:
        spans: from `plan.spans`.
        whole: bytes that the file may have, sound apart; 0: chunks get `rate` bytes of indices a frame.
        size_of: (scenes, chunks) → bytes of the file with them, sound apart.
        steps: entries of a profile.
        bits: of an index in key and in chained chunks.
    """

    def __init__(self, spans: Sequence[Span], whole: float, rate: float,
                 size_of: Callable[[Sequence[Scene], Sequence[Chunk]], int], steps: int, bits: tuple[int, int]):
        self.spans, self.whole, self.rate, self.size_of, self.bits = list(spans), whole, rate, size_of, bits
        self.guess = Scene(1, np.arange(steps, dtype=np.int32) % 4 * 9 + 200)  # as dear as usual profiles are
        self.scenes: list[Scene] = []
        self.scales: list[int] = []
        self.indices = 0  # bytes of the chunks so far
        self._fixed = self._besides()

    def open(self, scene: Scene) -> None:
        """The next scene, now that its profile and θ are known."""
        self.scenes.append(scene)
        self._fixed = self._besides()

    def _besides(self) -> int:
        """Bytes of the file without indices; scenes to come are taken to be as the last one."""
        scenes, count = list(self.scenes), 1 + max(span.scene for span in self.spans)
        for number in range(len(scenes), count):
            scenes.append(replace((self.scenes or [self.guess])[-1], chunks=self._chunks_of(number)))
        chunks = [Chunk(span.frames, span.chained, MAX_SCALE, np.zeros(0, np.int32)) for span in self.spans]
        return self.size_of(scenes, chunks) + LENGTHS

    def _chunks_of(self, scene: int) -> int:
        return sum(span.scene == scene for span in self.spans)

    def share(self) -> int:
        """Bytes for the indices of the next chunk: its part of what is left."""
        number = len(self.scales)
        frames = self.spans[number].frames
        if not self.whole:
            return max(1, int(self.rate * frames))
        left = sum(span.frames for span in self.spans[number:])
        return max(1, int((self.whole - self._fixed - self.indices) * frames / left))

    def add(self) -> None:
        """The next chunk gets the largest scale within its share."""
        span = self.spans[len(self.scales)]
        profile, bits = self.scenes[span.scene].profile, self.bits[span.chained]
        self.scales.append(scale_for(profile, bits, self.share()))
        self.indices += payload_bytes(profile, self.scales[-1], bits)


def scale_for(profile: np.ndarray, bits: int, budget: int) -> int:
    """The largest scale whose indices take at most `budget` bytes."""
    low, high = 0, MAX_SCALE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if payload_bytes(profile, middle, bits) <= budget else (low, middle - 1)
    return low
