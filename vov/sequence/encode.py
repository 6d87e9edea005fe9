"""A video to one file, chunk after chunk in fixed memory; a run that was stopped goes on at the chunk at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vov import VovError, bitstream
from vov.adapter.adapt import FIELDS
from vov.bitstream import Bitstream, Header, Item
from vov.bitstream.noise_code import ETA_UNIT, NoiseCode
from vov.bitstream.sequence_code import TOP, Chunk, Scene, SequenceCode, noise_code, on_grid, packings
from vov.decoding import collection
from vov.decoding.chunk import ChunkModel, Start
from vov.fitting.distributed import World
from vov.fitting.loss import pixel_weights
from vov.media import FrameSource
from vov.media.roi import masks
from vov.metrics import psnr
from vov.model import speed
from vov.model.backbone import Backbone
from vov.model.flow import euler
from vov.noise.aim import Aim
from vov.noise.allocate import allocate
from vov.noise.choose import Chooser
from vov.noise.options import GRADIENT, usual_branch
from vov.runtime import signals
from vov.runtime.files import content_hash
from vov.sequence.kept import load, save
from vov.sequence.ledger import Ledger, scale_for
from vov.sequence.plan import Span, groups
from vov.sequence.settings import SequenceConfig
from vov.sequence.theta import AUTO_SHARE, SCENE_BITS, SceneAdapter, SceneTheta, Window, adapted, hash_of, length

log = logging.getLogger(__name__)
RULES = 3  # how chunks are chosen; to be raised with any change of it, so that no chunk of before is taken from disk
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


@dataclass(frozen=True)
class Plan:
    """Every scene, with its view and its θ, and the scale of every chunk."""

    scenes: list[tuple[Scene, View, SceneTheta | None]]
    scales: list[int]


@dataclass(frozen=True, eq=False)
class Coded:
    """A finished chunk: what goes into the file, its last decoded frame uint8 [H, W, 3], PSNR at the model's size."""

    chunk: Chunk
    last: np.ndarray
    psnr: float


