"""Masks that weigh every place as XPSNR does: `ROI=masks ROI_WEIGHT=4 bash video/encode.sh` then codes for that metric.

XPSNR (Helmrich, Bosse, Schwarz, Marpe, Wiegand, "XPSNR: a low-complexity extension of PSNR", ICASSP 2020) weighs the
squared error of a block by the inverse of its activity: what a high-pass filter and the change since the frame before
leave of it. Busy places hide errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError, media
from vov.config import cli, option

BLOCK = 8  # pixels: of one latent value
LEAST = 2.0  # activity below which places are equally quiet
LUMA = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Masks:
    """Of which clip."""

    frames_dir: str = option("", "the clip, at the size at which it is coded (required)")
    out_dir: str = option("", "gets a mask a frame (required)")
    power: float = option(0.5, "of the inverse activity; 1: XPSNR's own", minimum=0)
    weight: float = option(4.0, "white over black, for ROI_WEIGHT", minimum=1)


def activity(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """How busy blocks of BLOCK × BLOCK are: luma [H, W] of two frames → [H / BLOCK, W / BLOCK]."""
    rows, columns = now.shape
    padded = np.pad(now, 1, mode="edge")
    around = sum(weight * padded[1 + y:1 + y + rows, 1 + x:1 + x + columns]
                 for y in (-1, 0, 1) for x in (-1, 0, 1) if (weight := 2 - (x != 0 and y != 0)) and (x or y))
    busy = np.abs(12 * now - around) / 4 + 2 * np.abs(now - before)
    return busy.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).mean((1, 3))


def masks(frames: np.ndarray, power: float, weight: float) -> np.ndarray:
    """uint8 RGB [T, H, W, 3] → masks of that shape: white counts `weight` times as much as black."""
    luma = frames @ LUMA
    found = [activity(luma[k - 1 if k else min(1, len(luma) - 1)], luma[k]) for k in range(len(luma))]
    wanted = np.maximum(np.stack(found), LEAST) ** -power
    low = weight**-0.5
    share = (np.clip(wanted / wanted.mean(), low, low * weight) - low) / (low * weight - low or 1)
    return np.kron((share * 255).round().astype(np.uint8)[..., None], np.ones((1, BLOCK, BLOCK, 3), np.uint8))


def main(settings: Masks) -> None:
    """Writes them."""
    if not settings.frames_dir or not settings.out_dir:
        raise VovError("FRAMES_DIR and OUT_DIR are not both set; see --help")
    frames = media.read_clip(settings.frames_dir).frames
    if any(length % BLOCK for length in frames.shape[1:3]):
        raise VovError(f"{settings.frames_dir}: {frames.shape[2]}×{frames.shape[1]} are no multiples of {BLOCK}; give "
                       "the frames at the size at which they are coded")
    media.write_frames(Path(settings.out_dir), masks(frames, settings.power, settings.weight))


if __name__ == "__main__":
    cli.run(Masks, main, "FRAMES_DIR=clip OUT_DIR=masks python -m studies.masks.run")
