"""Real pictures and clips made from them for the tests of evaluation."""

from __future__ import annotations

import numpy as np
from skimage import data


def photograph(height: int, width: int, which: str = "astronaut") -> np.ndarray:
    """uint8 [height, width, 3] out of a photograph that scikit-image carries."""
    picture = getattr(data, which)()
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top:top + height, left:left + width])


def panning(frames: int, height: int, width: int, speed: int = 2, which: str = "astronaut") -> np.ndarray:
    """uint8 [frames, height, width, 3]: a camera that moves to the right over a photograph, `speed` pixels a frame."""
    wide = photograph(height, width + speed * (frames - 1), which)
    return np.stack([wide[:, speed * t:speed * t + width] for t in range(frames)])


def noisy(clip: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """The clip plus Gaussian noise of `sigma` 8-bit levels."""
    noise = np.random.default_rng(seed).normal(0, sigma, clip.shape)
    return np.clip(clip + noise, 0, 255).round().astype(np.uint8)
