"""Noise for the size or the quality that was asked for: TARGET_BYTES, TARGET_BPP, TARGET_KBPS, TARGET_PSNR."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import geometric_mean
from typing import Any, TypeVar

import numpy as np

from vov import VovError, bitstream
from vov.bitstream import Bitstream
from vov.bitstream.reader import varint
from vov.config import rate_targets
from vov.config.rate_targets import NEAR_DB, SIZES
from vov.media import restore_geometry
from vov.media.original import Original
from vov.metrics import psnr
from vov.model.backbone import Backbone
from vov.noise.options import ScalingConfig

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
    name = rate_targets.asked(settings)
    if name and (settings.scheme != "atoms" or not settings.scaling):
        raise VovError(f"`{name}` needs `scheme`=atoms and `scaling`=1: only atoms can be had in any number")
    return name


def whole(settings: ScalingConfig, stream: Bitstream, sources: Sequence[Original]) -> int:
    """Bytes that the whole file may have; 0: no size was asked for."""
    header = stream.header
    shapes = [source.reference(header.width, header.height, header.resize).shape for source in sources]
    return rate_targets.whole(settings, shapes, header.fps)


def budgeted(settings: ScalingConfig, stream: Bitstream, size: int) -> ScalingConfig:
    """NOISE_BYTES for a file of at most `size` bytes. Raises VovError when nothing is left for noise."""
    besides = len(bitstream.to_bytes(replace(stream, noise=None))) + 5 + len(varint(size))  # type, length, CRC
    if size - besides < 8:
        raise VovError(f"`{asked(settings)}`: {size:,} bytes are too few: the file takes {besides:,} without "
                       "noise; raise it")
    return replace(settings, scaling_bytes=size - besides)


def choose(settings: ScalingConfig, stream: Bitstream, sources: Sequence[Original], backbone: Backbone,
           run: Callable[..., tuple[Bitstream, list[np.ndarray]]]) -> Chosen:
    """The file that was asked for.

    Sizes need one search: the plan is cut where the size is met. TARGET_PSNR takes a few: those that were tried tell
    how many bytes the next one should spend, see `aimed`.

    Args:
        run: (settings, and bytes to spend by the last coded step alone) → (file, frames), see `items.add_noise`.
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

    def attempt(spend: int, planned: int = 0) -> tuple[float, Chosen]:
        of_plan = (spend,) if planned else ()
        made = Chosen(*run(replace(settings, scaling_bytes=planned or spend), *of_plan))
        return quality(made.frames, stream, sources), made

    return aimed(wanted, round(values * len(sources) / 64), least, most, attempt, attempt)


def aimed(wanted: float, spend: int, least: int, most: int, attempt: Callable[[int], tuple[float, T]],
          finer: Callable[[int, int], tuple[float, T]] | None = None) -> T:
    """What the best of some attempts made: the first one within `NEAR_DB` of the PSNR `wanted`, else, with a warning,
    the nearest one.

    Each size has a plan of its own for all steps. Where a file is small and steps are few, PSNR over bytes is
    therefore no smooth curve: it can jump by half a dB between two sizes that differ by 1 %, and can fall. Where
    `following` finds no size, the plan that came nearest is kept, and only what its last step spends is sought, which
    changes PSNR smoothly. Where there is no `finer`, sizes around the jump are tried, as good as at random.

    Args:
        spend: bytes of noise of the first attempt; the others lie in least … most.
        attempt: bytes → (its PSNR, what it made).
        finer: (bytes, bytes that its plan is made for) → likewise.
    Raises:
        OutOfReach: every attempt fell short.
    """
    found, tried = Found(wanted), {}
    kept: set[int] = set()
    now: int | None = min(most, max(least, spend))
    while now is not None and found.going:
        tried[now] = found.note(now, *attempt(now))
        now = following(tried, wanted, least, most)
        if now is None and finer:
            plan = min(sorted(tried.keys() - kept), key=lambda size: abs(tried[size] - wanted))
            kept.add(plan)
            of_plan = {plan: tried[plan]}
            while found.going and abs(tried[plan] - wanted) <= REACH and (
                    now := following(of_plan, wanted, least, most)) is not None:
                of_plan[now] = found.note(now, *finer(now, plan))
        now = now or around(tried, wanted, least, most)
    if found.near > NEAR_DB and (highest := max(found.values)) < wanted - NEAR_DB:
        raise OutOfReach(f"`target_psnr`={wanted:g}: the most that this model gives with these settings is "
                         f"{highest:.2f} dB; ask for less, or raise `steps`")
    if found.near > NEAR_DB:
        log.warning("%s", missed(found.values, wanted))
    return found.made


