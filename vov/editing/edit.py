"""Editing: the θ of one or several fits, a new caption, and how strongly and when each θ acts.

    ΔW = Σ wᵢ Bᵢ Aᵢ        concatenated along the rank, never a dense matrix

A fit comes from a .vov file, one of our checkpoints or one of the reference's; θ is the quantised one where the fit
has a quantiser. Fits may differ in rank, length and adapted layers; they must be of one foundation model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vov import VovError, media
from vov.adapter.adapt import AdapterSpec, adapted_layers, project
from vov.adapter.unilora import Adapter
from vov.bitstream import Header
from vov.bitstream.noise_code import NoiseCode
from vov.codec import read_file
from vov.config import number_list
from vov.decoding.replay import Replay, levels, textured, usual_texture
from vov.editing.settings import EditConfig
from vov.fitting.rate import from_symbols
from vov.fitting.settings import FitConfig
from vov.formats.reference import load_reference, refuse_stranger, told_captions, told_hash, told_settings
from vov.model.backbone import Backbone, Condition
from vov.model.flow import decoder_noise, sample, sigma_grid


@dataclass(frozen=True, eq=False)
class Adaptation:
    """One fit: θ̂ float32 [d] and what it adapts.

    settings: geometry, sampler and the rest as a `Header` or a checkpoint says them (see `load`).
    header, noise: of a .vov file, else None. caption: "" when the fit does not know it.
    index, items: the number of the picture that is edited, and how many the file holds.
    metadata: of one of our checkpoints, else empty.
    original_size: (width, height) of what a .vov file was made from; of a checkpoint None.
    """

    source: str
    theta: Tensor
    settings: FitConfig
    num_frames: int
    fps: float
    caption: str = ""
    header: Header | None = None
    noise: bytes | None = None
    index: int = 0
    items: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)
    original_size: tuple[int, int] | None = None

    @property
    def index_hash(self) -> bytes | None:
        """Of the UniLoRA indices that θ was fitted with, where that is known."""
        return self.header.index_hash if self.header else told_hash(self.metadata, self.source)

    def original(self, field: str, path: str) -> media.Clip | None:
        """The original in `field`, as it was read for the fit; None when none is given.

        Raises VovError when it is not of the size that the fit was made from.
        """
        if not path:
            return None
        clip = media.read_clip(path, self.num_frames, fps=self.header.fps if self.header else 0.0)
        if self.original_size:
            media.refuse_other_size(path, clip.frames, *self.original_size, field)
        return clip


def load(path: str | Path, settings: EditConfig, kind: type[Backbone]) -> Adaptation:
    """Reads a .vov file or a checkpoint; what a checkpoint does not say is taken from `settings`.

    kind: the tree's backbone; a .vov file of the other tree is refused.
    """
    if not str(path):
        raise VovError("WEIGHTS is not set; give a .vov file or a checkpoint")
    if Path(path).suffix == ".vov":
        stream = read_file(path, kind, settings.decode_limit)
        if stream.collection:
            raise VovError(f"{path}: is coded on top of the collection {stream.collection.hex()}, and edits know only "
                           "the frozen model; fit the clip without COLLECTION")
        header = stream.header
        fit = FitConfig(width=header.width, height=header.height, resize=header.resize, rank=header.rank,
                        theta_length=header.theta_length, last_k=header.last_k, lora_preset=header.lora_preset,
                        proj_seed=header.proj_seed, decode_steps=header.decode_steps, sampler=header.sampler,
                        shift=header.shift, guidance=header.guidance, seed=header.seed)
        index = item_number(settings.item, [item.name for item in stream.items], str(path))
        item = stream.items[index]
        return Adaptation(str(path), from_symbols(stream.symbols, header.step), fit, header.num_frames, header.fps,
                          item.caption, header, stream.noise, index, len(stream.items),
                          original_size=(item.original_width, item.original_height))
    found = load_reference(path)
    own = {"decode_steps": 50, "seed": 42, "resize": "crop", "sampler": "euler", "guidance": 1.0}
    names = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "shift", *own)
    known = told_settings(found.metadata, names, FitConfig, path)
    facts = told_settings({"config": found.metadata.get("config", {}) | found.metadata}, ("num_frames", "fps"),
                          EditConfig, path)
    fit = FitConfig(**{name: known.get(name, own.get(name, getattr(settings, name, None))) for name in names})
    if found.theta.numel() != fit.theta_length:
        raise VovError(f"{path}: holds θ of length {found.theta.numel()}; set V_LENGTH={found.theta.numel()}")
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
    raise VovError(f"{source}: holds {len(names)} pictures; set ITEM to a number from 1 to {len(names)}, or to a name "
                   f"({few})")


class Merged:
    """Several adaptations in one model; use it in a `with` block, which gives the model its own layers back."""

    def __init__(self, backbone: Backbone, adaptations: Sequence[Adaptation]):
        for each in adaptations:
            if each.header is not None and not backbone.recognises(each.header.fingerprint):
                raise VovError(f"{each.source}: was made with another model ({each.header.model_id}); merge and edit "
                               "only fits of the model at hand")
            refuse_stranger(each.metadata, backbone, each.source)
        specs = [dataclasses.replace(AdapterSpec.of(each.settings, each.source), index_hash=each.index_hash)
                 for each in adaptations]
        layers = [adapted_layers(spec, backbone, backbone.transformer) for spec in specs]
        self.adapter = Adapter(backbone.transformer, {name for names in layers for name in names})
        try:
            self.factors = [self._factors(backbone, each.theta, *pair) for each, *pair in
                            zip(adaptations, specs, map(set, layers), strict=True)]
        except BaseException:
            self.adapter.remove()
            raise

    def _factors(self, backbone: Backbone, theta: Tensor, spec: AdapterSpec,
                 own: set[str]) -> list[tuple[Tensor, Tensor]]:
        """(A, B) for every layer of the union; of rank 0 where this θ has none."""
        layers = list(zip(self.adapter.names, self.adapter.shapes, strict=True))
        projection = project(spec, [shape for name, shape in layers if name in own]).to(backbone.device)
        flat = projection.expand(theta.to(backbone.device).float()).to(backbone.dtype)
        mine = iter(projection.factors(flat))
        return [next(mine) if name in own else (flat.new_zeros(0, inn), flat.new_zeros(out, 0))
                for name, (out, inn) in layers]

    def bind(self, weights: Sequence[float]) -> None:
        """ΔW = Σ wᵢ Bᵢ Aᵢ; where no weight is left, the frozen model."""
        active = [(f, w) for f, w in zip(self.factors, weights, strict=True) if w]
        if active:
            self.adapter.bind(*[f for f, _ in active], weights=[w for _, w in active])
        else:
            self.adapter.unbind()

    def __enter__(self) -> Merged:
        return self

    def __exit__(self, *_: object) -> None:
        self.adapter.remove()


def scheduled(velocity: Callable[[Tensor, float], Tensor], bind: Callable[[Sequence[float]], None],
              weights: Sequence[float], starts: Sequence[int], stops: Sequence[int]) -> Callable:
    """`velocity` that binds θ number i with its weight in sampler steps starts[i] ≤ step < stops[i] (0: no end).

    Counts its calls: a sampler calls it once a step.
    """
    state = {"step": 0, "bound": None}

    def stepped(x: Tensor, t: float) -> Tensor:
        step = state["step"]
        now = [w if a <= step and (step < b or not b) else 0.0
               for w, a, b in zip(weights, starts, stops, strict=True)]
        if now != state["bound"]:
            bind(now)
        state.update(step=step + 1, bound=now)
        return velocity(x, t)

    return stepped


@torch.no_grad()
def edit(backbone: Backbone, adaptations: Sequence[Adaptation], settings: EditConfig) -> tuple[np.ndarray, np.ndarray]:
    """(reconstruction of the first fit, edit): uint8 [T, H, W, 3], at the first fit's geometry, from equal noise."""
    first, count = adaptations[0], len(adaptations)
    fit = first.settings
    weights = number_list("STRENGTH", settings.strength, count)
    starts, stops = ([int(v) for v in number_list(name.upper(), getattr(settings, name), count)]
                     for name in ("start_step", "stop_step"))
    backbone.check_geometry(fit.width, fit.height, first.num_frames)
    caption = settings.base_caption or first.caption
    conditions = backbone.embed([settings.caption, caption or settings.caption])
    own = settings.steps in (0, fit.decode_steps)
    given = list(first.header.sigmas) if own and first.header else []
    shift = fit.shift or backbone.native_shift(fit.width, fit.height)
    sigmas = given or sigma_grid(settings.steps or fit.decode_steps, shift)
    seed = fit.seed if settings.seed < 0 else settings.seed
    shape = backbone.latent_shape(fit.width, fit.height, first.num_frames)
    guidance = settings.guidance or fit.guidance
    unwanted = first.header.negative_prompt if first.header else ""
    negative = backbone.embed([unwanted])[0] if guidance != 1 else None
    code = None
    if settings.replay_noise:
        if first.noise is None or not own or seed != fit.seed:
            raise VovError("REPLAY_NOISE=1 needs a .vov file with a noise section, and its own STEPS and SEED")
        code = NoiseCode.from_bytes(first.noise, first.header, int(np.prod(shape)), first.items,
                                    f"{first.source}: noise")
        sigmas = textured(levels(dataclasses.replace(first.header, shift=shift), code.start, code.end),
                          usual_texture(first.header.num_frames, code.end))

    def run(condition: Condition, chosen: tuple) -> np.ndarray:
        velocity = scheduled(backbone.guided(condition, negative, guidance), merged.bind, *chosen)
        replay = code and Replay(code, sigmas, seed, first.index, merged.adapter.unbind)
        start = decoder_noise(seed, shape, first.index, backbone.device)
        latents = sample(velocity, start, sigmas, fit.sampler, replay)
        return backbone.decode(latents)

    with Merged(backbone, adaptations) as merged:
        plain = ([1.0] + [0.0] * (count - 1), [0] * count, [0] * count)
        return run(conditions[1], plain), run(conditions[0], (weights, starts, stops))
