"""The θ of a scene: fitted on windows of it with random noise, so that it serves every chunk of the scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError
from vov.adapter.adapt import AdapterSpec, adapt
from vov.bitstream.symbols import encode_symbols
from vov.decoding import collection
from vov.fitting.fit import Fit, Target
from vov.fitting.rate import RateModel, from_symbols
from vov.fitting.settings import FitConfig
from vov.model.backbone import Backbone, Condition
from vov.model.options import ModelOptions
from vov.runtime.files import content_hash
from vov.runtime.random import Stream, uniform
from vov.sequence.plan import Span
from vov.sequence.settings import SequenceConfig

AUTO_LENGTH = 1024  # d of SCENE_THETA=auto: 0.5 KB at 4 bits an entry
AUTO_SHARE = 0.5  # of a scene's bytes: a θ that takes more is not even tried
SCENE_BITS = 4.0  # of an entry of a scene's θ
BATCH = 8  # windows with fresh noise that a step of the fit sees
MOST_WINDOWS = 32  # of a scene that its θ is fitted to


@dataclass(frozen=True, eq=False)
class SceneTheta:
    """What the file holds of it: symbols int32 [d] in ±128, and the float32 step."""

    symbols: np.ndarray
    step: float

    @property
    def bytes(self) -> int:
        """In the file: coded symbols and step."""
        return len(encode_symbols(self.symbols)) + 6


@dataclass(frozen=True, eq=False)
class Window:
    """Frames uint8 [T, H, W, 3] to fit on; chained: the first of them is known to the decoder."""

    frames: np.ndarray
    chained: bool


def length(settings: SequenceConfig) -> int:
    """d of SCENE_THETA; 0: none. Raises VovError for anything else."""
    text = settings.scene_theta.strip().lower()
    if text == "auto":
        return AUTO_LENGTH
    if not text.isdecimal() or int(text) > 1 << 24:
        raise VovError(f"SCENE_THETA={settings.scene_theta}: is not auto, 0 or a number of entries up to {1 << 24}")
    return int(text)


def spec(settings: SequenceConfig, backbone: Backbone) -> AdapterSpec:
    """The adapter of all scenes: every block of the model."""
    blocks = len(backbone.transformer.get_submodule(backbone.blocks))
    preset = settings.lora_preset or next(iter(backbone.presets))
    return AdapterSpec(settings.rank, length(settings), blocks, preset, 42)


def crop(settings: SequenceConfig, backbone: Backbone) -> tuple[int, int, int] | None:
    """SCENE_CROP as (width, height, frames); None: whole chunks. Raises VovError where the model makes none."""
    if not settings.scene_crop.strip():
        return None
    found = settings.scene_crop.lower().replace("×", "x").split("x")
    if len(found) != 3 or not all(one.strip().isdecimal() for one in found):
        raise VovError(f"SCENE_CROP={settings.scene_crop}: is not WIDTHxHEIGHTxFRAMES, such as 416x240x33")
    width, height, frames = map(int, found)
    if not (1 <= width <= settings.width and 1 <= height <= settings.height and 1 <= frames <= settings.num_frames):
        raise VovError(f"SCENE_CROP={settings.scene_crop}: must lie in WIDTHxHEIGHTxCHUNK_FRAMES, "
                       f"{settings.width}x{settings.height}x{settings.num_frames}")
    try:
        backbone.check_geometry(width, height, frames)
    except VovError as error:
        raise VovError(f"SCENE_CROP={settings.scene_crop}: {error}") from error
    return width, height, frames


class SceneAdapter:
    """The model's adapter while a video is coded: fits a θ for a scene, and makes one the adaptation."""

    def __init__(self, backbone: Backbone, settings: SequenceConfig, shift: float):
        self.backbone, self.settings, self.shift = backbone, settings, shift
        self.spec, self.crop = spec(settings, backbone), crop(settings, backbone)
        self.adapter, projection = adapt(self.spec, backbone, backbone.transformer)
        self.projection = projection.to(backbone.device)

    def bind(self, theta: SceneTheta | None) -> None:
        """Makes θ̂ the adaptation, as the decoder will; None: the frozen model."""
        if theta is None:
            self.adapter.unbind()
            return
        flat = self.projection.expand(from_symbols(theta.symbols, theta.step).to(self.backbone.device))
        self.adapter.bind(self.projection.factors(flat.to(self.backbone.dtype)))

    def windows(self, read: Callable, spans: Sequence[Span]) -> list[Window]:
        """What a scene's θ is fitted to: whole chunks, or crops of SCENE_CROP."""
        if self.crop:
            return crops(read, spans, self.crop, MOST_WINDOWS, self.settings.seed)
        return windows(read, spans, self.settings.num_frames, MOST_WINDOWS)

    def remove(self) -> None:
        """Gives the model its own layers back."""
        self.adapter.remove()

    def fit(self, windows: Sequence[Window], condition: Condition, folder: Path,
            before: SceneTheta | None) -> SceneTheta:
        """θ of these windows, rounded at SCENE_BITS an entry.

        It starts from `before`, the previous scene's, when that explains the windows better than a fresh one does.
        folder: gets the checkpoint, from which a stopped fit goes on.
        """
        job = self.job(windows, condition, folder, {})
        if before is not None:
            theta = from_symbols(before.symbols, before.step).to(self.backbone.device)
            if job.distortion_of(theta) < job.distortion_of(job.theta.detach()):
                job = self.job(windows, condition, folder, {"unilora_theta_d": theta})
        fitted = job.run()
        rate = RateModel.from_theta(fitted.theta, SCENE_BITS)
        return SceneTheta(rate.symbols(fitted.theta).cpu().numpy(), rate.step_value)

    def job(self, windows: Sequence[Window], condition: Condition, folder: Path, start: dict) -> Fit:
        """The fit of one θ to these windows, not yet run."""
        targets = [Target(self.backbone.latents(window.frames), condition, number, window.chained)
                   for number, window in enumerate(windows)]
        content = content_hash(*(np.ascontiguousarray(window.frames).data for window in windows),
                               [window.chained for window in windows])
        return Fit(self.backbone, self.adapter, self.projection, targets, self._fit_settings(), folder, start=start,
                   shift=self.shift, content={"content": content})

    def _fit_settings(self) -> FitConfig:
        ours = self.settings
        model = {field.name: getattr(ours, field.name) for field in dataclasses.fields(ModelOptions)}
        model["quantize"] = "none" if ours.quantize == "auto" else ours.quantize
        return dataclasses.replace(
            FitConfig(**model), width=ours.width, height=ours.height, rank=self.spec.rank,
            theta_length=self.spec.theta_length, last_k=self.spec.last_k, lora_preset=self.spec.lora_preset,
            train_steps=ours.scene_steps, batch_size=BATCH, lr=ours.scene_lr, noise="random",
            timesteps="shifted", seed=ours.seed, save_every=max(1, ours.scene_steps // 20), preview_every=0,
            overwrite=True)


@contextmanager
def adapted(backbone: Backbone, settings: SequenceConfig, shift: float, shared: bytes) -> Iterator[SceneAdapter | None]:
    """Within it the model is adapted by the collection of the name `shared`, and scenes are given their θ by what it
    yields, if they have one. shift: of the σ grid."""
    with collection.applied(shared, backbone, settings.collection):
        adapter = SceneAdapter(backbone, settings, shift) if length(settings) else None
        try:
            yield adapter
        finally:
            if adapter is not None:
                adapter.remove()


def windows(read: Callable, spans: Sequence[Span], size: int, most: int) -> list[Window]:
    """At most `most` chunks of a scene, evenly chosen, as the model will be asked for them.

    Args:
        read: (first, count) → frames of the source.
        spans: the scene's chunks.
        size: frames of a chunk as the model makes it; short ones repeat their last frame.
    """
    chosen = np.unique(np.linspace(0, len(spans) - 1, min(most, len(spans))).round().astype(int))
    found = []
    for number in chosen:
        span = spans[number]
        first = span.first - span.chained
        frames = list(read(first, span.frames + span.chained))
        found.append(Window(np.stack(frames + [frames[-1]] * (size - len(frames))), span.chained))
    return found


def crops(read: Callable, spans: Sequence[Span], size: tuple[int, int, int], most: int, seed: int) -> list[Window]:
    """`most` windows at random places and times of a scene; in every second one the first frame is known, as in chunks
    that follow another, if the scene has such chunks. Arguments as in `windows`; size: width, height, frames."""
    width, height, count = size
    first, end = spans[0].first, spans[-1].first + spans[-1].frames
    found = []
    for number in range(most):
        at = [int(part) for part in uniform(seed, (Stream.OTHER, 4, number), 3) * (1 << 20)]
        begin = first + (at[0] * max(1, end - first - count + 1) >> 20)
        frames = list(read(begin, min(count, end - begin)))
        top, left = (at[n] * (frames[0].shape[n - 1] - side + 1) >> 20 for n, side in ((1, height), (2, width)))
        shown = np.stack(frames + [frames[-1]] * (count - len(frames)))
        found.append(Window(shown[:, top:top + height, left:left + width], len(spans) > 1 and number % 2 == 1))
    return found


def hash_of(theta: SceneTheta | None) -> str:
    """Names a scene's θ, or that there is none."""
    return "" if theta is None else content_hash(theta.symbols.astype("<i4").tobytes(), theta.step)
