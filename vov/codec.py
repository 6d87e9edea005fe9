"""From sources to a .vov file and back: what both trees do around a fit.

    encode: Source → items → fit (stage 1, stage 2) → symbols → file
    decode: file → header → backbone → θ̂ → sampler → frames
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vov import VovError, bitstream, media, metrics
from vov.backbone import Backbone, Condition
from vov.bitstream import Bitstream, Header, Item
from vov.config import FitConfig
from vov.distributed import World
from vov.files import refuse_existing, write_json
from vov.fit import Fit, Fitted
from vov.fit import Item as FitItem
from vov.flow import Velocity, decoder_noise, sample
from vov.rate import RateModel, dequantise, quantise
from vov.scaling import NoiseCode, Replay, levels
from vov.unilora import Adapter, Projection


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

    def __init__(self, backbone: Backbone, header: Header, adapter: Adapter, projection: Projection):
        self.backbone, self.header, self.adapter, self.projection = backbone, header, adapter, projection

    @classmethod
    def for_file(cls, backbone: Backbone, header: Header) -> Decoder:
        """A decoder with an adapter of its own; use it in a `with` block, which gives the model back as it was.

        Raises:
            VovError: the header was made for another model, or this NumPy draws other indices.
        """
        if header.tree != backbone.tree:
            raise VovError(f"this is a file of the {header.tree} tree; decode it with that tree's reconstruct script")
        if header.fingerprint != backbone.fingerprint():
            raise VovError(f"the file was made with {header.model_id}, fingerprint {header.fingerprint.hex()}, but the "
                           f"model at hand has {backbone.fingerprint().hex()}; give the very model it was made with")
        backbone.check_geometry(header.width, header.height, header.num_frames)
        if header.lora_preset not in backbone.presets:
            raise VovError(f"the file adapts layers {header.lora_preset!r}, unknown to this version; update it")
        adapter = Adapter(backbone.transformer, backbone.layers(header.lora_preset, header.last_k))
        slots = header.rank * sum(out + inn for out, inn in adapter.shapes)
        projection = adapter.projection(header.rank, header.theta_length, header.proj_seed) if slots <= 2**31 else None
        if projection is None or header.index_hash != projection.hash:
            adapter.remove()
            raise VovError("UniLoRA indices differ from those the file was made with; install the NumPy version of "
                           "requirements.txt, or the file's header is damaged")
        return cls(backbone, header, adapter, projection.to(backbone.device))

    @classmethod
    def for_theta(cls, backbone: Backbone, theta: Tensor, settings: FitConfig, source: Source) -> Decoder:
        """A decoder for a checkpoint's θ: what a header would say, the settings say."""
        if theta.numel() != settings.theta_length:
            raise VovError(f"the checkpoint holds θ of length {theta.numel()}; set THETA_D_LENGTH={theta.numel()}")
        backbone.check_geometry(settings.width, settings.height, source.frames.shape[0])
        adapter = Adapter(backbone.transformer, backbone.layers(settings.lora_preset, settings.last_k))
        projection = adapter.projection(settings.rank, settings.theta_length, settings.proj_seed).to(backbone.device)
        return cls(backbone, make_header(backbone, projection, settings, [source]), adapter, projection)

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
        return self.noise_code.levels(self.header) if self.noise_code else levels(self.header)

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
        negative = self.backbone.embed([""])[0] if self.header.guidance != 1 else None
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
        return sample(self.velocity(condition), self.noise(index), self.sigmas, self.header.sampler, replay)

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
        fps=fps, fit=settings.resize, sampler=settings.sampler, decode_steps=settings.decode_steps,
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
            if not source.caption.strip():
                raise VovError(f"{source.name or 'the source'}: the caption is empty; set CAPTION or fill CAPTION_FILE")
        self.adapter = Adapter(backbone.transformer, backbone.layers(settings.lora_preset, settings.last_k))
        self.projection = self.adapter.projection(settings.rank, settings.theta_length, settings.proj_seed)
        self.projection.to(backbone.device)
        self.conditions = backbone.embed([source.caption for source in self.sources])
        self.items = [FitItem(backbone.encode(source.fitted(width, height, settings.resize)), condition, index)
                      for index, (source, condition) in enumerate(zip(self.sources, self.conditions, strict=True))]

    def fit(self, settings: FitConfig, folder: Path, start: dict[str, Tensor] | None = None,
            preview: bool = True) -> Fitted:
        """Runs one stage in `folder`; without `preview` nothing is decoded on the way."""
        fit = Fit(self.backbone, self.adapter, self.projection, self.items, settings, folder, world=self.world,
                  preview=self._previewer(settings, folder) if preview else None, start=start,
                  shift=native_shift(self.backbone, settings))
        return fit.run()

    def write(self, path: Path, settings: FitConfig, fitted: Fitted) -> bitstream.PartSizes:
        """Writes θ's symbols, the captions and everything the decoder needs to `path`."""
        if fitted.step is None:
            raise VovError("stage 1 alone has no quantiser, so there is nothing to write; run stage 2 with LAMBDA_RATE")
        header = make_header(self.backbone, self.projection, settings, self.sources, fitted.step)
        theta_hat = quantise(fitted.theta, fitted.step, "round")
        symbols = torch.round(theta_hat / fitted.step).to(torch.int32).cpu().numpy()
        items = tuple(Item(caption=s.caption, original_width=s.frames.shape[2], original_height=s.frames.shape[1],
                           name=s.name if len(self.sources) > 1 else "") for s in self.sources)
        return bitstream.write(path, Bitstream(header, items, symbols))

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


