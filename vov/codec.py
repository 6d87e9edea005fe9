"""From sources to a .vov file and back: what both trees do around a fit.

    encode: Source → items → fit (stage 1, stage 2) → symbols → file
    decode: file → header → backbone → θ̂ → sampler → frames
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vov import VovError, bitstream, media, metrics, target
from vov.bitstream import Bitstream, Header, Item
from vov.bitstream.noise_code import NoiseCode
from vov.demand import check_file, refuse_sequence
from vov.files import content_hash
from vov.fitting import collection
from vov.fitting.distributed import World
from vov.fitting.fit import Fit, Fitted, Target
from vov.fitting.rate import RateModel, empirical_bits, from_symbols, theta_hat
from vov.fitting.settings import FitConfig
from vov.fitting.steering import FEWEST, MOST, Steering
from vov.model.adapt import AdapterSpec, adapt
from vov.model.backbone import Backbone, Condition
from vov.model.flow import Velocity, decoder_noise, sample
from vov.model.unilora import Adapter, Projection
from vov.roi import Region
from vov.scaling.replay import Replay, levels, textured, usual_texture

if TYPE_CHECKING:
    from vov.formats.reference import Reference


@dataclass(frozen=True)
class Source:
    """One original: uint8 RGB [T, H, W, 3], its rate, caption, name, and where quality is wanted."""

    frames: np.ndarray
    fps: float
    caption: str
    name: str = ""
    region: Region | None = None

    def fitted(self, width: int, height: int, resize: str) -> np.ndarray:
        """The original at the model's geometry, uint8 [T, height, width, 3]."""
        return media.fit_geometry(self.frames, width, height, resize)

    def importance(self, width: int, height: int, resize: str, latents: Tensor) -> Tensor | None:
        """What each of its latents [1, C, T, h, w] counts, [1, 1, T, h, w]; None: all the same."""
        return self.region and self.region.latent(width, height, resize, latents.shape).to(latents.device)

    def reference(self, width: int, height: int, resize: str) -> np.ndarray:
        """What the decoder's output is compared with: the original, or its crop when the fit crops."""
        return self.fitted(width, height, resize) if resize == "crop" else self.frames


class Decoder:
    """An adapted backbone and a header: turns θ̂ into frames. Encoder previews and files share this path.

    Attributes:
        noise_code: coded noise to inject while sampling, or None.
        texture: see `replay.textured`.
    """

    noise_code: NoiseCode | None = None
    texture = 0.0

    def __init__(self, backbone: Backbone, header: Header, adapter: Adapter, projection: Projection):
        if not header.shift:  # 0 stands for the model's own
            header = dataclasses.replace(header, shift=backbone.native_shift(header.width, header.height))
        self.backbone, self.header, self.adapter, self.projection = backbone, header, adapter, projection

    @classmethod
    def for_file(cls, backbone: Backbone, header: Header, source: str = "the file") -> Decoder:
        """A decoder with an adapter of its own; use it in a `with` block, which gives the model back as it was.

        Raises:
            VovError: the header was made for another model, or this NumPy draws other indices.
        """
        backbone.refuse_stranger(header, source)
        adapter, projection = adapt(AdapterSpec.of(header, source), backbone, backbone.transformer)
        return cls(backbone, header, adapter, projection.to(backbone.device))

    @classmethod
    def for_theta(cls, backbone: Backbone, theta: Tensor, settings: FitConfig, source: Source,
                  index_hash: bytes | None = None) -> Decoder:
        """A decoder for a checkpoint's θ: what a header would say, the settings say."""
        if theta.numel() != settings.theta_length:
            raise VovError(f"the checkpoint holds θ of length {theta.numel()}; set THETA_D_LENGTH={theta.numel()}")
        backbone.check_geometry(settings.width, settings.height, source.frames.shape[0])
        spec = dataclasses.replace(AdapterSpec.of(settings), index_hash=index_hash)
        adapter, projection = adapt(spec, backbone, backbone.transformer)
        return cls(backbone, make_header(backbone, projection, settings, [source]), adapter,
                   projection.to(backbone.device))

    def close(self) -> None:
        """Gives the backbone its own layers back."""
        self.adapter.remove()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sigmas(self) -> list[float]:
        """The σ grid, from 1 to 0."""
        code = self.noise_code
        return levels(self.header, code.start, code.end) if code else levels(self.header)

    def bind(self, theta: Tensor) -> None:
        """Makes θ̂ [d] the adaptation."""
        flat = self.projection.expand(theta.to(self.backbone.device).float())
        self.adapter.bind(self.projection.factors(flat.to(self.backbone.dtype)))

    def noise(self, index: int = 0) -> Tensor:
        """The ε of item `index`, [1, C, T, h, w]."""
        header = self.header
        shape = self.backbone.latent_shape(header.width, header.height, header.num_frames)
        return decoder_noise(header.seed, shape, index, self.backbone.device)

    def velocity(self, condition: Condition) -> Velocity:
        """(x, t) → velocity under a condition, with the file's guidance."""
        guided = self.header.guidance != 1
        negative = self.backbone.embed([self.header.negative_prompt])[0] if guided else None
        return self.backbone.guided(condition, negative, self.header.guidance)

    def read_noise(self, section: bytes, items: int, source: str) -> None:
        """Makes a file's noise section part of decoding. Raises VovError when it does not fit the header."""
        self.backbone.refuse_eight_bits("coded noise")
        header = self.header
        size = math.prod(self.backbone.latent_shape(header.width, header.height, header.num_frames))
        self.noise_code = NoiseCode.from_bytes(section, header, size, items, f"{source}: noise")

    @torch.no_grad()
    def latents(self, theta: Tensor, condition: Condition, index: int = 0) -> Tensor:
        """Samples item `index`: normalised latents [1, C, T, h, w]."""
        self.bind(theta)
        replay = self.noise_code and Replay(self.noise_code, self.sigmas, self.header.seed, index, self.adapter.unbind)
        sigmas = textured(self.sigmas, self.texture)
        return sample(self.velocity(condition), self.noise(index), sigmas, self.header.sampler, replay)

    def frames(self, theta: Tensor, condition: Condition, index: int = 0) -> np.ndarray:
        """Decodes item `index` at the model's geometry: uint8 [T, height, width, 3]."""
        return self.backbone.decode(self.latents(theta, condition, index))


