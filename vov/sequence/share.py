"""A film whose groups of chunks are coded one by one, in any process; `commands.film.encode` then has all of them."""

from __future__ import annotations

from pathlib import Path

from vov.bitstream import Item
from vov.media import FrameSource
from vov.model.backbone import Backbone
from vov.sequence.encode import SequenceEncoder, VideoPlan
from vov.sequence.plan import groups, spans
from vov.sequence.scenes import scene_starts, shortest_scene
from vov.sequence.settings import SequenceConfig


def most_groups(settings: SequenceConfig, clip: str) -> int:
    """No fewer than the groups of a video, without a look at its pictures; 1 where they cannot be coded one by one.

    With TARGET_PSNR the rate of a group depends on how the others came out.
    """
    every = settings.key_every or int(settings.num_frames == 1)
    if settings.target_psnr or (settings.scenes == "none" and not every):
        return 1
    frames = len(FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps))
    shortest = shortest_scene(settings.num_frames) if settings.scenes == "auto" else 1
    scenes = 1 if settings.scenes == "none" else max(1, frames // shortest)
    return scenes + (frames // max(1, every * (settings.num_frames - 1)) if every else 0)


def encoder_of(settings: SequenceConfig, backbone: Backbone, clip: str, caption: str, source: FrameSource,
               folder: Path) -> SequenceEncoder:
    """The encoder of a video whose chunks go to `folder`; source: its frames in their own geometry."""
    starts = scene_starts(settings.scenes, source, len(source), shortest_scene(settings.num_frames))
    planned = spans(starts, len(source), settings.num_frames, settings.key_every, backbone.temporal)
    fitted = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps,
                         size=(settings.width, settings.height), resize=settings.resize)
    return SequenceEncoder(backbone, fitted, planned, [caption] * len(starts), settings, folder)


class Shared:
    """A video whose chunks are made where `commands.film.encode` of the same settings and path looks for them.

    Attributes:
        groups: numbers of the chunks of every group, see `plan.groups`.
    """

    def __init__(self, settings: SequenceConfig, kind: type[Backbone], clip: str, caption: str, folder: Path):
        Item(caption, 1, 1)  # its bounds, before any time is spent
        settings.one_rate()
        source = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps)
        self.encoder = encoder_of(settings, settings.load(kind), clip, caption, source, folder / "chunks")
        self.groups = groups(self.encoder.spans)
        self.planned: VideoPlan | None = None

    def plan(self) -> None:
        """What must be known before a group can be coded; it goes to disk, where other processes find it."""
        with self.encoder.adapted() as thetas:
            self.planned = self.encoder.plan(thetas)

    def code(self, group: int) -> None:
        """Codes the chunks of a group that are not on disk."""
        with self.encoder.adapted() as thetas:  # around each task: the model may go to another file between two
            self.planned = self.planned or self.encoder.plan(thetas)
            self.encoder.code(self.groups[group], self.planned, thetas, lambda number, coded: None)