class Found:
    """The PSNRs of all attempts, and what the one nearest to `wanted` made."""

    def __init__(self, wanted: float):
        self.wanted, self.near = wanted, float("inf")
        self.values: list[float] = []
        self.made: Any = None

    @property
    def going(self) -> bool:
        """Whether there is need of a further attempt, and room for it."""
        return self.near > NEAR_DB and len(self.values) < TRIES

    def note(self, spend: int, value: float, made: Any) -> float:
        """An attempt that spent these bytes; returns its PSNR."""
        log.info("`target_psnr`=%g: %d bytes of noise give %.2f dB", self.wanted, spend, value)
        self.values.append(value)
        if abs(value - self.wanted) < self.near:
            self.near, self.made = abs(value - self.wanted), made
        return value


def missed(values: Sequence[float], wanted: float) -> str:
    """One line: what was got in place of the PSNR `wanted`, and what else there is, from those of all attempts."""
    sides = {"below": max((value for value in values if value < wanted), default=None),
             "above": min((value for value in values if value >= wanted), default=None)}
    (_, got), *others = sorted(((side, value) for side, value in sides.items() if value is not None),
                               key=lambda one: abs(one[1] - wanted))
    beyond = "".join(f", and {value:.2f} dB the nearest {side}" for side, value in others)
    return (f"`target_psnr`={wanted:g} is missed by {abs(got - wanted):.2f} dB: of {len(values)} attempts {got:.2f} "
            f"dB, which the file has, is the nearest{beyond}; ask for one of these or for `target_bytes`, or raise "
            "`steps`")


def refuse_beyond(wanted: float, stream: Bitstream, sources: Sequence[Original], backbone: Backbone) -> None:
    """Raises VovError for a PSNR beyond what the model's autoencoder gives without any loss in between."""
    header = stream.header
    frames = [backbone.decode(backbone.encode(source.fitted(header.width, header.height, header.resize)))
              for source in sources]
    if (ceiling := quality(frames, stream, sources)) < wanted:
        raise VovError(f"`target_psnr`={wanted:g}: the model's autoencoder alone gives {ceiling:.2f} dB here, and a "
                       "file gives less; ask for less")


def quality(frames: Sequence[np.ndarray], stream: Bitstream, sources: Sequence[Original]) -> float:
    """Mean PSNR of the items, as `run_report.report` measures the decoded file."""
    header, found = stream.header, []
    for one, item, source in zip(frames, stream.items, sources, strict=True):
        shown = restore_geometry(one, item.original_width, item.original_height, header.resize)
        found.append(psnr(source.reference(header.width, header.height, header.resize), shown))
    return float(np.mean(found))


def following(tried: dict[int, float], wanted: float, least: int, most: int) -> int | None:
    """How many bytes to try next, from {bytes: dB} of those that were tried; None: nothing follows from them.

    Where PSNR passes the target between two sizes, the next one lies between them, by interpolation over the logarithm
    of bytes; of several such places at the smallest, of sizes less than `JUMP` apart never. Where all lie on one side
    of the target, it lies beyond them, by `DB_PER_DOUBLING`.
    """
    sizes, passes = sorted(tried), passing(tried, wanted)
    for low, high in passes:
        if high > max(JUMP * low, low + 1):
            share = (wanted - tried[low]) / (tried[high] - tried[low])
            between = round(low * (high / low) ** min(0.8, max(0.2, share)))
            return min(high - 1, max(low + 1, between))
    if passes:
        return None
    end = sizes[-1] if tried[sizes[-1]] < wanted else sizes[0]
    doublings = (wanted - tried[end]) / DB_PER_DOUBLING
    beyond = min(most, max(least, round(end * 2 ** min(3.0, max(-3.0, doublings)))))
    return None if beyond in tried else beyond


def around(tried: dict[int, float], wanted: float, least: int, most: int) -> int | None:
    """A size further and further away, by the factor `BESIDE`, from the middle of where PSNR passes the target; where
    it does not, from the nearest one, if that is within `REACH`. None: there is none."""
    passes, nearest = passing(tried, wanted), min(tried, key=lambda size: abs(tried[size] - wanted))
    if not passes and abs(tried[nearest] - wanted) > REACH:
        return None
    middle = geometric_mean([size for pair in passes for size in pair] or [nearest])
    sizes = (round(middle * BESIDE**power) for step in range(TRIES) for power in (step, -step))
    return next((size for size in sizes if least <= size <= most and
                 all(max(size, old) > JUMP * min(size, old) for old in tried)), None)


def passing(tried: dict[int, float], wanted: float) -> list[tuple[int, int]]:
    """Neighbours in size of which one has less than the PSNR `wanted` and the other has not."""
    return [pair for pair in pairwise(sorted(tried)) if len({tried[size] < wanted for size in pair}) == 2]
