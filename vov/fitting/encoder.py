"""Originals to a .vov file by a fit: originals → items → θ (stage 1, stage 2) → symbols → file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vov import VovError, bitstream, media, metrics
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import AdaptedModel, make_header
from vov.adapter.quantiser import to_symbols
from vov.adapter.unilora import Projection
from vov.bitstream import Bitstream, Header, Item, PartSizes
from vov.config import rate_targets
from vov.decoding.limits import check_file
from vov.decoding.sampling import Sampling
from vov.fitting.distributed import World
from vov.fitting.fit import Fit, FitContext, FitItem, Fitted
from vov.fitting.rate import empirical_bits
from vov.fitting.rate_control import FEWEST, MOST, RateControl
from vov.fitting.settings import FitConfig
from vov.media.original import Original
from vov.model.backbone import Backbone
from vov.runtime.files import content_hash

PREVIEWED = 4  # items of an album that are decoded while it is fitted


def header_of(backbone: Backbone, settings: FitConfig, frames: int, fps: float, step: float = 1.0) -> Header:
    """The header of the file that a fit with these settings ends in; step: of θ's quantiser."""
    names = ("width", "height", "resize", "sampler", "decode_steps", "shift", "seed", "guidance")
    return make_header(backbone, AdapterSpec.of(settings), step, num_frames=frames, fps=fps if frames > 1 else 0,
                       **{name: getattr(settings, name) for name in names})


