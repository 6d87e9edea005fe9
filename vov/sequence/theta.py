"""The θ of a scene: fitted on windows of it with random noise, so that it serves every chunk of the scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import AdaptedModel
from vov.adapter.quantiser import from_symbols, to_symbols
from vov.bitstream.symbols import encode_symbols
from vov.fitting.fit import Fit, FitContext, FitItem
from vov.fitting.rate import RateModel
from vov.fitting.settings import FitConfig
from vov.model.backbone import Backbone, Condition
from vov.model.options import ModelOptions
from vov.runtime.files import content_hash
from vov.runtime.random import Stream, uniform
from vov.sequence.plan import Span
from vov.sequence.settings import SequenceConfig

BATCH, WINDOWS, BITS = 8, 32, 4.0  # windows a step sees; of a scene at most; bits of an entry of θ


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


def spec_of(settings: SequenceConfig, backbone: Backbone) -> AdapterSpec | None:
    """The adapter of all scenes: every block of the model; None where scenes have no θ."""
    if not settings.scene_theta:
        return None
    blocks = len(list(backbone.transformer.get_submodule(backbone.blocks).children()))
    preset = settings.lora_preset or next(iter(backbone.presets))
    return AdapterSpec(settings.rank, settings.scene_theta, blocks, preset, 42)


def crop(settings: SequenceConfig, backbone: Backbone) -> tuple[int, int, int] | None:
    """SCENE_CROP as (width, height, frames); None: whole chunks. Raises VovError where the model makes none."""
    if not settings.scene_crop.strip():
        return None
    found = settings.scene_crop.lower().replace("×", "x").split("x")
    if len(found) != 3 or not all(one.strip().isdecimal() for one in found):
        raise VovError(f"`scene_crop`={settings.scene_crop}: is not WIDTHxHEIGHTxFRAMES, such as 416x240x33")
    width, height, frames = map(int, found)
    if not (1 <= width <= settings.width and 1 <= height <= settings.height and 1 <= frames <= settings.num_frames):
        raise VovError(f"`scene_crop`={settings.scene_crop}: must lie in WIDTHxHEIGHTxCHUNK_FRAMES, "
                       f"{settings.width}x{settings.height}x{settings.num_frames}")
    try:
        backbone.check_geometry(width, height, frames)
    except VovError as error:
        raise VovError(f"`scene_crop`={settings.scene_crop}: {error}") from error
    return width, height, frames


class SceneThetas:
    """The θ of the scenes while a video is coded: fits them, and makes one the adaptation.

    Args:
        model: adapted as `spec_of` says; its owner removes it.
        shift: of the σ grid.
    """

    def __init__(self, model: AdaptedModel, settings: SequenceConfig, shift: float):
        self.model, self.settings, self.shift = model, settings, shift
        self.crop = crop(settings, model.backbone)

    def bind(self, theta: SceneTheta) -> None:
        """Makes θ̂ the adaptation, as the decoder will."""
        self.model.bind(from_symbols(theta.symbols, theta.step))

    def windows(self, read: Callable, spans: Sequence[Span]) -> list[Window]:
        """What a scene's θ is fitted to: whole chunks, or crops of SCENE_CROP."""
        ours = self.settings
        if self.crop:
            return crops(read, spans, self.crop, WINDOWS, ours.seed)
        return windows(read, spans, ours.num_frames, WINDOWS)

    def fit(self, windows: Sequence[Window], condition: Condition, folder: Path,
            before: SceneTheta | None) -> SceneTheta:
        """θ of these windows, rounded at BITS an entry.

        It starts from `before`, the previous scene's, when that explains the windows better than a fresh one does.
        folder: gets the checkpoint, from which a stopped fit goes on.
        """
        job = self.job(windows, condition, folder, {})
        if before is not None:
            theta = from_symbols(before.symbols, before.step).to(self.model.backbone.device)
            if job.distortion_of(theta) < job.distortion_of(job.theta.detach()):
                job = self.job(windows, condition, folder, {"unilora_theta_d": theta})
        fitted = job.run()
        step = RateModel.from_theta(fitted.theta, BITS).step_value
        return SceneTheta(to_symbols(fitted.theta, step).cpu().numpy(), step)

    def job(self, windows: Sequence[Window], condition: Condition, folder: Path, start: dict) -> Fit:
        """The fit of one θ to these windows, not yet run."""
        items = [FitItem(self.model.backbone.latents(window.frames), condition, number, window.chained)
                 for number, window in enumerate(windows)]
        content = content_hash(*(np.ascontiguousarray(window.frames).data for window in windows),
                               [window.chained for window in windows])
        context = FitContext(start=start, shift=self.shift, content={"content": content})
        return Fit(self.model, items, self._fit_settings(), folder, context)

    def _fit_settings(self) -> FitConfig:
        ours, (spec,) = self.settings, self.model.specs
        model = {field.name: getattr(ours, field.name) for field in dataclasses.fields(ModelOptions)}
        model["quantize"] = "none" if ours.quantize == "auto" else ours.quantize
        return dataclasses.replace(
            FitConfig(**model), width=ours.width, height=ours.height, rank=spec.rank, theta_length=spec.theta_length,
            last_k=spec.last_k, lora_preset=spec.lora_preset, train_steps=ours.scene_steps, batch_size=BATCH,
            lr=ours.scene_lr, noise="random", timesteps="shifted", seed=ours.seed,
            save_every=max(1, ours.scene_steps // 20), preview_every=0, overwrite=True)


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