def make_header(backbone: Backbone, projection: Projection, settings: FitConfig, sources: Sequence[Source],
                step: float = 1.0) -> Header:
    """The header of the file that a fit with these settings ends in."""
    frames = sources[0].frames.shape[0]
    fps = sources[0].fps if frames > 1 else 0
    return Header(
        tree=backbone.tree, model_id=backbone.name, fingerprint=backbone.fingerprint(),
        dtype=backbone.precision, lora_preset=settings.lora_preset, last_k=settings.last_k,
        rank=settings.rank, theta_length=settings.theta_length, proj_seed=settings.proj_seed,
        index_hash=projection.hash, step=step, width=settings.width, height=settings.height, num_frames=frames,
        fps=fps, resize=settings.resize, sampler=settings.sampler, decode_steps=settings.decode_steps,
        shift=native_shift(backbone, settings), seed=settings.seed, guidance=settings.guidance)


def native_shift(backbone: Backbone, settings: FitConfig) -> float:
    """SHIFT, or the model's own for this geometry when it is 0."""
    return settings.shift or backbone.native_shift(settings.width, settings.height)


class Encoder:
    """Fits θ to sources, stage by stage, and writes the file.

    Args:
        backbone: frozen model.
        sources: one clip, or images that share θ.
        settings: of any stage; geometry and UniLoRA must be the same in all.
        world: this process among others.
    """

    def __init__(self, backbone: Backbone, sources: Sequence[Source], settings: FitConfig, world: World | None = None):
        self.backbone, self.sources, self.world = backbone, list(sources), world or World()
        width, height = settings.width, settings.height
        backbone.check_geometry(width, height, self.sources[0].frames.shape[0])
        for source in self.sources:
            check_caption(source)
        self.adapter, projection = adapt(AdapterSpec.of(settings), backbone, backbone.transformer)
        self.projection = projection.to(backbone.device)
        try:
            self.check(settings)
            self._prepare(settings)
        except BaseException:
            self.close()
            raise

    def _prepare(self, settings: FitConfig) -> None:
        """What is fitted: conditions and latents."""
        backbone, width, height = self.backbone, settings.width, settings.height
        self.conditions = backbone.embed([source.caption for source in self.sources])
        latents = [backbone.encode(source.fitted(width, height, settings.resize)) for source in self.sources]
        self.targets = [Target(x, condition, index, importance=source.importance(width, height, settings.resize, x))
                        for index, (source, x, condition) in
                        enumerate(zip(self.sources, latents, self.conditions, strict=True))]
        self.content = {"content": content_hash(*(part for source in self.sources for part in (
                            source.frames.shape, np.ascontiguousarray(source.frames).data,
                            *([source.region.hash] if source.region else ())))),
                        "captions": content_hash(*(source.caption for source in self.sources))}
        self.notes = {"captions": [source.caption for source in self.sources], "fps": self.sources[0].fps,
                      "num_frames": self.sources[0].frames.shape[0]}

    def check(self, settings: FitConfig) -> None:
        """Raises VovError when the file of a fit with these settings could not be written, or not be read again."""
        step = Fitted(torch.zeros(settings.theta_length), 1.0, Path())
        stream = self.bitstream(settings, step)
        bitstream.to_bytes(stream)
        check_file(stream, "the file of this fit", settings.decode_limit)
        self.steering(settings)

    def fit(self, settings: FitConfig, folder: Path, start: dict[str, Tensor] | None = None,
            preview: bool = True) -> Fitted:
        """Runs one stage in `folder`; without `preview` nothing is decoded on the way."""
        fit = Fit(self.backbone, self.adapter, self.projection, self.targets, settings, folder, world=self.world,
                  preview=self._previewer(settings, folder) if preview else None, start=start,
                  shift=native_shift(self.backbone, settings), content=self.content, notes=self.notes,
                  steering=self.steering(settings))
        return fit.run()

    def wanted_bytes(self, settings: FitConfig) -> int:
        """Size of the whole file that is asked for; 0: none is."""
        shapes = [s.reference(settings.width, settings.height, settings.resize).shape for s in self.sources]
        return target.whole(settings, shapes, self.sources[0].fps)

    def steering(self, settings: FitConfig) -> Steering | None:
        """What the stage is aimed at; None without a rate term or a target.

        Raises VovError for a size that a θ of this length can only miss.
        """
        name, length = target.asked(settings), settings.theta_length
        if not name or not settings.lambda_rate:
            return None
        if name == "target_psnr":
            return Steering(settings.init_bits, settings.train_steps, self.backbone.device,
                            lambda symbols: empirical_bits(symbols) / length, settings.target_psnr,
                            self.quality(settings))
        size = self.wanted_bytes(settings)
        stream = self.bitstream(settings, Fitted(torch.zeros(length), 1.0, Path()))
        empty = len(bitstream.to_bytes(stream))
        bits = 8 * ((1 - target.SLACK / 3) * size - empty) / length
        if not FEWEST <= bits <= MOST:
            asked, cure = f"{name.upper()}: {size:,} bytes", "lower" if bits < FEWEST else "raise"
            raise VovError(f"{asked} are {max(bits, 0):.2g} bits for each of {length} entries of θ besides the "
                           f"{empty:,} bytes of everything else, and {FEWEST:g} to {MOST:g} can be had; {cure} "
                           "THETA_LENGTH, or ask for another size")

        def spent(symbols: Tensor) -> float:
            coded = bitstream.to_bytes(dataclasses.replace(stream, symbols=symbols.cpu().numpy()))
            return 8 * (len(coded) - empty) / length
        return Steering(bits, settings.train_steps, self.backbone.device, spent)

    def quality(self, settings: FitConfig) -> Callable[[Tensor], float]:
        """θ̂ [d] → mean PSNR of the items, decoded and measured as the file will be."""
        decoder = Decoder(self.backbone, make_header(self.backbone, self.projection, settings, self.sources),
                          self.adapter, self.projection)

        def measure(theta: Tensor) -> float:
            values = []
            for index, (source, condition) in enumerate(zip(self.sources, self.conditions, strict=True)):
                shown = media.restore_geometry(decoder.frames(theta, condition, index), source.frames.shape[2],
                                               source.frames.shape[1], settings.resize)
                values.append(metrics.psnr(source.reference(settings.width, settings.height, settings.resize), shown))
            return float(np.mean(values))
        return measure

    def bitstream(self, settings: FitConfig, fitted: Fitted) -> Bitstream:
        """θ's symbols, the captions and everything the decoder needs."""
        if fitted.step is None:
            raise VovError("stage 1 alone has no quantiser, so there is nothing to write; run stage 2 with LAMBDA_RATE")
        header = make_header(self.backbone, self.projection, settings, self.sources, fitted.step)
        symbols = torch.round(theta_hat(fitted.theta, fitted.step, "round") / fitted.step).to(torch.int32).cpu().numpy()
        items = tuple(Item(caption=s.caption, original_width=s.frames.shape[2], original_height=s.frames.shape[1],
                           name=s.name if len(self.sources) > 1 else "") for s in self.sources)
        return Bitstream(header, items, symbols)

    def write(self, path: Path, settings: FitConfig, fitted: Fitted) -> bitstream.PartSizes:
        """Writes the file; returns the bytes of its parts."""
        return bitstream.write(path, self.bitstream(settings, fitted))

    def close(self) -> None:
        """Gives the backbone its own layers back."""
        self.adapter.remove()

    def _previewer(self, settings: FitConfig, folder: Path) -> Callable[[Tensor, int], dict[str, float]]:
        header = make_header(self.backbone, self.projection, settings, self.sources)
        decoder = Decoder(self.backbone, header, self.adapter, self.projection)

        def preview(theta: Tensor, step: int) -> dict[str, float]:
            values = []
            for source, condition, index in zip(self.sources[:4], self.conditions, range(4), strict=False):
                decoded = decoder.frames(theta, condition, index)
                target = source.fitted(settings.width, settings.height, settings.resize)
                values.append(metrics.psnr(target, decoded))
                sheet = media.side_by_side(media.contact_sheet(target)[None], media.contact_sheet(decoded)[None])[0]
                media.write_image(folder / "previews" / f"{step:06d}_{index}.png", sheet)
            return {"psnr": float(np.mean(values))}
        return preview


