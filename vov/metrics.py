"""Distances between an original and its reproduction, on uint8 RGB frames at their own size.

One definition of each. Functions take uint8 [T, H, W, 3] (or one picture [H, W, 3]), as NumPy arrays, and work
through the frames in small batches, so memory does not grow with T.

| metric | definition | better |
| --- | --- | --- |
| psnr | 10·log10(255² / mean MSE): the MSE is averaged over all frames first, as the reference code does | up |
| psnr_frames | the same of each frame; its average weighs good frames more than `psnr` does | up |
| ssim | Wang et al. 2004: 11×11 Gaussian, σ = 1.5, K = (.01, .03), no padding, mean over R, G, B | up |
| ms_ssim | Wang et al. 2003, five scales, exponents of the paper, per channel, mean over R, G, B | up |
| seam | how much more the change from frame to frame is wrong at the borders of chunks than inside, dB | 0 |
| flicker | mean |Δ decoded − Δ original| of consecutive frames, in 8-bit levels; 0 for one frame | down |

Those that need a network's weights (LPIPS, DISTS, FVD) are in `perceptual` and `fvd`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from vov import VovError

BATCH_PIXELS = 2**21  # pixels of one batch: 5 frames of 832×480, one of 1080p; about 0.5 GiB of SSIM planes
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of pictures in [0, 1]
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, section 3.2


def check_pair(reference: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as uint8 [T, H, W, 3]; raises VovError unless they are uint8 and of one shape."""
    for name, clip in (("reference", reference), ("decoded", decoded)):
        if clip.dtype != np.uint8 or clip.ndim not in (3, 4) or clip.shape[-1] != 3:
            raise VovError(f"{name} must be uint8 [T, H, W, 3], not {clip.dtype} {list(clip.shape)}")
    if reference.shape != decoded.shape:
        raise VovError(f"reference is {list(reference.shape)}, decoded {list(decoded.shape)}: they must be equal")
    if reference.ndim == 3:
        reference, decoded = reference[None], decoded[None]
    return reference, decoded


