"""Who gets how many bytes: the budget of a video, shared out among its chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vov.bitstream.sequence_code import GRID, MAX_SCALE, TOP, Chunk, Packing, Scene, atoms, payload_bytes
from vov.sequence.plan import Span

LENGTHS = 3  # bytes by which the length field of a section may still grow


class Ledger:
    """What is spent and what is left while a video is planned, scene after scene and chunk after chunk.

    The bytes of a chunk follow from its scene's profile and its scale, before any of it is coded.

    Args:
        spans: from `plan.spans`.
        weights: of the chunks, in proportion to what they have to code: their latent frames. (By frames a key chunk
            would get too little: its first latent frame is one picture, and as dear as the four of any other.)
        whole: bytes that the file may have, sound apart; 0: all chunks together get `rate` bytes of indices a frame.
        size_of: (scenes, chunks) → bytes of the file with them, sound apart.
        steps: entries of a profile.
        packings: of key and of chained chunks.
    """

    def __init__(self, spans: Sequence[Span], weights: Sequence[int], whole: float, rate: float,
                 size_of: Callable[[Sequence[Scene], Sequence[Chunk]], int], steps: int,
                 packings: tuple[Packing, Packing]):
        self.spans, self.weights, self.packings = list(spans), list(weights), packings
        self.whole, self.size_of = whole, size_of
        self.indices_wanted = rate * sum(span.frames for span in spans)
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

    def left(self) -> float:
        """Bytes of indices that are not spent."""
        return (self.whole - self._fixed if self.whole else self.indices_wanted) - self.indices

    def share(self) -> int:
        """Bytes for the indices of the next chunk: its part of what is left."""
        number = len(self.scales)
        return max(1, int(self.left() * self.weights[number] / sum(self.weights[number:])))

    def add(self) -> None:
        """The next chunk gets the largest scale within its share; the last one's rest goes to whoever has a use."""
        profile, packing = self._code_of(len(self.scales))
        self.scales.append(scale_for(profile, packing, self.share()))
        self.indices += payload_bytes(profile, self.scales[-1], packing)
        if len(self.scales) == len(self.spans):
            self._spend_rest()
            self._spend_on_steps()

    def _spend_rest(self) -> None:
        """Chunks get larger scales, one after the other, while they fit: one scale is up to a few per cent."""
        for number in range(len(self.scales)):
            profile, packing = self._code_of(number)
            now = payload_bytes(profile, self.scales[number], packing)
            self.scales[number] = scale_for(profile, packing, now + max(0, int(self.left())))
            self.indices += payload_bytes(profile, self.scales[number], packing) - now

    def _spend_on_steps(self) -> None:
        """Single steps of the scene with the fewest chunks get more atoms, while that fits.

        One scale more is up to a tenth of a chunk: many steps of a profile get more atoms at the same scale.
        """
        place = min(range(len(self.scenes)), key=lambda number: self.scenes[number].chunks)
        numbers = [number for number, span in enumerate(self.spans) if span.scene == place]
        for step in np.argsort(-self.scenes[place].profile, kind="stable"):
            if self.left() < self.packings[0].width / 8:
                return
            scene = self.scenes[place]
            raised = self._raised(scene.profile, int(step), [self.scales[number] for number in numbers],
                                  self.packings[0].most)
            before = self.indices, self._fixed
            self.scenes[place] = replace(scene, profile=raised)
            for number in numbers:
                packing, scale = self.packings[self.spans[number].chained], self.scales[number]
                self.indices += payload_bytes(raised, scale, packing) - payload_bytes(scene.profile, scale, packing)
            self._fixed = self._besides()
            if self.left() < 0:
                self.scenes[place], (self.indices, self._fixed) = scene, before

    @staticmethod
    def _raised(profile: np.ndarray, step: int, scales: Sequence[int], most: int) -> np.ndarray:
        """The profile with just so much more for a step that it has more atoms at one of these scales, if it can."""
        raised = profile.copy()
        while 0 < raised[step] <= TOP - GRID:
            raised[step] += GRID
            if any(atoms(raised, scale, most)[step] > atoms(profile, scale, most)[step] for scale in scales):
                return raised
        return profile

    def _code_of(self, number: int) -> tuple[np.ndarray, Packing]:
        span = self.spans[number]
        return self.scenes[span.scene].profile, self.packings[span.chained]


def scale_for(profile: np.ndarray, packing: Packing, budget: int) -> int:
    """The largest scale whose symbols take at most `budget` bytes."""
    low, high = 0, packing.scales
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if payload_bytes(profile, middle, packing) <= budget else (low, middle - 1)
    return low
