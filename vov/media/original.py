"""One original that is to be coded: frames, caption, name, and where quality is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vov.media.geometry import fit_geometry
from vov.media.roi import Region

if TYPE_CHECKING:  # --help needs no torch
    from torch import Tensor


@dataclass(frozen=True)
class Original:
    """uint8 RGB frames [T, H, W, 3], their rate, caption, name, and where quality is wanted."""

    frames: np.ndarray
    fps: float
    caption: str
    name: str = ""
    region: Region | None = None

    def fitted(self, width: int, height: int, resize: str) -> np.ndarray:
        """The original at the model's geometry, uint8 [T, height, width, 3]."""
        return fit_geometry(self.frames, width, height, resize)

    def importance(self, width: int, height: int, resize: str, latents: Tensor) -> Tensor | None:
        """What each of its latents [1, C, T, h, w] counts, [1, 1, T, h, w]; None: all the same."""
        if self.region is None:
            return None
        return self.region.latent(width, height, resize, latents.shape).to(latents.device)

    def reference(self, width: int, height: int, resize: str) -> np.ndarray:
        """What the decoder's output is compared with: the original, or its crop when the fit crops."""
        return self.fitted(width, height, resize) if resize == "crop" else self.frames