class Encoder:
    """Fits θ to originals, stage by stage, and writes the file; a `with` block gives the model its layers back.

    Args:
        backbone: frozen model.
        originals: one clip, or pictures that share θ.
        settings: of any stage; geometry and UniLoRA must be the same in all.
        world: this process among others.
    """

    def __init__(self, backbone: Backbone, originals: Sequence[Original], settings: FitConfig,
                 world: World | None = None):
        self.backbone, self.originals, self.world = backbone, list(originals), world or World()
        backbone.check_geometry(settings.width, settings.height, self.originals[0].frames.shape[0])
        for original in self.originals:
            Item(original.caption, 1, 1)  # what a file can hold
        self.model = AdaptedModel(backbone, AdapterSpec.of(settings))
        try:
            self.check(settings)
            self._prepare(settings)
        except BaseException:
            self.close()
            raise

    def _prepare(self, settings: FitConfig) -> None:
        """What is fitted: conditions and latents."""
        backbone, width, height = self.backbone, settings.width, settings.height
        self.conditions = backbone.embed([original.caption for original in self.originals])
        latents = [backbone.encode(one.fitted(width, height, settings.resize)) for one in self.originals]
        self.items = [FitItem(x, condition, index, importance=one.importance(width, height, settings.resize, x))
                      for index, (one, x, condition) in
                      enumerate(zip(self.originals, latents, self.conditions, strict=True))]
        self.content = {"content": content_hash(*(part for one in self.originals for part in (
                            one.frames.shape, np.ascontiguousarray(one.frames).data,
                            *([one.region.hash] if one.region else ())))),
                        "captions": content_hash(*(one.caption for one in self.originals))}
        self.notes = {"captions": [one.caption for one in self.originals], "fps": self.originals[0].fps,
                      "num_frames": self.originals[0].frames.shape[0]}

    def check(self, settings: FitConfig) -> None:
        """Raises VovError when the file of a fit with these settings could not be written, or not be read again."""
        stream = self._empty(settings)
        bitstream.to_bytes(stream)
        check_file(stream, "the file of this fit", settings.decode_limit)
        self.rate_control(settings)

    def fit(self, settings: FitConfig, folder: Path, start: dict[str, Tensor] | None = None,
            preview: bool = True) -> Fitted:
        """Runs one stage in `folder`; without `preview` nothing is decoded on the way."""
        context = FitContext(world=self.world, preview=self._previewer(settings, folder) if preview else None,
                             start=start, shift=self.header(settings).shift, content=self.content, notes=self.notes,
                             rate_control=self.rate_control(settings))
        return Fit(self.model, self.items, settings, folder, context).run()

    def wanted_bytes(self, settings: FitConfig) -> int:
        """Size of the whole file that is asked for; 0: none is."""
        shapes = [one.reference(settings.width, settings.height, settings.resize).shape for one in self.originals]
        return rate_targets.whole(settings, shapes, self.originals[0].fps)

    def rate_control(self, settings: FitConfig) -> RateControl | None:
        """What the stage is aimed at; None without a rate term or a target.

        Raises VovError for a size that a θ of this length can only miss.
        """
        name, length = rate_targets.asked(settings), settings.theta_length
        if not name or not settings.lambda_rate:
            return None
        if name == "target_psnr":
            return RateControl(settings.init_bits, settings.train_steps, self.backbone.device,
                               lambda symbols: empirical_bits(symbols) / length, settings.target_psnr,
                               self.quality(settings))
        size, stream = self.wanted_bytes(settings), self._empty(settings)
        empty = len(bitstream.to_bytes(stream))
        bits = 8 * ((1 - rate_targets.SLACK / 3) * size - empty) / length
        if not FEWEST <= bits <= MOST:
            asked, cure = f"`{name}`: {size:,} bytes", "lower" if bits < FEWEST else "raise"
            raise VovError(f"{asked} are {max(bits, 0):.2g} bits for each of {length} entries of θ besides the "
                           f"{empty:,} bytes of everything else, and {FEWEST:g} to {MOST:g} can be had; {cure} "
                           "`theta_length`, or ask for another size")

        def spent(symbols: Tensor) -> float:
            coded = bitstream.to_bytes(dataclasses.replace(stream, symbols=symbols.cpu().numpy()))
            return 8 * (len(coded) - empty) / length
        return RateControl(bits, settings.train_steps, self.backbone.device, spent)

    def quality(self, settings: FitConfig) -> Callable[[Tensor], float]:
        """θ̂ [d] → mean PSNR of the items, decoded and measured as the file will be."""
        sampling = Sampling(self.backbone, self.header(settings))

        def measure(theta: Tensor) -> float:
            self.model.bind(theta)
            values = []
            for index, (one, condition) in enumerate(zip(self.originals, self.conditions, strict=True)):
                shown = media.restore_geometry(sampling.show(condition, index), one.frames.shape[2],
                                               one.frames.shape[1], settings.resize)
                values.append(metrics.psnr(one.reference(settings.width, settings.height, settings.resize), shown))
            return float(np.mean(values))
        return measure

    def header(self, settings: FitConfig, step: float = 1.0) -> Header:
        """`header_of` these originals."""
        return header_of(self.backbone, settings, self.originals[0].frames.shape[0], self.originals[0].fps, step)

    def bitstream(self, settings: FitConfig, fitted: Fitted) -> Bitstream:
        """θ's symbols, the captions and everything the decoder needs."""
        if fitted.step is None:
            raise VovError("stage 1 alone has no quantiser, so there is nothing to write; run stage 2 with "
                           "`lambda_rate`")
        return self._stream(settings, fitted.step, to_symbols(fitted.theta, fitted.step).cpu().numpy())

    def _empty(self, settings: FitConfig) -> Bitstream:
        """The file with a θ of zeros."""
        return self._stream(settings, 1.0, np.zeros(settings.theta_length, np.int32))

    def _stream(self, settings: FitConfig, step: float, symbols: np.ndarray) -> Bitstream:
        items = tuple(Item(caption=one.caption, original_width=one.frames.shape[2],
                           original_height=one.frames.shape[1], name=one.name if len(self.originals) > 1 else "")
                      for one in self.originals)
        return Bitstream(self.header(settings, step), items, symbols)

    def write(self, path: Path, settings: FitConfig, fitted: Fitted) -> PartSizes:
        """Writes the file; returns the bytes of its parts."""
        return bitstream.write(path, self.bitstream(settings, fitted))

    def close(self) -> None:
        """Gives the backbone its own layers back."""
        self.model.remove()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _previewer(self, settings: FitConfig, folder: Path) -> Callable[[Tensor, int], dict[str, float]]:
        sampling = Sampling(self.backbone, self.header(settings))

        def preview(theta: Tensor, done: int) -> dict[str, float]:
            self.model.bind(theta)
            values = []
            for index, (one, condition) in enumerate(zip(self.originals[:PREVIEWED], self.conditions, strict=False)):
                decoded = sampling.show(condition, index)
                target = one.fitted(settings.width, settings.height, settings.resize)
                values.append(metrics.psnr(target, decoded))
                sheet = media.side_by_side(media.contact_sheet(target)[None], media.contact_sheet(decoded)[None])[0]
                media.write_image(folder / "previews" / f"{done:06d}_{index}.png", sheet)
            return {"psnr": float(np.mean(values))}
        return preview


def read_start(path: str, settings: FitConfig, backbone: Backbone, projection: Projection) -> dict[str, Tensor] | None:
    """The tensors of INIT_LORA_PATH (our checkpoint or the reference's) that a fit starts from.

    Raises VovError when the checkpoint says that its θ was spread over other layers, or fitted on another model.
    """
    if not path:
        return None
    from vov.formats.reference import load_reference, refuse_stranger, told_hash

    found = load_reference(path)
    refuse_stranger(found.metadata, backbone, path)
    if told_hash(found.metadata, path) not in (None, projection.hash):
        names = ("rank", "last_k", "lora_preset", "proj_seed")
        told = ", ".join(f"`{name}`={found.metadata[name]}" for name in names
                         if found.metadata.get(name) not in (None, getattr(settings, name)))
        told = told or "another length"
        raise VovError(f"`init_lora_path`={path}: was fitted with other layers or indices ({told}); set these as they "
                       "were")
    return {"unilora_theta_d": found.theta, **found.estimator_state}
