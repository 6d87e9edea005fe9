"""Noise for the size or the quality that was asked for: TARGET_BYTES, TARGET_BPP, TARGET_KBPS, TARGET_PSNR."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

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

T = TypeVar("T")
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
    wanted = settings.target_psnr
    values = math.prod(backbone.latent_shape(stream.header.width, stream.header.height, stream.header.num_frames))
    least, most = (max(16, int(bits / 8 * values * len(sources))) for bits in (LEAST, MOST))
    refuse_beyond(wanted, stream, sources, backbone)

    def attempt(spend: int) -> tuple[float, Chosen]:
        made = Chosen(*run(replace(settings, scaling_bytes=spend)))
        return quality(made.frames, stream, sources), made

    return aimed(wanted, round(values * len(sources) / 64), least, most, attempt)


def aimed(wanted: float, spend: int, least: int, most: int, attempt: Callable[[int], tuple[float, T]]) -> T:
    """What the best of a few attempts made: the first one within `NEAR_DB` of the PSNR `wanted`.

    spend: bytes of noise of the first attempt; the others lie in least … most. attempt: bytes → (its PSNR, what it
    made).
    Raises OutOfReach when every attempt fell short.
    """
    tried: dict[int, float] = {}
    spend, near, best = min(most, max(least, spend)), float("inf"), None
    for _ in range(TRIES):
        tried[spend], made = attempt(spend)
        log.info("TARGET_PSNR=%g: %d bytes of noise give %.2f dB", wanted, spend, tried[spend])
        if abs(tried[spend] - wanted) < near:
            near, best = abs(tried[spend] - wanted), made
        if near <= NEAR_DB:
            return best
        spend = following(tried, wanted, least, most)
        if spend in tried:
            break
    if (highest := max(tried.values())) < wanted - NEAR_DB:
        raise OutOfReach(f"TARGET_PSNR={wanted:g}: the most that this model gives with these settings is {highest:.2f} "
                         "dB; ask for less, or raise STEPS")
    log.warning("TARGET_PSNR=%g: missed by %.2f dB, as near as the indices allow", wanted, near)
    return best


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
