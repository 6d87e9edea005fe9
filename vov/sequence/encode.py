"""A video to one file, chunk after chunk in fixed memory; a run that was stopped goes on at the chunk at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vov import VovError, bitstream
from vov.adapter.adapted import AdaptedModel, make_header
from vov.bitstream import Bitstream, Item
from vov.bitstream.noise_code import ETA_UNIT
from vov.bitstream.sequence_code import Chunk, Scene, SequenceCode, packings
from vov.decoding import collection
from vov.decoding.sampling import Sampling
from vov.fitting.distributed import World
from vov.media import FrameSource
from vov.media.roi import masks
from vov.model.backbone import Backbone
from vov.noise.options import usual_branch
from vov.runtime import signals
from vov.runtime.files import content_hash
from vov.runtime.state import StateStore
from vov.sequence.chunk import ChunkCoder, ChunkJob, Coded, View
from vov.sequence.ledger import Ledger
from vov.sequence.plan import Span, groups
from vov.sequence.settings import SequenceConfig
from vov.sequence.theta import SceneTheta, SceneThetas, crop, hash_of, spec_of

RULES = 4  # how chunks are chosen; to be raised with any change of it, so that no chunk of before is taken from disk


@dataclass(frozen=True)
class ScenePlan:
    """A scene as the file will hold it, what its first chunk tells of it, and its θ."""

    scene: Scene
    view: View
    theta: SceneTheta | None


@dataclass(frozen=True)
class VideoPlan:
    """Every scene, and the scale of every chunk."""

    scenes: list[ScenePlan]
    scales: list[int]


class SequenceEncoder:
    """Codes a video: plans scenes and chunks, and chooses the noise of every chunk.

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
        self.folder, self.captions, self.store = folder, list(captions), StateStore(folder)
        self.masks = masks(settings, len(source), self.size)
        self.collection = collection.remember(settings.collection)
        self.spec = spec_of(settings, backbone)
        if self.spec:
            crop(settings, backbone)  # a wrong one is refused before any work
        self.header = make_header(
            backbone, self.spec, width=settings.width, height=settings.height, num_frames=settings.num_frames,
            fps=source.fps, resize=settings.resize, sampler="euler", decode_steps=settings.steps, shift=settings.shift,
            seed=settings.seed)
        self.conditions = backbone.embed(self.captions)
        shape = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
        self.sizes = (int(np.prod(shape)), int(np.prod(shape)) * (shape[2] - 1) // shape[2])  # values: key, chained
        key, chained = (min(24, max(1, size.bit_length() - 1)) for size in self.sizes)
        self.bits = key, chained
        self.budget = settings.budget(len(source), source.fps, self.size, self.fixed_bytes())
        self.noise = self._noise_fields()
        self.packings = packings(self.noise, self.bits)
        self.chunks = ChunkCoder(Sampling(backbone, self.header), settings, self.noise, self.bits, self.packings,
                                 self.masks)

    def _noise_fields(self) -> dict[str, int]:
        """NOISE_FIELDS and branch of all chunks, for this budget."""
        settings, count = self.settings, len(self.spans)
        rate = 8 * self.budget / count / self.sizes[-1 if count > 1 else 0]
        end = settings.jump(rate)
        steps = settings.steps - 1 if end else settings.steps
        branch = usual_branch(min(self.bits) + 1, 8 * self.budget / count / steps)
        return {"eta": ETA_UNIT, "first": 0, "steps": steps, "start": 0, "end": end,
                "branch": branch}

    def fixed_bytes(self) -> int:
        """About what the file holds besides indices and sound: header, framing, captions, profiles, chunk heads."""
        captions = sum(len(caption.encode()) for caption in self.captions)
        shared = 22 if self.collection else 0
        return 120 + shared + captions + (12 + self.settings.steps // 2) * len(self.captions) + 4 * len(self.spans)

    def file_bytes(self, scenes: Sequence[Scene], chunks: Sequence[Chunk]) -> int:
        """Size of the file with these scenes and chunks, sound apart."""
        code = SequenceCode(self.noise, self.bits, tuple(scenes), tuple(chunks))
        return len(bitstream.to_bytes(self.bitstream(code, *self.size)))

    @contextmanager
    def adapted(self) -> Iterator[SceneThetas | None]:
        """Within it the model is adapted by the collection, and scenes get their θ by what it yields, if they have one.
        """
        with collection.applied(self.collection, self.backbone, self.settings.collection):
            if self.spec is None:
                yield None
                return
            with AdaptedModel(self.backbone, self.spec) as model:
                yield SceneThetas(model, self.settings, self.header.shift)

    def run(self, done: Callable[[int, Coded], None] = lambda number, coded: None,
            world: World | None = None) -> SequenceCode | None:
        """Codes every chunk; `done` is called after each with its number. A signal ends it after the chunk at hand.

        Several processes share out the groups; the file is the same whatever their number. The first one plans and puts
        the file together, the others return None.

        Raises VovError when the file would be larger than was asked for.
        """
        here = world or World()
        with self.adapted() as thetas:
            if here.first:
                planned = self.plan(thetas)
            here.barrier()
            if not here.first:
                planned = self.plan(thetas)  # reads what the first one left
            mine = [number for group in groups(self.spans)[here.rank::here.size] for number in group]
            coded = self.code(mine, planned, thetas, done)
            here.barrier()
            if not here.first:
                return None
            if here.size > 1:  # from disk
                coded = self.code(range(len(self.spans)), planned, thetas,
                                  lambda number, one: None if number in mine else done(number, one))
        scenes = [one.scene for one in planned.scenes]
        whole = self.settings.whole(len(self.source), self.source.fps, self.size)
        if whole and (size := self.file_bytes(scenes, coded)) > whole:
            raise VovError(f"the smallest file has {size:,} bytes, {whole:,} were asked for; raise the target, or "
                           "lower `steps`")
        return SequenceCode(self.noise, self.bits, tuple(scenes), tuple(coded))

    def plan(self, thetas: SceneThetas | None) -> VideoPlan:
        """θ, profile and weights of every scene, and the scale of every chunk: all that is decided before coding."""
        whole = self.settings.whole(len(self.source), self.source.fps, self.size)
        ledger = Ledger(self.spans, [self.chunks.latent_frames(span) for span in self.spans], whole,
                        self.budget / len(self.source), self.file_bytes, self.noise["steps"], self.packings)
        scenes: list[ScenePlan] = []
        for number, span in enumerate(self.spans):
            if len(scenes) == span.scene:
                spans = [one for one in self.spans if one.scene == span.scene]
                theta = self.theta(number, thetas, scenes[-1].theta if scenes else None, spans) if thetas else None
                view = self.view(number, theta, span, ledger.share())
                scene = Scene(len(spans), view.profile, *(() if theta is None else (theta.symbols, theta.step)))
                ledger.open(scene)
                scenes.append(ScenePlan(scene, view, theta))
            ledger.add()
        return VideoPlan([ScenePlan(scene, replace(one.view, profile=scene.profile), one.theta)
                          for scene, one in zip(ledger.scenes, scenes, strict=True)], ledger.scales)

    def code(self, numbers: Iterable[int], planned: VideoPlan, thetas: SceneThetas | None,
             done: Callable[[int, Coded], None]) -> list[Chunk]:
        """Codes these chunks, whole groups in order, or takes them from disk.

        Only the last decoded frame stays in memory, until the next chunk is coded: memory does not grow with the
        length.
        """
        before, identity, made, bound = None, self.settings_hash(), [], -1
        with signals.graceful() as signalled:
            for number in numbers:
                span = self.spans[number]
                plan = planned.scenes[span.scene]
                if thetas is not None and plan.theta is not None and bound != span.scene:
                    thetas.bind(plan.theta)
                    bound = span.scene
                job = self.job(number, before)
                identity = content_hash(identity if span.chained else self.settings_hash(), number,
                                        self.captions[span.scene], hash_of(plan.theta), plan.view.hash,
                                        planned.scales[number], np.ascontiguousarray(job.frames).data)
                coded = self.chunk(job, identity, plan.view, planned.scales[number])
                before = coded.last
                made.append(coded.chunk)
                done(number, coded)
                if signal := signalled():
                    raise signals.Stopped(signal, f"chunk {number + 1} of {len(self.spans)} saved")
        return made

    def job(self, number: int, before: np.ndarray | None) -> ChunkJob:
        """Chunk `number`, padded with its last frame.

        A chained chunk begins with the last decoded frame, not with its original: the others follow what is there.
        """
        span = self.spans[number]
        before = before if span.chained else None
        frames = list(self.source.read(span.first, span.frames))
        frames = frames if before is None else [before, *frames]
        padded = np.stack(frames + [frames[-1]] * (self.settings.num_frames - len(frames)))
        return ChunkJob(number, span, padded, before, self.conditions[span.scene])

    def theta(self, number: int, thetas: SceneThetas, before: SceneTheta | None, spans: Sequence[Span]) -> SceneTheta:
        """The θ of the scene that begins with chunk `number`, bound; from disk if it was made for just this."""
        shown = thetas.windows(self.source.read, spans)
        fit = {name: value for name, value in vars(self.settings).items() if name.startswith("scene_")}
        identity = content_hash(self.settings_hash(), number, self.captions[spans[0].scene], hash_of(before), fit,
                                *(np.ascontiguousarray(window.frames).data for window in shown))
        name = f"theta{number:06d}"
        if saved := self.store.load(name, identity):
            theta = SceneTheta(saved["symbols"], float(saved["step"]))
        else:
            theta = thetas.fit(shown, self.conditions[spans[0].scene], self.folder / name, before)
            self.store.save(name, identity, symbols=theta.symbols, step=np.array(theta.step))
        thetas.bind(theta)
        return theta

    def view(self, number: int, theta: SceneTheta | None, span: Span, share: int) -> View:
        """What is known of the scene that begins with this chunk; from disk if it was made for just this."""
        job, name = self.job(number, None), f"scene{number:06d}"
        identity = content_hash(self.settings_hash(), number, self.captions[span.scene], hash_of(theta), share,
                                np.ascontiguousarray(job.frames).data)
        if saved := self.store.load(name, identity):
            weights = saved.get("weights")
            return View(saved["profile"],
                        None if weights is None else torch.from_numpy(weights).to(self.backbone.device))
        view = self.chunks.view(job, share)
        kept = {} if view.weights is None else {"weights": view.weights.cpu().numpy()}
        self.store.save(name, identity, profile=view.profile, **kept)
        return view

    def chunk(self, job: ChunkJob, identity: str, view: View, scale: int) -> Coded:
        """A coded chunk; from disk if it was made for just this."""
        name, span = f"chunk{job.number:06d}", job.span
        if saved := self.store.load(name, identity):
            return Coded(Chunk(span.frames, span.chained, scale, saved["symbols"]), saved["last"],
                         float(saved["psnr"]))
        coded = self.chunks.code(job, view, scale)
        self.store.save(name, identity, symbols=coded.chunk.symbols, last=coded.last, psnr=np.array(coded.psnr))
        return coded

    def bitstream(self, code: SequenceCode, width: int, height: int) -> Bitstream:
        """The file without sound; width, height: of the source as displayed."""
        items = tuple(Item(caption, width, height) for caption in self.captions)
        return Bitstream(self.header, items, None, sequence=code, collection=self.collection)

    def settings_hash(self) -> str:
        """What every chunk depends on besides its frames."""
        optional: list[bytes | str] = [self.collection] if self.collection else []
        optional += [self.masks.hash] if self.masks else []
        return content_hash(RULES, self.header, self.noise, self.bits, self.settings.score,
                            self.settings.lookahead_every, *optional)
