"""A film whose groups of chunks are coded one by one, in any process; `command.encode` then finds all of them done."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from vov.bitstream import Item
from vov.media import FrameSource
from vov.model.backbone import Backbone
from vov.sequence.command import encoder_of, outputs_of
from vov.sequence.encode import Plan
from vov.sequence.plan import groups
from vov.sequence.settings import SequenceConfig
from vov.sequence.theta import SceneAdapter, adapted


def most_groups(settings: SequenceConfig, clip: str) -> int:
    """No fewer than the groups of a video, without a look at its pictures; 1 where they cannot be coded one by one.

    With TARGET_PSNR the rate of a group depends on how the others came out.
    """
    every = settings.key_every or int(settings.num_frames == 1)
    if settings.target_psnr or (settings.scenes == "none" and not every):
        return 1
    frames = len(FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps))
    shortest = (settings.shortest_scene or settings.num_frames // 2 + 1) if settings.scenes == "auto" else 1
    scenes = 1 if settings.scenes == "none" else max(1, frames // shortest)
    return scenes + (frames // max(1, every * (settings.num_frames - 1)) if every else 0)


class Shared:
    """A video whose chunks are made where `command.encode` of the same settings and path looks for them.

    Attributes:
        groups: numbers of the chunks of every group, see `plan.groups`.
    """

    def __init__(self, settings: SequenceConfig, kind: type[Backbone], clip: str, caption: str, path: Path):
        Item(caption, 1, 1)  # its bounds, before any time is spent
        settings.one_rate()
        outputs_of(settings, path)  # what is wrong with them, before any chunk is coded
        source = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps)
        self.encoder = encoder_of(settings, settings.load(kind), clip, caption, source, path.parent / "chunks")
        self.groups = groups(self.encoder.spans)
        self.planned: Plan | None = None

    def plan(self) -> None:
        """What must be known before a group can be coded; it goes to disk, where other processes find it."""
        with self._adapted() as adapter:
            self.planned = self.encoder.plan(adapter)

    def code(self, group: int) -> None:
        """Codes the chunks of a group that are not on disk."""
        with self._adapted() as adapter:
            self.planned = self.planned or self.encoder.plan(adapter)
            self.encoder.code(self.groups[group], self.planned, adapter, lambda number, coded: None)

    def _adapted(self) -> AbstractContextManager[SceneAdapter | None]:
        """Around each task alone: the model may go to another file between two of them."""
        encoder = self.encoder
        return adapted(encoder.backbone, encoder.settings, encoder.header.shift, encoder.collection)
