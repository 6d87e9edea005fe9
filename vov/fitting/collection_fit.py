"""Fits the θ of a collection: fresh noise and time in every sample, items in shuffled turns, each with its caption."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import bitstream
from vov.adapter.adapt import AdapterSpec, adapt
from vov.bitstream import Bitstream, Header, Item
from vov.fitting.distributed import World
from vov.fitting.fit import Fit, Target
from vov.fitting.rate import RateModel, theta_hat
from vov.fitting.settings import FitConfig
from vov.model.backbone import Backbone
from vov.runtime.files import content_hash


@dataclass(frozen=True, eq=False)
class Window:
    """Frames uint8 [T, H, W, 3] at the model's geometry, and what they show (may be empty)."""

    frames: np.ndarray
    caption: str


def shared_settings(settings: FitConfig) -> FitConfig:
    """`settings` for a θ that must serve noise it has never seen, whatever a preset for single items says."""
    return dataclasses.replace(settings, noise="random", timesteps="shifted")


def fit(backbone: Backbone, windows: Sequence[Window], settings: FitConfig, name: str, folder: Path,
        fps: float = 0.0, world: World | None = None) -> Bitstream:
    """The contents of a .vovd file: θ of these windows; at INIT_BITS an entry where there is no rate term.

    Args:
        windows: all of one size.
        name: of the collection, for whoever looks into the file.
        folder: gets the checkpoint, from which a stopped fit goes on.
        fps: of clips; 0 for pictures.
    """
    settings, frames = shared_settings(settings), len(windows[0].frames)
    backbone.check_geometry(settings.width, settings.height, frames)
    shift = settings.shift or backbone.native_shift(settings.width, settings.height)
    adapter, projection = adapt(AdapterSpec.of(settings), backbone, backbone.transformer)
    try:
        projection = projection.to(backbone.device)
        conditions = backbone.embed([window.caption for window in windows])
        targets = [Target(backbone.encode(window.frames), condition, index)
                   for index, (window, condition) in enumerate(zip(windows, conditions, strict=True))]
        content = {"content": content_hash(*(np.ascontiguousarray(window.frames).data for window in windows)),
                   "captions": content_hash(*(window.caption for window in windows))}
        fitted = Fit(backbone, adapter, projection, targets, settings, folder, world=world, shift=shift,
                     content=content).run()
    finally:
        adapter.remove()
    step = fitted.step or RateModel.from_theta(fitted.theta, settings.init_bits).step_value
    symbols = np.rint((theta_hat(fitted.theta, step, "round") / step).cpu().numpy()).astype(np.int32)
    header = Header(
        tree=backbone.tree, model_id=backbone.name, fingerprint=backbone.fingerprint(), dtype=backbone.precision,
        lora_preset=settings.lora_preset, last_k=settings.last_k, rank=settings.rank,
        theta_length=settings.theta_length, proj_seed=settings.proj_seed, index_hash=projection.hash, step=step,
        width=settings.width, height=settings.height, num_frames=frames, fps=fps, resize=settings.resize,
        sampler="euler", decode_steps=settings.decode_steps, shift=shift, seed=settings.seed)
    return Bitstream(header, (Item(name, settings.width, settings.height),), symbols)


def write(path: Path, stream: Bitstream) -> None:
    """Writes a .vovd file, whole or not at all."""
    bitstream.write(path, stream)
