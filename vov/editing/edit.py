"""Editing: the θ of one or several fits, a new caption, and how strongly and when each θ acts.

    ΔW = Σ wᵢ Bᵢ Aᵢ        concatenated along the rank, never a dense matrix

A fit comes from a .vov file, one of our checkpoints or one of the reference's; θ is the quantised one where the fit
has a quantiser. Fits may differ in rank, length and adapted layers; they must be of one foundation model. A file of
coded noise alone has no θ: its noise is replayed under the new caption. Whatever is edited is a file in the end, and
decoded as any file is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vov import VovError, media
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import AdaptedModel, make_header
from vov.adapter.quantiser import from_symbols
from vov.bitstream import Bitstream, Item
from vov.config import number_list
from vov.decoding.decode import Decoder, read
from vov.editing.settings import EditConfig
from vov.fitting.settings import FitConfig
from vov.formats.reference import load_reference, refuse_stranger, told_captions, told_hash, told_settings
from vov.model.backbone import Backbone
from vov.model.flow import Velocity


@dataclass(frozen=True, eq=False)
class Adaptation:
    """One fit: θ̂ float32 [d] and what it adapts.

    theta: None of a file of coded noise alone.
    settings: geometry, sampler and the rest as a header or a checkpoint says them (see `load`).
    stream: of a .vov file, else None. caption: "" when the fit does not know it.
    index, items: the number of the picture that is edited, and how many the file holds.
    metadata: of one of our checkpoints, else empty.
    """

    source: str
    theta: Tensor | None
    settings: FitConfig
    num_frames: int
    fps: float
    caption: str = ""
    stream: Bitstream | None = None
    index: int = 0
    items: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> AdapterSpec:
        """What θ adapts."""
        if self.stream:
            return AdapterSpec.of(self.stream.header, self.source)
        known = told_hash(self.metadata, self.source)
        return dataclasses.replace(AdapterSpec.of(self.settings, self.source), index_hash=known)

    @property
    def frames(self) -> int:
        """How many frames the edited item has."""
        return self.stream.sequence.frames if self.stream and self.stream.sequence else self.num_frames

    def original(self, field: str, path: str) -> media.Clip | None:
        """The original in `field`, as it was read for the fit; None when none is given.

        Raises VovError when it is not of the size that the fit was made from.
        """
        if not path:
            return None
        clip = media.read_clip(path, self.frames, fps=self.stream.header.fps if self.stream else 0.0)
        if self.stream:
            item = self.stream.items[0 if self.stream.sequence else self.index]
            media.refuse_other_size(path, clip.frames, item.original_width, item.original_height, field)
        return clip

    def refuse_other_model(self, backbone: Backbone) -> None:
        """Raises VovError when the fit says that it was made with another model."""
        if self.stream and not backbone.recognises(self.stream.header.fingerprint):
            raise VovError(f"{self.source}: was made with another model ({self.stream.header.model_id}); merge and "
                           "edit only fits of the model at hand")
        refuse_stranger(self.metadata, backbone, self.source)

    def as_file(self, backbone: Backbone) -> Bitstream:
        """The file that is edited; of a checkpoint one with a θ of zeros, which `theta` replaces."""
        if self.stream:
            return self.stream
        fit, names = self.settings, ("width", "height", "resize", "sampler", "decode_steps", "shift", "seed",
                                     "guidance")
        fps = self.fps if self.num_frames > 1 else 0.0
        header = make_header(backbone, self.spec, num_frames=self.num_frames, fps=fps,
                             **{name: getattr(fit, name) for name in names})
        items = [Item("", fit.width, fit.height, f"{number}" if self.items > 1 else "") for number in range(self.items)]
        return Bitstream(header, tuple(items), np.zeros(fit.theta_length, np.int32), source=self.source)


def load(path: str | Path, settings: EditConfig, medium: str) -> Adaptation:
    """Reads a .vov file or a checkpoint; what a checkpoint does not say is taken from `settings`.

    medium: "image" or "video"; a .vov file of the other one is refused.
    """
    if not str(path):
        raise VovError("`weights` is not set; give a .vov file or a checkpoint")
    return _load_file(path, settings, medium) if Path(path).suffix == ".vov" else _load_checkpoint(path, settings)


def _load_file(path: str | Path, settings: EditConfig, medium: str) -> Adaptation:
    stream = read(path, medium, settings.decode_limit)
    header, theta, index = stream.header, None, 0
    if stream.symbols is not None:  # no sequence
        index = item_number(settings.item, [item.name for item in stream.items], str(path))
        theta = from_symbols(stream.symbols, header.step) if stream.symbols.any() else None
    fit = FitConfig(width=header.width, height=header.height, resize=header.resize, rank=header.rank,
                    theta_length=header.theta_length, last_k=header.last_k, lora_preset=header.lora_preset,
                    proj_seed=header.proj_seed, decode_steps=header.decode_steps, sampler=header.sampler,
                    shift=header.shift, guidance=header.guidance, seed=header.seed)
    return Adaptation(str(path), theta, fit, header.num_frames, header.fps, stream.items[index].caption, stream, index,
                      len(stream.items))


def _load_checkpoint(path: str | Path, settings: EditConfig) -> Adaptation:
    found = load_reference(path)
    own = {"decode_steps": 50, "seed": 42, "resize": "crop", "sampler": "euler", "guidance": 1.0}
    names = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "shift", *own)
    known = told_settings(found.metadata, names, FitConfig, path)
    facts = told_settings({"config": found.metadata.get("config", {}) | found.metadata}, ("num_frames", "fps"),
                          EditConfig, path)
    fit = FitConfig(**{name: known.get(name, own.get(name, getattr(settings, name, None))) for name in names})
    if found.theta.numel() != fit.theta_length:
        raise VovError(f"{path}: holds θ of length {found.theta.numel()}; set `theta_length`={found.theta.numel()}")
    captions = told_captions(found.metadata, path) or [""]
    index = item_number(settings.item, captions, str(path))
    return Adaptation(str(path), found.theta_hat, fit, facts.get("num_frames", settings.num_frames),
                      facts.get("fps") or settings.fps, captions[index], index=index, items=len(captions),
                      metadata=found.metadata)


def item_number(wanted: str, names: Sequence[str], source: str) -> int:
    """Position of ITEM, a number from 1 or a name, among the items of a file; VovError when it must be given."""
    if len(names) == 1 and not wanted:
        return 0
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    if wanted in names:
        return names.index(wanted)
    few = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise VovError(f"{source}: holds {len(names)} pictures; set `item` to a number from 1 to {len(names)}, or to a "
                   f"name ({few})")


class ScheduledThetas:
    """θ that act with weights of their own in parts of the sampling; in the place of `decode.Thetas`.

    Args:
        adaptations: those with a θ.
        weights: of each. starts, stops: θ number i acts in sampler steps starts[i] ≤ step < stops[i] (0: to the end).
    """

    def __init__(self, backbone: Backbone, adaptations: Sequence[Adaptation], weights: Sequence[float],
                 starts: Sequence[int], stops: Sequence[int]):
        self.thetas = [each.theta for each in adaptations if each.theta is not None]
        self.schedule = list(zip(weights, starts, stops, strict=True))
        self.model = AdaptedModel(backbone, *[each.spec for each in adaptations])
        self.step = 0
        self.bound: list[float] | None = None

    def bind(self, scene: int) -> None:
        """Before a pass: the sampler begins with step 0."""
        self.step, self.bound = 0, None

    def unbind(self) -> None:
        """θ has done its steps (THETA_STEPS of a file)."""
        self.model.unbind()

    def velocity(self, velocity: Velocity) -> Velocity:
        """`velocity` that binds what acts in the step at hand; a sampler calls it once a step."""

        def stepped(x: Tensor, t: float) -> Tensor:
            now = [weight if start <= self.step and (self.step < stop or not stop) else 0.0
                   for weight, start, stop in self.schedule]
            if now != self.bound:
                self.model.bind(*self.thetas, weights=now)
            self.step, self.bound = self.step + 1, now
            return velocity(x, t)

        return stepped

    def close(self) -> None:
        """Gives the model its own layers back."""
        self.model.remove()


@torch.no_grad()
def edit(backbone: Backbone, adaptations: Sequence[Adaptation], settings: EditConfig) -> tuple[np.ndarray, np.ndarray]:
    """(reconstruction of the first fit, edit): uint8 [T, H, W, 3], at the original's size, from equal noise."""
    first, count = adaptations[0], len(adaptations)
    for each in adaptations:
        each.refuse_other_model(backbone)
    weights = number_list("`strength`", settings.strength, count)
    starts, stops = ([int(v) for v in number_list(f"`{name}`", getattr(settings, name), count)]
                     for name in ("start_step", "stop_step"))
    stream = _asked_for(first, first.as_file(backbone), settings)
    if stream.sequence and (set(weights) != {1.0} or any(starts) or any(stops)):
        raise VovError(f"{first.source}: `strength`, `start_step` and `stop_step` are of a fitted θ; leave them unset "
                       "for a video of many chunks")

    def run(caption: str, weights: Sequence[float], starts: Sequence[int], stops: Sequence[int]) -> np.ndarray:
        items = tuple(dataclasses.replace(item, caption=caption) for item in stream.items)
        own = stream.sequence is not None or not fits
        thetas = None if own else ScheduledThetas(backbone, fits, weights, starts, stops)
        asked = dataclasses.replace(stream, items=items)
        with Decoder(asked, backbone, collections=settings.collection, thetas=thetas) as decoder:
            return np.stack(list(decoder.frames(0 if stream.sequence else first.index)))

    numbers = [number for number, each in enumerate(adaptations) if each.theta is not None]
    fits = [adaptations[number] for number in numbers]
    whole = [0] * len(fits)
    known = first.caption or ("" if first.stream else settings.caption)  # a file may say that it has none
    plain = run(settings.base_caption or known,
                [float(number == 0) for number in numbers], whole, whole)
    return plain, run(settings.caption, [weights[number] for number in numbers],
                      [starts[number] for number in numbers], [stops[number] for number in numbers])