def batch_length(height: int, width: int) -> int:
    """Frames of one batch, so that a batch has about BATCH_PIXELS pixels."""
    return max(1, BATCH_PIXELS // (height * width))


def mse_frames(reference: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame, in squared 8-bit levels; exact integer sums. float64 [T]."""
    reference, decoded = check_pair(reference, decoded)
    errors = [np.square(a.astype(np.int32) - b).sum(dtype=np.int64) for a, b in zip(reference, decoded, strict=True)]
    return np.array(errors, np.float64) / reference[0].size


def psnr_of_mse(mse: float) -> float:
    """dB of a mean squared error in squared 8-bit levels; infinity for 0."""
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def seam(errors: np.ndarray, borders: Sequence[int]) -> float | None:
    """How visible the borders of chunks are, in dB: 0 for not at all, above 0 for a jump.

    Args:
        errors: float [T − 1]: `mse_of_change` of frames t and t + 1.
        borders: the t at which another chunk begins with frame t + 1.
    Returns:
        10·log10(mean error at the borders / mean error elsewhere); None where one of them has no frames or no error.
    """
    at = np.zeros(len(errors), bool)
    at[list(borders)] = True
    if at.all() or not at.any() or not errors[~at].mean() or not errors[at].mean():
        return None
    return 10 * math.log10(errors[at].mean() / errors[~at].mean())


def mse_of_change(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Mean squared error of the change between two consecutive frames, both uint8 [2, H, W, 3], in 8-bit levels."""
    changes = [np.diff(clip.astype(np.int32), axis=0) for clip in check_pair(reference, decoded)]
    return float(np.mean(np.square(changes[0] - changes[1])))


def psnr(reference: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR in dB from the mean MSE over all frames and R, G, B; infinity for equal clips."""
    return psnr_of_mse(float(mse_frames(reference, decoded).mean()))


def to_tensor(frames: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 [T, H, W, 3] to float32 [T, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float().div_(255)


def ms_ssim_scales(height: int, width: int) -> int:
    """How many of the five scales a picture can carry: the 11-pixel window must fit at the coarsest one.

    5 from 161 pixels of the shorter side on, 4 from 81, 3 from 41, 2 from 21, 1 (plain SSIM) from 11, else 0.
    """
    side, scales = min(height, width), 0
    while scales < len(MS_SSIM_WEIGHTS) and side >= WINDOW:
        side, scales = (side + 1) // 2, scales + 1
    return scales


def ssim_tensors(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """SSIM of each picture: float32 [B, 3, H, W] in [0, 1] to [B]."""
    return _ssim_and_contrast(x, y)[0].mean(1)


def ms_ssim_tensors(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """MS-SSIM of each picture: float32 [B, 3, H, W] in [0, 1] to [B]; see `both_ssim_tensors`."""
    return both_ssim_tensors(x, y)[1]


def both_ssim_tensors(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SSIM and MS-SSIM of each picture in one go: float32 [B, 3, H, W] in [0, 1] to [B] and [B].

    A picture too small for five scales gets as many as fit, with the exponents scaled to sum to one; the value is
    then not comparable with that of larger pictures. Negative terms count as 0. At odd sizes the first row or
    column is repeated before halving.
    """
    scales = ms_ssim_scales(x.shape[2], x.shape[3])
    weights = MS_SSIM_WEIGHTS[:scales]
    product = first = torch.ones(x.shape[:2], device=x.device)
    for scale, weight in enumerate(weights or (1.0,)):
        if scale:
            x, y = _halve(x), _halve(y)
        ssim_value, contrast = _ssim_and_contrast(x, y)
        first = first if scale else ssim_value
        term = ssim_value if scale == scales - 1 else contrast
        product = product * term.clamp_min(0) ** (weight / sum(weights) if scales < len(MS_SSIM_WEIGHTS) else weight)
    return first.mean(1), product.mean(1)


def ssim(reference: np.ndarray, decoded: np.ndarray, device: torch.device | str = "cpu") -> float:
    """Mean SSIM over the frames; raises VovError below 11×11 pixels."""
    return float(per_frame(ssim_tensors, reference, decoded, device).mean())


def ms_ssim(reference: np.ndarray, decoded: np.ndarray, device: torch.device | str = "cpu") -> float:
    """Mean MS-SSIM over the frames; see `ms_ssim_tensors` for pictures below 161 pixels; VovError below 11."""
    return float(per_frame(ms_ssim_tensors, reference, decoded, device).mean())


def per_frame(metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], reference: np.ndarray,
              decoded: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Runs a metric of pictures ([B, 3, H, W], [B, 3, H, W] → [B]) over a clip in batches; float64 [T]."""
    reference, decoded = check_pair(reference, decoded)
    step = batch_length(*reference.shape[1:3])
    with torch.inference_mode():
        parts = [metric(to_tensor(reference[i:i + step], device), to_tensor(decoded[i:i + step], device)).cpu()
                 for i in range(0, len(reference), step)]
    return torch.cat(parts).double().numpy()


def flicker_sums(reference: np.ndarray, decoded: np.ndarray) -> Iterator[float]:
    """|Δ decoded − Δ original| averaged over the pixels, for each pair of consecutive frames [T, H, W, 3]."""
    error = decoded[0].astype(np.int16) - reference[0]
    for a, b in zip(reference[1:], decoded[1:], strict=True):
        following = b.astype(np.int16) - a  # Δdecoded − Δoriginal is the change of the error
        yield float(np.abs(following - error).mean())
        error = following


def flicker(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Mean |Δ decoded − Δ original| of consecutive frames in 8-bit levels; 0 for a single frame."""
    reference, decoded = check_pair(reference, decoded)
    return float(np.mean(list(flicker_sums(reference, decoded)) or [0.0]))


def _halve(x: torch.Tensor) -> torch.Tensor:
    odd_height, odd_width = x.shape[2] % 2, x.shape[3] % 2
    if odd_height or odd_width:
        x = F.pad(x, (odd_width, 0, odd_height, 0), mode="replicate")
    return F.avg_pool2d(x, 2)


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Separable Gaussian without padding. Shifted sums: on CPUs four times as fast as one-channel convolutions."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * SIGMA**2))
    window /= window.sum()
    for dim in (3, 2):
        length = x.shape[dim] - WINDOW + 1
        total = x.narrow(dim, 0, length) * window[0]
        for shift in range(1, WINDOW):
            total.add_(x.narrow(dim, shift, length), alpha=window[shift])
        x = total
    return x


def _ssim_and_contrast(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the pixels of SSIM and of its contrast-structure term, each [B, 3]."""
    if min(x.shape[2:]) < WINDOW:
        raise VovError(f"SSIM needs pictures of at least {WINDOW}×{WINDOW}, not {x.shape[3]}×{x.shape[2]}")
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x + y * y) - mean_x.square() - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    contrast = (2 * covariance + C2) / (variances + C2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))