class SequenceEncoder:
    """Chooses the noise of every chunk of a video.

    Args:
        source: frames at the model's geometry.
        spans: from `plan.spans`.
        captions: one for each scene; may be empty.
        folder: gets a file for every finished chunk; a chunk is made again only if something it depends on is another.
    """

    def __init__(self, backbone: Backbone, source: FrameSource, spans: Sequence[Span], captions: Sequence[str],
                 settings: SequenceConfig, folder: Path):
        backbone.check_geometry(settings.width, settings.height, settings.num_frames)
        self.backbone, self.source, self.spans, self.settings = backbone, source, list(spans), settings
        self.size = source.info.width, source.info.height
        self.folder, self.captions = folder, list(captions)
        self.masks = masks(settings, len(source), self.size)
        self.collection = collection.remember(settings.collection)
        self.header = Header(
            tree=backbone.tree, model_id=backbone.name, fingerprint=backbone.fingerprint(), dtype=backbone.precision,
            **self._adapter_fields(), step=1.0, width=settings.width, height=settings.height,
            num_frames=settings.num_frames, fps=source.fps, resize=settings.resize, sampler="euler",
            decode_steps=settings.steps,
            shift=settings.shift or backbone.native_shift(settings.width, settings.height), seed=settings.seed)
        self.model = ChunkModel(backbone, self.header)
        if settings.score in GRADIENT:
            speed.recompute_blocks(backbone.transformer, backbone.blocks, backbone.device)
        self.conditions = backbone.embed(self.captions)
        shape = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
        self.sizes = (int(np.prod(shape)), int(np.prod(shape)) * (shape[2] - 1) // shape[2])  # values: key, chained
        self.bits = tuple(min(24, max(1, size.bit_length() - 1)) for size in self.sizes)
        self.budget = settings.budget(len(source), source.fps, self.size, self.fixed_bytes())
        rate = 8 * self.budget / len(self.spans) / self.sizes[-1 if len(self.spans) > 1 else 0]
        self.noise = {"eta": ETA_UNIT, "first": 0, "steps": settings.steps - 1, "start": 0,
                      "end": settings.jump(rate), "branch": 0}
        if not self.noise["end"]:
            self.noise["steps"] = settings.steps
        per_step = 8 * self.budget / len(self.spans) / self.noise["steps"]
        self.noise["branch"] = usual_branch(min(self.bits) + 1, per_step)
        self.packings = packings(self.noise, self.bits)
        self.sigmas = self.model.sigmas(self.noise)

    def _adapter_fields(self) -> dict:
        """The header's part about θ; where no scene can have one, the least that says so."""
        if not length(self.settings):
            return {"lora_preset": next(iter(self.backbone.presets)), "last_k": 1, "rank": 1, "theta_length": 1,
                    "proj_seed": 42, "index_hash": bytes(8)}
        adapter = SceneAdapter(self.backbone, self.settings, 0.0)
        adapter.remove()
        return {name: getattr(adapter.spec, name) for name in FIELDS} | {"index_hash": adapter.projection.hash}

    def fixed_bytes(self) -> int:
        """About what the file holds besides indices and sound: header, framing, captions, profiles, chunk heads."""
        captions = sum(len(caption.encode()) for caption in self.captions)
        shared = 22 if self.collection else 0
        return 120 + shared + captions + (12 + self.settings.steps // 2) * len(self.captions) + 4 * len(self.spans)

    def file_bytes(self, scenes: Sequence[Scene], chunks: Sequence[Chunk]) -> int:
        """Size of the file with these scenes and chunks, sound apart."""
        code = SequenceCode(self.noise, self.bits, tuple(scenes), tuple(chunks))
        return len(bitstream.to_bytes(self.bitstream(code, *self.size)))

    def run(self, done: Callable[[int, Coded], None] = lambda number, coded: None,
            world: World | None = None) -> SequenceCode | None:
        """Codes every chunk; `done` is called after each with its number. A signal ends it after the chunk at hand.

        Several processes share out the groups; the file is the same whatever their number. The first one plans and puts
        the file together, the others return None.

        Raises VovError when the file would be larger than was asked for.
        """
        here = world or World()
        with adapted(self.backbone, self.settings, self.header.shift, self.collection) as adapter:
            if here.first:
                planned = self.plan(adapter)
            here.barrier()
            if not here.first:
                planned = self.plan(adapter)  # reads what the first one has found
            mine = [number for group in groups(self.spans)[here.rank::here.size] for number in group]
            coded = self.code(mine, planned, adapter, done)
            here.barrier()
            if not here.first:
                return None
            if here.size > 1:  # from disk
                coded = self.code(range(len(self.spans)), planned, adapter,
                                  lambda number, one: None if number in mine else done(number, one))
        scenes, chunks = [scene for scene, _, _ in planned.scenes], coded
        whole = self.settings.whole(len(self.source), self.source.fps, self.size)
        if whole and (size := self.file_bytes(scenes, chunks)) > whole:
            raise VovError(f"the smallest file has {size:,} bytes, {whole:,} were asked for; raise the target, or "
                           "lower STEPS")
        return SequenceCode(self.noise, self.bits, tuple(scenes), tuple(chunks))

    def plan(self, adapter: SceneAdapter | None) -> Plan:
        """θ, profile and weights of every scene, and the scale of every chunk: all that is decided before coding."""
        whole = self.settings.whole(len(self.source), self.source.fps, self.size)
        ledger = Ledger(self.spans, [self.latent_frames(span) for span in self.spans], whole,
                        self.budget / len(self.source), self.file_bytes, self.noise["steps"], self.packings)
        found, theta = [], None
        for number, span in enumerate(self.spans):
            if len(found) == span.scene:
                spans = [one for one in self.spans if one.scene == span.scene]
                theta = self.kept_theta(number, adapter, theta, spans, ledger.share()) if adapter else None
                view = self.kept_view(number, theta, span, ledger.share())
                scene = Scene(len(spans), view.profile, *(() if theta is None else (theta.symbols, theta.step)))
                ledger.open(scene)
                found.append((scene, view, theta))
            ledger.add()
        found = [(scene, replace(view, profile=scene.profile), theta)
                 for scene, (_, view, theta) in zip(ledger.scenes, found, strict=True)]
        return Plan(found, ledger.scales)

    def latent_frames(self, span: Span) -> int:
        """How many latent frames a chunk codes: without the known one, and without those of padding alone."""
        pictures, settings = span.frames + span.chained, self.settings
        for frames in range(pictures, settings.num_frames):
            with suppress(VovError):
                self.backbone.check_geometry(settings.width, settings.height, frames)
                break
        else:
            frames = settings.num_frames
        return self.backbone.latent_shape(settings.width, settings.height, frames)[2] - span.chained

    def code(self, numbers: Iterable[int], planned: Plan, adapter: SceneAdapter | None,
             done: Callable[[int, Coded], None]) -> list[Chunk]:
        """Codes these chunks, whole groups in order, or takes them from disk.

        Only the last decoded frame is kept, until the next chunk is coded: memory does not grow with the length.
        """
        before, key, found, bound = None, self.settings_hash(), [], -1
        with signals.graceful() as signalled:
            for number in numbers:
                span = self.spans[number]
                _, view, theta = planned.scenes[span.scene]
                if adapter is not None and bound != span.scene:
                    adapter.bind(theta)
                    bound = span.scene
                frames = self.original(span, before)
                key = content_hash(key if span.chained else self.settings_hash(), number, self.captions[span.scene],
                                   hash_of(theta), view.hash, planned.scales[number],
                                   np.ascontiguousarray(frames).data)
                coded = self.kept_chunk(number, key, frames, span, view, planned.scales[number], before)
                before = coded.last
                found.append(coded.chunk)
                done(number, coded)
                if signal := signalled():
                    raise signals.Stopped(signal, f"chunk {number + 1} of {len(self.spans)} saved")
        return found

    def kept_theta(self, number: int, adapter: SceneAdapter, before: SceneTheta | None, spans: Sequence[Span],
                   share: int) -> SceneTheta | None:
        """The θ of the scene that begins with chunk `number`, bound; None, and unbound, where it does not pay
        (SCENE_THETA=auto)."""
        shown = adapter.windows(self.source.read, spans)
        fit = {name: value for name, value in vars(self.settings).items() if name.startswith("scene_")}
        key = content_hash(self.settings_hash(), number, self.captions[spans[0].scene], hash_of(before), share, fit,
                           *(np.ascontiguousarray(window.frames).data for window in shown))
        path = self.folder / f"theta{number:06d}.npz"
        if (found := load(path, key)) is None:
            theta = self.theta(number, adapter, before, spans, share, shown)
            symbols, step = (np.zeros(0, np.int32), 1.0) if theta is None else (theta.symbols, theta.step)
            save(path, key, symbols=symbols, step=np.array(step))
            found = {"symbols": symbols, "step": step}
        theta = SceneTheta(found["symbols"], float(found["step"])) if found["symbols"].size else None
        adapter.bind(theta)
        return theta

    def theta(self, number: int, adapter: SceneAdapter, before: SceneTheta | None, spans: Sequence[Span], share: int,
              shown: Sequence[Window]) -> SceneTheta | None:
        """A θ fitted to these windows of a scene; None where it does not pay."""
        auto = self.settings.scene_theta.strip().lower() == "auto"
        cost = length(self.settings) * SCENE_BITS / 8
        latent = [self.latent_frames(span) for span in spans]
        if auto and cost > AUTO_SHARE * share * sum(latent) / latent[0]:
            return None
        theta = adapter.fit(shown, self.conditions[spans[0].scene], self.folder / f"theta{number:06d}", before)
        return theta if not auto or self.pays(number, adapter, theta, spans, share) else None

    def pays(self, number: int, adapter: SceneAdapter, theta: SceneTheta, spans: Sequence[Span], share: int) -> bool:
        """Whether two chunks of the scene come out better with θ than without it, at equal bytes of the whole scene.

        The chunks are the first and one in the middle, each after the original of the frame before it."""
        found = []
        for option, cost in ((None, 0.0), (theta, theta.bytes / len(spans))):
            adapter.bind(option)
            values, view = [], None
            for span in (spans[0], spans[len(spans) // 2]):
                known = next(iter(self.source.read(span.first - 1, 1))) if span.chained else None
                frames = self.original(span, known)
                room = int(share * self.latent_frames(span) / self.latent_frames(spans[0]) - cost)
                view = view or self.view(number, frames, span, room)
                scale = scale_for(view.profile, self.packings[span.chained], room)
                values.append(self.chunk(number, frames, span, view, scale, known).psnr)
            found.append(np.mean(values))
        log.info("scene of %d chunks: θ of %d bytes: %.2f dB, without %.2f dB", len(spans), theta.bytes, *found[::-1])
        return bool(found[1] > found[0])

    def bitstream(self, code: SequenceCode, width: int, height: int) -> Bitstream:
        """The file without sound; width, height: of the source as displayed."""
        items = tuple(Item(caption, width, height) for caption in self.captions)
        return Bitstream(self.header, items, None, sequence=code, collection=self.collection)

    def settings_hash(self) -> str:
        """What every chunk depends on besides its frames."""
        optional = [self.collection] if self.collection else []
        optional += [self.masks.hash] if self.masks else []
        return content_hash(RULES, self.header, self.noise, self.bits, self.settings.score,
                            self.settings.lookahead_every, *optional)

    def original(self, span: Span, before: np.ndarray | None) -> np.ndarray:
        """What the model should make of a chunk: uint8 [num_frames, H, W, 3], padded with its last frame.

        A chained chunk begins with the last decoded frame, not with its original: the others follow what is there.
        """
        frames = list(self.source.read(span.first, span.frames))
        frames = [before, *frames] if span.chained else frames
        return np.stack(frames + [frames[-1]] * (self.settings.num_frames - len(frames)))

    def kept_view(self, number: int, theta: SceneTheta | None, span: Span, share: int) -> View:
        """What is known of the scene that begins with this chunk, from disk if it was made for just this."""
        frames, path = self.original(span, None), self.folder / f"scene{number:06d}.npz"
        key = content_hash(self.settings_hash(), number, self.captions[span.scene], hash_of(theta), share,
                           np.ascontiguousarray(frames).data)
        if (found := load(path, key)) is not None:
            kept = found.get("weights")
            return View(found["profile"], None if kept is None else torch.from_numpy(kept).to(self.backbone.device))
        view = self.view(number, frames, span, share)
        weights = {} if view.weights is None else {"weights": view.weights.cpu().numpy()}
        save(path, key, profile=view.profile, **weights)
        return view

    def kept_chunk(self, number: int, key: str, frames: np.ndarray, span: Span, view: View, scale: int,
                   before: np.ndarray | None) -> Coded:
        """A chunk, from disk if it was made for just this."""
        path = self.folder / f"chunk{number:06d}.npz"
        if (found := load(path, key)) is not None:
            return Coded(Chunk(span.frames, span.chained, scale, found["symbols"]), found["last"], float(found["psnr"]))
        coded = self.chunk(number, frames, span, view, scale, before)
        save(path, key, symbols=coded.chunk.symbols, last=coded.last, psnr=np.array(coded.psnr))
        return coded

    def view(self, number: int, frames: np.ndarray, span: Span, share: int) -> View:
        """What a chunk that stands alone tells of its scene.

        The profile is the shape of the plan that `allocate` makes for it. A first pass with equal shares finds what the
        steps are worth, and how many atoms each has a use for.
        """
        weights = None
        if self.settings.score != "likelihood":
            weights = pixel_weights(self.backbone, self.backbone.latents(frames), self.settings.seed)
        bits = self.bits[0]
        equal = max(1, round(8 * share / (self.packings[0].width * self.noise["steps"])))
        code = noise_code(self.noise, bits, np.full(self.noise["steps"], TOP), 0)
        code = replace(code, plan=np.full((self.noise["steps"], 1), min(equal, code.most)))
        chooser, _, _ = self.search(number, code, frames, None, span, weights)
        usable = replace(code, plan=np.minimum(code.plan, 1))
        plan = allocate(usable, chooser.energy, chooser.worth, share + 64)[0].plan[:, 0]
        return View(profile_of(plan), weights)

    def chunk(self, number: int, frames: np.ndarray, span: Span, view: View, scale: int,
              before: np.ndarray | None) -> Coded:
        """Chooses the noise of a chunk: as many atoms as profile and scale say."""
        code = noise_code(self.noise, self.bits[span.chained], view.profile, scale)
        known = before if span.chained else None
        chooser, start, latents = self.search(number, code, frames, known, span, view.weights)
        decoded = self.model.frames(start, latents)[:span.frames]
        symbols = np.concatenate(chooser.found)
        original = frames[1:] if span.chained else frames
        return Coded(Chunk(span.frames, span.chained, scale, symbols), decoded[-1],
                     psnr(original[:span.frames], decoded))

    @torch.no_grad()
    def search(self, number: int, code: NoiseCode, frames: np.ndarray, before: np.ndarray | None, span: Span,
               weights: Tensor | None) -> tuple[Chooser, Start, Tensor]:
        """Samples a chunk, choosing as it goes: (choices, start, latents)."""
        start = self.model.start(number, before)
        target = self.backbone.latents(frames)
        importance = self.importance(span, target)
        if start.known is not None:
            target, importance = target[:, :, 1:], importance if importance is None else importance[:, :, 1:]
        aim = Aim(self.model.velocity(start, self.conditions[span.scene]), target, self.settings.score, weights,
                  chained=start.known is not None, importance=importance, every=self.settings.lookahead_every)
        chooser = Chooser(code, self.sigmas, self.header.seed, 0, aim.direction)
        chooser.base = number * (len(self.sigmas) - 1)
        return chooser, start, euler(aim.velocity, start.noise, self.sigmas, chooser)

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
