"""Fits the θ of a collection: fresh noise and time in every sample, items in shuffled turns, each with its caption."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import bitstream
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import AdaptedModel
from vov.adapter.quantiser import to_symbols
from vov.bitstream import Bitstream, Item
from vov.fitting.distributed import World
from vov.fitting.encoder import header_of
from vov.fitting.fit import Fit, FitContext, FitItem
from vov.fitting.rate import RateModel
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
    header = header_of(backbone, dataclasses.replace(settings, sampler="euler", guidance=1.0), frames, fps)
    content = {"content": content_hash(*(np.ascontiguousarray(window.frames).data for window in windows)),
               "captions": content_hash(*(window.caption for window in windows))}
    with AdaptedModel(backbone, AdapterSpec.of(settings)) as model:
        conditions = backbone.embed([window.caption for window in windows])
        items = [FitItem(backbone.encode(window.frames), condition, index)
                 for index, (window, condition) in enumerate(zip(windows, conditions, strict=True))]
        context = FitContext(world=world or World(), shift=header.shift, content=content)
        fitted = Fit(model, items, settings, folder, context).run()
    step = fitted.step or RateModel.from_theta(fitted.theta, settings.init_bits).step_value
    return Bitstream(dataclasses.replace(header, step=step), (Item(name, settings.width, settings.height),),
                     to_symbols(fitted.theta, step).cpu().numpy())


def write(path: Path, stream: Bitstream) -> None:
    """Writes a .vovd file, whole or not at all."""
    bitstream.write(path, stream)