def read_start(path: str) -> dict[str, Tensor] | None:
    """The tensors of INIT_LORA_PATH (our checkpoint or the reference's) that a fit starts from."""
    if not path:
        return None
    from vov.interop import load_reference

    found = load_reference(path)
    return {"unilora_theta_d": found.theta, **found.estimator_state}


def decode_file(path: str | Path, backbone: Backbone) -> list[media.Clip]:
    """The decoder: every item of a file as frames at the original size (a cropped clip: at the crop's)."""
    stream = bitstream.read(path)
    header = stream.header
    with Decoder.for_file(backbone, header) as decoder:
        if stream.noise is not None:
            decoder.read_noise(stream.noise, len(stream.items), str(path))
        theta = dequantise(stream.symbols, header.step)
        conditions = backbone.embed([item.caption for item in stream.items])
        clips = []
        for index, (item, condition) in enumerate(zip(stream.items, conditions, strict=True)):
            frames = decoder.frames(theta, condition, index)
            clips.append(media.Clip(media.restore_geometry(
                frames, item.original_width, item.original_height, header.fit), header.fps))
    return clips


def report(path: Path, clips: Sequence[media.Clip], sources: Sequence[Source], settings: FitConfig,
           seconds: dict[str, float]) -> dict:
    """What a run achieved, from the bytes on disk and the frames that were decoded from them.

    bpp counts every byte of the file over the pixels of all decoded frames; kB/s is bytes over duration.
    """
    total = path.stat().st_size
    rows = []
    for clip, source in zip(clips, sources, strict=True):
        target = source.reference(settings.width, settings.height, settings.resize)
        rows.append({"name": source.name, "psnr": metrics.psnr(target, clip.frames),
                     "ms_ssim": metrics.ms_ssim(target, clip.frames)})
    pixels = sum(clip.frames.shape[0] * clip.frames.shape[1] * clip.frames.shape[2] for clip in clips)
    result = {
        "file": path.name, "bytes": total, "bpp": 8 * total / pixels,
        "psnr": float(np.mean([row["psnr"] for row in rows])),
        "ms_ssim": float(np.mean([row["ms_ssim"] for row in rows])),
        "bytes_by_part": bitstream.parts(path).__dict__, "seconds": seconds, "config_hash": settings.hash(),
        "frames": [len(clip.frames) for clip in clips],
        "size": "×".join(map(str, clips[0].size)),
    }
    if len(clips[0].frames) > 1:
        result["kB_per_s"] = total / 1000 / (len(clips[0].frames) / clips[0].fps)
    if len(rows) > 1:
        result |= {"items": rows, "bytes_per_item": total / len(rows)}
    return result


def rounded(fitted: Fitted, bits: float) -> Fitted:
    """A fit without a rate term, with the step at which its rounded θ costs `bits` per entry."""
    return dataclasses.replace(fitted, step=RateModel.from_theta(fitted.theta, bits).step_value)


def finish(encoder: Encoder, path: Path, settings: FitConfig, fitted: Fitted, clock: Clock) -> str:
    """Writes the file of a fit to `path`, decodes it, and measures what came out.

    Beside the file: the decoded frames and result.json. Closes the encoder. Returns the result as lines to print.
    """
    encoder.write(path, settings, fitted)
    encoder.close()
    clips = clock.time("decode", decode_file, path, encoder.backbone)
    save_items(path.parent, path.stem, [source.name for source in encoder.sources], clips)
    result = report(path, clips, encoder.sources, settings, clock.seconds)
    write_json(path.parent / "result.json", result)
    return table(result)


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Refuses to start when an output is already there, before any time is spent."""
    for path in paths:
        refuse_existing(path, overwrite)


def save_decoded(folder: Path, name: str, clip: media.Clip) -> None:
    """Writes name/00000.png … and, for a clip, name.mp4."""
    if len(clip.frames) == 1:
        media.write_image(folder / f"{name}.png", clip.frames[0])
        return
    media.write_frames(folder / name, clip.frames)
    media.write_video(folder / f"{name}.mp4", clip.frames, clip.fps)


def save_items(folder: Path, stem: str, names: Sequence[str], clips: Sequence[media.Clip]) -> None:
    """Writes one clip as `stem` and several as stem/name, each name without its suffix."""
    for name, clip in zip(names, clips, strict=True):
        save_decoded(folder, f"{stem}/{name.rpartition('.')[0] or name}" if len(clips) > 1 else stem, clip)


def table(result: dict) -> str:
    """The result as lines to print."""
    rows = {"file": result["file"], "bytes": f"{result['bytes']:,}", "bpp": f"{result['bpp']:.5f}"}
    if "kB_per_s" in result:
        rows["kB/s"] = f"{result['kB_per_s']:.3f}"
    rows |= {
        "PSNR": f"{result['psnr']:.2f} dB", "MS-SSIM": f"{result['ms_ssim']:.4f}",
        "bytes for": ", ".join(f"{k} {v:,}" for k, v in result["bytes_by_part"].items() if v),
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items()),
    }
    lines = [f"{name:<10} {value}" for name, value in rows.items()]
    if "items" in result:
        wide = max(len(row["name"]) for row in result["items"])
        lines += [f"{'item':<{wide}}     bytes   PSNR dB  MS-SSIM"]
        lines += [f"{row['name']:<{wide}}  {result['bytes_per_item']:8,.0f}  {row['psnr']:8.2f}  {row['ms_ssim']:7.4f}"
                  for row in result["items"]]
    return "\n".join(lines)


class Clock:
    """Seconds of named parts of a run."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable, *args):
        """Runs work(*args), notes its seconds under `name`, returns its result."""
        start = time.monotonic()
        result = work(*args)
        self.seconds[name] = round(time.monotonic() - start, 2)
        return result
