"""Fréchet video distance (Unterthiner et al. 2018) from the logits of I3D, a TorchScript file.

Two samplings of a clip: `grid`, 16-frame 224×224 crops at 4×2×5 evenly spread places (columns × rows × times), as
the paper's evaluation does, so one clip gives 40; and `full`, the whole clip scaled and cropped to 224×224, one
feature per clip. The distance of two Gaussians needs many samples: 40 crops of one clip, let alone a handful of
clips, rank codecs on that clip and nothing more. The number of clips is part of every result.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vov.evaluation.perceptual import Unavailable, find_weights

SIZE, LENGTH = 224, 16  # pixels, frames of one crop
GRID = (4, 2, 5)  # columns, rows, times
FULL_FRAMES = 300  # of the `full` sampling; a longer clip is cut, or its activations would fill the memory


def places(length: int, window: int, count: int) -> list[int]:
    """`count` evenly spread starts of windows in 0 … length, the first at 0, the last flush; fewer if they coincide."""
    return sorted({round(start) for start in np.linspace(0, length - window, count)})


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|μa − μb|² + tr(Ca + Cb − 2(CaCb)^½) of two sets of features [n, D], [m, D]; n, m ≥ 2.

    With A, B the centred features over √(n − 1), Ca = AᵀA and Cb = BᵀB, tr((CaCb)^½) is the sum of the singular
    values of A·Bᵀ (n×m). That is real by construction and stable for n < D, where a matrix square root of the
    singular product CaCb is not.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2 or len(b) < 2:
        raise Unavailable(f"a Fréchet distance needs at least 2 clips on each side, not {len(a)} and {len(b)}")
    offset = a.mean(0) - b.mean(0)
    a, b = (a - a.mean(0)) / np.sqrt(len(a) - 1), (b - b.mean(0)) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(offset @ offset + np.square(a).sum() + np.square(b).sum() - 2 * cross))


class Detector:
    """I3D logits of clips; calls the TorchScript module as StyleGAN-V's release does."""

    def __init__(self, folder: str | Path = "", device: torch.device | str = "cpu"):
        self.path, self.device = find_weights("i3d", folder), torch.device(device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated, but it is what there is of I3D
                self.model = torch.jit.load(str(self.path), map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            raise Unavailable(f"{self.path}: not a TorchScript module; fetch it again with: "
                              "WHAT=metrics bash scripts/fetch_models.sh") from error

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """uint8 [n, T ≥ 10, 224, 224, 3] → logits float64 [n, 400], a few clips at a time."""
        step = 8 if self.device.type == "cuda" else 2
        parts = []
        for start in range(0, len(clips), step):
            x = torch.from_numpy(np.ascontiguousarray(clips[start:start + step])).to(self.device)
            x = x.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            parts.append(self.model(x, rescale=False, resize=False, return_features=True).double().cpu().numpy())
        return np.concatenate(parts)


class Sampler:
    """Collects both samplings of one clip while its frames pass by, so that the clip is never in memory.

    Args:
        frames, height, width: of the clip; below 224 pixels it is scaled up to cover 224×224.
    Raises:
        Unavailable: fewer than 16 frames.
    """

    def __init__(self, frames: int, height: int, width: int):
        if frames < LENGTH:
            raise Unavailable(f"FVD needs clips of at least {LENGTH} frames, not {frames}")
        scale = max(1.0, SIZE / min(height, width))
        self.size = (max(SIZE, round(height * scale)), max(SIZE, round(width * scale)))
        self.times = places(frames, LENGTH, GRID[2])
        self.corners = [(top, left) for top in places(self.size[0], SIZE, GRID[1])
                        for left in places(self.size[1], SIZE, GRID[0])]
        self._open: dict[int, list[np.ndarray]] = {}
        self._full: list[np.ndarray] = []
        self._index = 0

    def add(self, frame: np.ndarray) -> Iterator[np.ndarray]:
        """Takes the next frame [H, W, 3]; yields the crops [8, 16, 224, 224, 3] of every window that it completes."""
        if self._index < FULL_FRAMES:
            self._full.append(_cover(frame, (SIZE, SIZE)))
        frame = _cover(frame, self.size)
        if self._index in self.times:
            self._open[self._index] = []
        crops = np.stack([frame[top:top + SIZE, left:left + SIZE] for top, left in self.corners])
        for start, collected in list(self._open.items()):
            collected.append(crops)
            if len(collected) == LENGTH:
                yield np.stack(self._open.pop(start), axis=1)
        self._index += 1

    def full(self) -> np.ndarray:
        """The clip as one sample, uint8 [1, T, 224, 224, 3]."""
        return np.stack(self._full)[None]


def _cover(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales [H, W, 3] to cover size (height, width), antialiased, and cuts the centre."""
    height, width = frame.shape[:2]
    if (height, width) == size:
        return frame
    scale = max(size[0] / height, size[1] / width)
    target = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    x = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=target, mode="bilinear", align_corners=False, antialias=True)
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    x = x[0, :, top:top + size[0], left:left + size[1]]
    return x.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
