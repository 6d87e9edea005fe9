"""Noise for the size or the quality that was asked for: TARGET_BYTES, TARGET_BPP, TARGET_KBPS, TARGET_PSNR."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import geometric_mean
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
TRIES = 20
DB_PER_DOUBLING = 1.5  # first guess of what twice the bytes gain
JUMP = 1.02  # between sizes that are nearer to each other than this factor nothing is looked for
BESIDE = 1.03  # from one to the next of the sizes that are tried around a jump
REACH = 0.5  # dB from the target at which other sizes around the nearest may meet it
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

    Sizes need one search: the plan is cut where the size is met. TARGET_PSNR takes a few: those that were tried tell
    how many bytes the next one should spend, see `following`.

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
    """What the best of some attempts made: the first one within `NEAR_DB` of the PSNR `wanted`, else, with a warning,
    the nearest one.

    spend: bytes of noise of the first attempt; the others lie in least … most. attempt: bytes → (its PSNR, what it
    made).
    Raises OutOfReach when every attempt fell short.
    """
    tried: dict[int, float] = {}
    spend, near, best = min(most, max(least, spend)), float("inf"), None
    while spend is not None and len(tried) < TRIES:
        tried[spend], made = attempt(spend)
        log.info("TARGET_PSNR=%g: %d bytes of noise give %.2f dB", wanted, spend, tried[spend])
        if abs(tried[spend] - wanted) < near:
            near, best = abs(tried[spend] - wanted), made
        if near <= NEAR_DB:
            return best
        spend = following(tried, wanted, least, most)
    if (highest := max(tried.values())) < wanted - NEAR_DB:
        raise OutOfReach(f"TARGET_PSNR={wanted:g}: the most that this model gives with these settings is {highest:.2f} "
                         "dB; ask for less, or raise STEPS")
    log.warning("%s", missed(tried, wanted))
    return best


def missed(tried: dict[int, float], wanted: float) -> str:
    """One line: what was got in place of the PSNR `wanted`, and what else there is, from {bytes: dB}."""
    sides = {"below": max((value for value in tried.values() if value < wanted), default=None),
             "above": min((value for value in tried.values() if value >= wanted), default=None)}
    (_, got), *others = sorted(((side, value) for side, value in sides.items() if value is not None),
                               key=lambda one: abs(one[1] - wanted))
    beyond = "".join(f", and {value:.2f} dB the nearest {side}" for side, value in others)
    return (f"TARGET_PSNR={wanted:g} is missed by {abs(got - wanted):.2f} dB: of {len(tried)} sizes tried {got:.2f} "
            f"dB, which the file has, is the nearest{beyond}; ask for one of these or for TARGET_BYTES, or raise STEPS")


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


def following(tried: dict[int, float], wanted: float, least: int, most: int) -> int | None:
    """How many bytes to try next, from {bytes: dB} of those that were tried; None: nothing is worth a try.

    Each size has a plan of its own for all steps. Where a file is small and steps are few, PSNR over bytes is
    therefore no smooth curve: it can jump by half a dB between two sizes that differ by 1 %, and can fall. So

    1. Where PSNR passes the target between two sizes, the next one lies between them, by interpolation over the
       logarithm of bytes; of several such places at the smallest.
    2. Where all sizes lie on one side of the target, it lies beyond them, by `DB_PER_DOUBLING`.
    3. Where it passes only between sizes less than `JUMP` apart, or bounds end the way, and the target is near:
       around the middle of these places, further and further away by the factor `BESIDE`: as good as at random.
    """
    sizes = sorted(tried)
    passes = [pair for pair in pairwise(sizes) if len({tried[size] < wanted for size in pair}) == 2]
    for low, high in passes:
        if high > max(JUMP * low, low + 1):
            share = (wanted - tried[low]) / (tried[high] - tried[low])
            between = round(low * (high / low) ** min(0.8, max(0.2, share)))
            return min(high - 1, max(low + 1, between))
    nearest = min(sizes, key=lambda size: abs(tried[size] - wanted))
    if not passes:
        end = sizes[-1] if tried[sizes[-1]] < wanted else sizes[0]
        doublings = (wanted - tried[end]) / DB_PER_DOUBLING
        beyond = min(most, max(least, round(end * 2 ** min(3.0, max(-3.0, doublings)))))
        if beyond not in tried:
            return beyond
        if abs(tried[nearest] - wanted) > REACH:
            return None
    middle = geometric_mean([size for pair in passes for size in pair] or [nearest])
    around = (round(middle * BESIDE**power) for step in range(TRIES) for power in (step, -step))
    return next((size for size in around if least <= size <= most and
                 all(max(size, old) > JUMP * min(size, old) for old in tried)), None)
