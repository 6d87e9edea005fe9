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

import numpy as np
import torch
from torch import Tensor

from vov import VovError, bitstream, media, metrics
from vov.bitstream import Bitstream, Header, Item
from vov.bitstream.header import MAX_PIXELS
from vov.bitstream.noise_code import NoiseCode
from vov.files import content_hash
from vov.fitting.distributed import World
from vov.fitting.fit import Fit, Fitted, Target
from vov.fitting.rate import RateModel, from_symbols, theta_hat
from vov.fitting.settings import FitConfig
from vov.model.adapt import AdapterSpec, adapt
from vov.model.backbone import Backbone, Condition
from vov.model.flow import Velocity, decoder_noise, refuse_not_finite, sample
from vov.model.unilora import Adapter, Projection
from vov.scaling.replay import Replay, levels

MAX_ENLARGEMENT = 32  # of a decoded side beside the coded one


@dataclass(frozen=True)
class Source:
    """One original: uint8 RGB [T, H, W, 3], its rate, caption and name."""

    frames: np.ndarray
    fps: float
    caption: str
    name: str = ""

    def fitted(self, width: int, height: int, resize: str) -> np.ndarray:
        """The original at the model's geometry, uint8 [T, height, width, 3]."""
        return media.fit_geometry(self.frames, width, height, resize)

    def reference(self, width: int, height: int, resize: str) -> np.ndarray:
        """What the decoder's output is compared with: the original, or its crop when the fit crops."""
        return self.fitted(width, height, resize) if resize == "crop" else self.frames


class Decoder:
    """An adapted backbone and a header: turns θ̂ into frames. Encoder previews and files share this path.

    Attributes:
        noise_code: coded noise to inject while sampling, or None.
    """

    noise_code: NoiseCode | None = None
    source = "this fit"  # for errors

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
        decoder = cls(backbone, header, adapter, projection.to(backbone.device))
        decoder.source = source
        return decoder

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
        header = self.header
        size = math.prod(self.backbone.latent_shape(header.width, header.height, header.num_frames))
        self.noise_code = NoiseCode.from_bytes(section, header, size, items, f"{source}: noise")

    @torch.no_grad()
    def latents(self, theta: Tensor, condition: Condition, index: int = 0) -> Tensor:
        """Samples item `index`: normalised latents [1, C, T, h, w]."""
        self.bind(theta)
        replay = self.noise_code and Replay(self.noise_code, self.sigmas, self.header.seed, index, self.adapter.unbind)
        found = sample(self.velocity(condition), self.noise(index), self.sigmas, self.header.sampler, replay)
        return refuse_not_finite(found, self.source)

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
        check_sizes(settings, [source.frames.shape[2:0:-1] for source in self.sources], "the originals",
                    self.sources[0].frames.shape[0])
        for source in self.sources:
            if not source.caption.strip():
                raise VovError(f"{source.name or 'the source'}: the caption is empty; set CAPTION or fill CAPTION_FILE")
        self.conditions = backbone.embed([source.caption for source in self.sources])
        latents = [backbone.encode(source.fitted(width, height, settings.resize)) for source in self.sources]
        self.targets = [Target(*pair, index) for index, pair in enumerate(zip(latents, self.conditions, strict=True))]
        self.content = {"content": content_hash(*(part for source in self.sources for part in (
                            source.frames.shape, np.ascontiguousarray(source.frames).data))),
                        "captions": content_hash(*(source.caption for source in self.sources))}
        self.notes = {"captions": [source.caption for source in self.sources], "fps": self.sources[0].fps,
                      "num_frames": self.sources[0].frames.shape[0]}
        self.adapter, projection = adapt(AdapterSpec.of(settings), backbone, backbone.transformer)
        self.projection = projection.to(backbone.device)

    def fit(self, settings: FitConfig, folder: Path, start: dict[str, Tensor] | None = None,
            preview: bool = True) -> Fitted:
        """Runs one stage in `folder`; without `preview` nothing is decoded on the way."""
        fit = Fit(self.backbone, self.adapter, self.projection, self.targets, settings, folder, world=self.world,
                  preview=self._previewer(settings, folder) if preview else None, start=start,
                  shift=native_shift(self.backbone, settings), content=self.content, notes=self.notes)
        return fit.run()

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


def decode_file(path: str | Path, backbone: Backbone) -> list[media.Clip]:
    """The decoder: every item of a file as frames at the original size (a cropped clip: at the crop's)."""
    stream = bitstream.read(path)
    header = stream.header
    check_sizes(header, [(item.original_width, item.original_height) for item in stream.items], str(path))
    with Decoder.for_file(backbone, header, str(path)) as decoder:
        if stream.noise is not None:
            decoder.read_noise(stream.noise, len(stream.items), str(path))
        theta = from_symbols(stream.symbols, header.step)
        conditions = backbone.embed([item.caption for item in stream.items])
        clips = []
        for index, (item, condition) in enumerate(zip(stream.items, conditions, strict=True)):
            frames = decoder.frames(theta, condition, index)
            clips.append(media.Clip(media.restore_geometry(
                frames, item.original_width, item.original_height, header.resize), header.fps))
    return clips


def check_sizes(coded: Header | FitConfig, originals: Sequence[tuple[int, int]], source: str, frames: int = 0) -> None:
    """Raises VovError when what is decoded would be out of all proportion to what is coded.

    coded: width, height and resize. originals: (width, height) of the items. frames: of each; 0: as the header says.
    """
    frames = frames or coded.num_frames
    shown = [(coded.width, coded.height)] * len(originals) if coded.resize == "crop" else originals
    for width, height in shown:
        if width > MAX_ENLARGEMENT * coded.width or height > MAX_ENLARGEMENT * coded.height:
            raise VovError(f"{source}: original_width, original_height: {width}×{height} is more than "
                           f"{MAX_ENLARGEMENT} times the coded {coded.width}×{coded.height}; code a smaller original, "
                           "or the file is damaged")
    if (total := frames * sum(width * height for width, height in shown)) > MAX_PIXELS:
        raise VovError(f"{source}: original_width, original_height: {total:,} pixels in all, more than {MAX_PIXELS:,}; "
                       "use smaller or fewer originals, or the file is damaged")


def rounded(fitted: Fitted, bits: float) -> Fitted:
    """A fit without a rate term, with the step at which its rounded θ costs `bits` per entry."""
    return dataclasses.replace(fitted, step=RateModel.from_theta(fitted.theta, bits).step_value)
