"""Noise for the size or the quality that was asked for: TARGET_BYTES, TARGET_BPP, TARGET_KBPS, TARGET_PSNR."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vov import VovError, bitstream, target
from vov.bitstream import Bitstream
from vov.bitstream.reader import varint
from vov.codec import Source
from vov.media import restore_geometry
from vov.metrics import psnr
from vov.model.backbone import Backbone
from vov.scaling.settings import ScalingConfig
from vov.target import NEAR_DB, SIZES

log = logging.getLogger(__name__)
TRIES = 8
DB_PER_DOUBLING = 1.5  # first guess of what twice the bytes gain
LEAST, MOST = 2.0**-10, 8.0  # bits a latent value between which TARGET_PSNR is looked for


class OutOfReach(VovError):
    """A target that the model cannot meet."""


@dataclass(frozen=True)
class Chosen:
    """A file with its noise, and the frames [T, H, W, 3] of each item as the encoder sees them."""

    stream: Bitstream
    frames: list[np.ndarray]


def asked(settings: ScalingConfig) -> str:
    """`target.asked`. Raises VovError for a scheme that can meet no target."""
    name = target.asked(settings)
    if name and (settings.scheme != "atoms" or not settings.scaling):
        raise VovError(f"{name.upper()} needs SCHEME=atoms and SCALING=1: only atoms can be had in any number")
    return name


def whole(settings: ScalingConfig, stream: Bitstream, sources: Sequence[Source]) -> int:
    """Bytes that the whole file may have; 0: no size was asked for."""
    header = stream.header
    shapes = [source.reference(header.width, header.height, header.resize).shape for source in sources]
    return target.whole(settings, shapes, header.fps)


def budgeted(settings: ScalingConfig, stream: Bitstream, size: int) -> ScalingConfig:
    """SCALING_BYTES for a file of at most `size` bytes. Raises VovError when nothing is left for noise."""
    besides = len(bitstream.to_bytes(replace(stream, noise=None))) + 5 + len(varint(size))  # type, length, CRC
    if size - besides < 8:
        raise VovError(f"{asked(settings).upper()}: {size:,} bytes are too few: the file takes {besides:,} without "
                       "noise; raise it")
    return replace(settings, scaling_bytes=size - besides)


def choose(settings: ScalingConfig, stream: Bitstream, sources: Sequence[Source], backbone: Backbone,
           run: Callable[[ScalingConfig], tuple[Bitstream, list[np.ndarray]]]) -> Chosen:
    """The file that was asked for.

    Sizes need one search: the plan is cut where the size is met. TARGET_PSNR takes a few: each tells how many bytes
    the next one should spend, by interpolation of dB over the logarithm of bytes.

    Args:
        run: settings → (file, frames), see `search.scale`.
    Raises:
        VovError: the target cannot be met; says what the model can give.
    """
    name = asked(settings)
    if name in SIZES:
        settings = budgeted(settings, stream, whole(settings, stream, sources))
    if name != "target_psnr":
        return Chosen(*run(settings))
    wanted, tried = settings.target_psnr, {}
    values = math.prod(backbone.latent_shape(stream.header.width, stream.header.height, stream.header.num_frames))
    least, most = (max(16, int(bits / 8 * values * len(sources))) for bits in (LEAST, MOST))
    refuse_beyond(wanted, stream, sources, backbone)
    spend = min(most, max(least, round(values * len(sources) / 64)))
    for _ in range(TRIES):
        made = Chosen(*run(replace(settings, scaling_bytes=spend)))
        tried[spend] = (quality(made.frames, stream, sources), made)
        log.info("TARGET_PSNR=%g: %d bytes of noise give %.2f dB", wanted, spend, tried[spend][0])
        if abs(tried[spend][0] - wanted) <= NEAR_DB:
            return made
        spend = following({bytes_: value for bytes_, (value, _) in tried.items()}, wanted, least, most)
        if spend in tried:
            break
    value, made = min(tried.values(), key=lambda one: abs(one[0] - wanted))
    best = max(one[0] for one in tried.values())
    if best < wanted - NEAR_DB:
        raise OutOfReach(f"TARGET_PSNR={wanted:g}: the most that this model gives with these settings is {best:.2f} "
                       "dB; ask for less, or raise STEPS")
    log.warning("TARGET_PSNR=%g: %.2f dB is as near as the indices allow", wanted, value)
    return made


def refuse_beyond(wanted: float, stream: Bitstream, sources: Sequence[Source], backbone: Backbone) -> None:
    """Raises VovError for a PSNR beyond what the model's autoencoder gives without any loss in between."""
    header = stream.header
    frames = [backbone.decode(backbone.encode(source.fitted(header.width, header.height, header.resize)))
              for source in sources]
    if (ceiling := quality(frames, stream, sources)) < wanted:
        raise VovError(f"TARGET_PSNR={wanted:g}: the model's autoencoder alone gives {ceiling:.2f} dB here, and a file "
                       "gives less; ask for less")


def quality(frames: Sequence[np.ndarray], stream: Bitstream, sources: Sequence[Source]) -> float:
    """Mean PSNR of the items, as `results.report` measures the decoded file."""
    header, found = stream.header, []
    for one, item, source in zip(frames, stream.items, sources, strict=True):
        shown = restore_geometry(one, item.original_width, item.original_height, header.resize)
        found.append(psnr(source.reference(header.width, header.height, header.resize), shown))
    return float(np.mean(found))


def following(tried: dict[int, float], wanted: float, least: int, most: int) -> int:
    """How many bytes to try next, from {bytes: dB} of those that were tried."""
    below = max((spend for spend, value in tried.items() if value < wanted), default=None)
    above = min((spend for spend, value in tried.items() if value >= wanted), default=None)
    if below is not None and above is not None and below < above:
        share = (wanted - tried[below]) / max(tried[above] - tried[below], 1e-6)
        share = min(0.9, max(0.1, share))
        return round(below * (above / below) ** share)
    spend = below if above is None else above
    doublings = (wanted - tried[spend]) / DB_PER_DOUBLING
    return min(most, max(least, round(spend * 2 ** min(3.0, max(-3.0, doublings)))))
