"""The noise of one chunk of a video: what its scene tells, and the search for it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vov import VovError
from vov.bitstream.noise_code import NoiseCode
from vov.bitstream.sequence_code import TOP, Chunk, Packing, noise_code, on_grid
from vov.decoding.sampling import Sampling
from vov.media.roi import Masks
from vov.metrics import psnr
from vov.model.backbone import Condition
from vov.noise.allocate import allocate
from vov.noise.search import Search, Task
from vov.runtime.files import content_hash
from vov.sequence.plan import Span
from vov.sequence.settings import SequenceConfig

LEAST = 2**0.5  # a step of one atom keeps it at any scale down to half an octave below the plan's


@dataclass(frozen=True, eq=False)
class View:
    """What a scene's first chunk tells of the scene: the profile, and `loss.pixel_weights` [2, C, C] or None."""

    profile: np.ndarray
    weights: Tensor | None

    @property
    def hash(self) -> str:
        """Names what a chunk of the scene depends on."""
        weights = b"" if self.weights is None else self.weights.cpu().numpy().tobytes()
        return content_hash(self.profile.tobytes(), weights)


@dataclass(frozen=True, eq=False)
class ChunkJob:
    """A chunk that is to be coded.

    number: of the chunk. frames: what the model should make of it, uint8 [num_frames, H, W, 3]; a chained one begins
    with `before`. before: the decoded frame that it follows, or None.
    """

    number: int
    span: Span
    frames: np.ndarray
    before: np.ndarray | None
    condition: Condition


@dataclass(frozen=True, eq=False)
class Coded:
    """A finished chunk: what goes into the file, its last decoded frame uint8 [H, W, 3], PSNR at the model's size."""

    chunk: Chunk
    last: np.ndarray
    psnr: float


class ChunkCoder:
    """Chooses the noise of chunks.

    Args:
        sampling: of the sequence.
        noise: NOISE_FIELDS and branch.
        bits: of an index in a key and in a chained chunk. packings: likewise.
        masks: where quality is wanted, or None.
    """

    def __init__(self, sampling: Sampling, settings: SequenceConfig, noise: dict[str, int], bits: tuple[int, int],
                 packings: tuple[Packing, Packing], masks: Masks | None):
        self.sampling, self.settings, self.noise = sampling, settings, noise
        self.bits, self.packings, self.masks = bits, packings, masks
        self.search = Search(sampling, settings.score, settings.lookahead_every)

    def view(self, job: ChunkJob, share: int) -> View:
        """What a chunk that stands alone tells of its scene.

        The profile is the shape of the plan that `allocate` makes for it. A pilot measures what the steps are worth,
        and how many atoms each has a use for.
        """
        steps, bits = self.noise["steps"], self.bits[0]
        equal = max(1, round(8 * share / (self.packings[0].width * steps)))
        code = noise_code(self.noise, bits, np.full(steps, TOP), 0)
        task = self.task(job, self.search.weights(self.sampling.backbone.latents(job.frames)))
        usable = replace(code, plan=np.ones((steps, 1), int))
        energy, worth = self.search.pilot([task], usable, equal)
        plan = allocate(usable, energy, worth, share + 64)[0].plan[:, 0]
        return View(profile_of(plan), task.weights)

    def code(self, job: ChunkJob, view: View, scale: int) -> Coded:
        """Chooses the noise of a chunk: as many atoms as profile and scale say."""
        span = job.span
        code: NoiseCode = noise_code(self.noise, self.bits[span.chained], view.profile, scale)
        task = self.task(job, view.weights)
        choice = self.search.choose(task, code)
        decoded = self.sampling.frames(task.start, self.search.latents(choice))[:span.frames]
        original = job.frames[1:] if span.chained else job.frames
        return Coded(Chunk(span.frames, span.chained, scale, choice.symbols), decoded[-1],
                     psnr(original[:span.frames], decoded))

    def task(self, job: ChunkJob, weights: Tensor | None) -> Task:
        """What the search is told of a chunk."""
        start = self.sampling.start(job.number, job.before)
        target = self.sampling.backbone.latents(job.frames)
        importance = self.importance(job.span, target)
        if start.known is not None:
            target, importance = target[:, :, 1:], importance if importance is None else importance[:, :, 1:]
        return Task(start, job.condition, target, importance, weights)

    def latent_frames(self, span: Span) -> int:
        """How many latent frames a chunk codes: without the known one, and without those of padding alone."""
        pictures, settings, backbone = span.frames + span.chained, self.settings, self.sampling.backbone
        for frames in range(pictures, settings.num_frames):
            with suppress(VovError):
                backbone.check_geometry(settings.width, settings.height, frames)
                break
        else:
            frames = settings.num_frames
        return backbone.latent_shape(settings.width, settings.height, frames)[2] - span.chained

    def importance(self, span: Span, target: Tensor) -> Tensor | None:
        """What a squared error of each latent value counts in a chunk, its known frame included, [1, 1, T, h, w].

        `Region.latent` with ROI; nothing in latent frames that hold only padding. None: the same everywhere.
        """
        found, real = None, self.latent_frames(span) + span.chained
        if self.masks is not None:
            region = self.masks.region(span.first - span.chained, self.settings.num_frames)
            found = region.latent(self.settings.width, self.settings.height, self.settings.resize, target.shape)
        elif real < target.shape[2]:
            found = torch.ones(1, 1, *target.shape[2:])
        if found is not None and real < target.shape[2]:
            found = found.clone()
            found[:, :, real:] = 0
        return None if found is None else found.to(target)


def profile_of(plan: np.ndarray) -> np.ndarray:
    """The shape of a plan, atoms [coded steps], as 0 … 255 in quarters of an octave below its most; 0: none.

    A step with one atom keeps it where a chunk's scale ends a little below the plan's: the first steps, which decide
    what is where, often have no more than one.
    """
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.maximum(plan, LEAST * (plan > 0)) / plan.max())
    return on_grid(np.where(plan > 0, np.clip(np.rint(TOP + 16 * octaves), 1, TOP), 0).astype(np.int32))