def check_caption(source: Source) -> None:
    """Raises VovError for a caption that a file cannot hold; whether one is needed, the trees decide."""
    Item(source.caption, 1, 1)


def read_file(path: str | Path, kind: Backbone | type[Backbone], limit: float = 1.0,
              sequences: bool = False, texture: float = 0.0) -> Bitstream:
    """A .vov file of the tree of `kind`; whatever can be refused is refused here, before any model is loaded.

    limit: DECODE_LIMIT, see `vov.demand`. sequences: whether the caller can do something with one. texture: see
    `replay.textured`; only noise leaves something open that it could fill.
    """
    stream = bitstream.read(path)
    kind.refuse_other_tree(stream.header, str(path))
    if texture > 0 and stream.noise is None and stream.sequence is None:
        raise VovError(f"{path}: TEXTURE={texture:g}: the file holds no coded noise; leave TEXTURE unset")
    if not sequences:
        refuse_sequence(stream, str(path))
    check_file(stream, str(path), limit)
    return stream


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
        told = ", ".join(f"{name.upper()}={found.metadata[name]}" for name in names
                         if found.metadata.get(name) not in (None, getattr(settings, name)))
        raise VovError(f"INIT_LORA_PATH={path}: was fitted with other layers or indices ({told or 'another length'}); "
                       "set these as they were")
    return {"unilora_theta_d": found.theta, **found.estimator_state}