def _asked_for(first: Adaptation, stream: Bitstream, settings: EditConfig) -> Bitstream:
    """The first fit's file with the steps, seed, guidance and noise of the edit."""
    header = stream.header
    own_steps, own_seed = settings.steps in (0, header.decode_steps), settings.seed in (-1, header.seed)
    coded = stream.sequence is not None or stream.noise is not None
    replayed = settings.replay_noise or stream.sequence is not None or (coded and first.theta is None)
    if replayed and not coded:
        raise VovError("`replay_noise`=1 needs a .vov file with a noise section, and its own `steps` and `seed`")
    if replayed and not (own_steps and own_seed):
        raise VovError(f"{first.source}: its coded noise is replayed, which takes its own "
                       f"`steps`={header.decode_steps} "
                       f"and `seed`={header.seed}; leave `steps` and `seed` unset")
    if stream.sequence and settings.guidance not in (0, 1):
        raise VovError("`guidance`: a video of many chunks is sampled without; leave it unset")
    if not own_steps:
        header = dataclasses.replace(header, decode_steps=settings.steps, sigmas=())
    header = dataclasses.replace(header, seed=header.seed if own_seed else settings.seed,
                                 guidance=settings.guidance or header.guidance)
    return dataclasses.replace(stream, header=header, noise=stream.noise if replayed else None)
