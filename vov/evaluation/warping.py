"""Warping error: does a reproduction move as the original does?

E_warp (Lai et al. 2018, "Learning Blind Video Temporal Consistency", section 3.3): each frame is compared with its
predecessor warped along the *original's* optical flow, where that flow explains the original. A still, blurred clip
scores well, so read it beside the original's own value (`warp_original`) and beside `flicker`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLOW_SIDE = 256  # the flow is estimated with the shorter side at most this long, then scaled up
RADIUS = 4  # of the Lucas–Kanade window, pixels
ITERATIONS = 3  # per level of the pyramid
CONFIDENCE = 50.0  # Lai et al.: a pixel counts exp(−50·error²), error in [0, 1]


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """[B, C, H, W] sampled at p + flow(p), bilinear, edges repeated; flow [B, 2, h, w] in its own pixels, x first."""
    flow = _scale_flow(flow, x.shape[2:])
    height, width = x.shape[2:]
    ys, xs = torch.meshgrid(torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij")
    grid_x = 2 * (xs + flow[:, 0]) / max(width - 1, 1) - 1
    grid_y = 2 * (ys + flow[:, 1]) / max(height - 1, 1) - 1
    return F.grid_sample(x, torch.stack((grid_x, grid_y), -1), padding_mode="border", align_corners=True)


def optical_flow(frame: Tensor, previous: Tensor) -> Tensor:
    """Flow [B, 2, h, w] such that previous(p + flow(p)) ≈ frame(p); inputs [B, 3, H, W] in [0, 1].

    The shorter of h, w is at most FLOW_SIDE, and the flow is in pixels of that size; `warp` scales it up.

    Pyramidal Lucas–Kanade (Bouguet 2001) with a box window at every pixel: no weights, good to a fraction of a
    pixel on textured, unoccluded motion, which is where `warping_errors` looks.
    """
    size = frame.shape[2:]
    scale = min(1.0, FLOW_SIDE / min(size))
    small = tuple(max(1, round(side * scale)) for side in size)
    a, b = (_to_size(x.mean(1, keepdim=True), small) for x in (frame, previous))
    sizes = [small]
    while min(sizes[-1]) >= 32:
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    flow = torch.zeros(len(a), 2, *sizes[-1], device=a.device)
    for level in reversed(sizes):
        flow = _scale_flow(flow, level)
        flow = _refine(_to_size(a, level), _to_size(b, level), flow)
    return flow


def warping_errors(flow: Tensor, frame: Tensor, previous: Tensor, *pairs: tuple[Tensor, Tensor]) -> list[float]:
    """Root mean squared warping error in 8-bit levels of (frame, previous) itself and of each further pair.

    The flow and the mask come from the first pair (the original). Tensors [1, 3, H, W] in [0, 1].
    """
    flow = _scale_flow(flow, frame.shape[2:])
    residual = frame - warp(previous, flow)
    mask = torch.exp(-CONFIDENCE * residual.square().sum(1, keepdim=True))
    weight = 3 * mask.sum().clamp_min(1e-9)
    values = [residual] + [x - warp(before, flow) for x, before in pairs]
    return [float(255 * ((mask * value.square()).sum() / weight).sqrt()) for value in values]


def _refine(a: Tensor, b: Tensor, flow: Tensor) -> Tensor:
    padded = F.pad(a, (1, 1, 1, 1), mode="replicate")
    gx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    gy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    xx, xy, yy = _box(torch.cat((gx * gx, gx * gy, gy * gy), 1)).unbind(1)
    xx, yy = xx + 1e-5, yy + 1e-5  # keeps flat areas at rest instead of dividing by zero
    determinant = xx * yy - xy * xy
    for _ in range(ITERATIONS):
        error = a - warp(b, flow)
        ex, ey = _box(torch.cat((gx * error, gy * error), 1)).unbind(1)
        step = torch.stack((yy * ex - xy * ey, xx * ey - xy * ex), 1) / determinant[:, None]
        flow = flow + step.clamp(-2, 2)  # linearisation holds for small steps only
    return flow


def _box(x: Tensor) -> Tensor:
    side = 2 * RADIUS + 1
    x = F.pad(x, (RADIUS,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(x, (1, side), stride=1), (side, 1), stride=1)


def _to_size(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _scale_flow(flow: Tensor, size: tuple[int, ...]) -> Tensor:
    height, width = flow.shape[2:]
    if (height, width) == tuple(size):
        return flow
    factors = torch.tensor([size[1] / width, size[0] / height], device=flow.device).view(1, 2, 1, 1)
    return F.interpolate(flow, size=tuple(size), mode="bilinear", align_corners=False) * factors