def decode_file(path: str | Path, backbone: Backbone, limit: float = 1.0, texture: float = -1.0) -> list[media.Clip]:
    """The decoder: every item of a file as frames at the original size (a cropped clip: at the crop's).

    limit: DECODE_LIMIT, see `vov.demand`. texture: see `replay.textured`; VovError for a file without noise; less than
    0: `replay.usual_texture`.
    """
    stream = read_file(path, backbone, limit, texture=texture)
    header = stream.header
    shared = collection.applied(stream.collection, backbone, path)
    with shared, Decoder.for_file(backbone, header, str(path)) as decoder:
        if stream.noise is not None:
            decoder.read_noise(stream.noise, len(stream.items), str(path))
            decoder.texture = texture if texture >= 0 else usual_texture(header.num_frames, decoder.noise_code.end)
        theta = from_symbols(stream.symbols, header.step)
        conditions = backbone.embed([item.caption for item in stream.items])
        clips = []
        for index, (item, condition) in enumerate(zip(stream.items, conditions, strict=True)):
            frames = decoder.frames(theta, condition, index)
            clips.append(media.Clip(media.restore_geometry(
                frames, item.original_width, item.original_height, header.resize), header.fps))
    return clips


def decode_checkpoint(path: str | Path, found: Reference, backbone: Backbone, settings: FitConfig,
                      captions: Sequence[str]) -> list[media.Clip]:
    """Pictures that a checkpoint regenerates from captions, at WIDTH×HEIGHT.

    Raises VovError when the checkpoint says that it was fitted on another model, or with other layers.
    """
    from vov.formats.reference import refuse_stranger, told_hash

    refuse_stranger(found.metadata, backbone, path)
    blank = Source(np.zeros((1, settings.height, settings.width, 3), np.uint8), 0.0, "")
    with Decoder.for_theta(backbone, found.theta, settings, blank, told_hash(found.metadata, path)) as decoder:
        return [media.Clip(decoder.frames(found.theta_hat, condition, index), 0.0)
                for index, condition in enumerate(backbone.embed(captions))]


def rounded(fitted: Fitted, bits: float) -> Fitted:
    """A fit without a rate term, with the step at which its rounded θ costs `bits` per entry."""
    return dataclasses.replace(fitted, step=RateModel.from_theta(fitted.theta, bits).step_value)
