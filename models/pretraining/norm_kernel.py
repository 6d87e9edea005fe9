"""The VAEs' norm and activation as one GPU kernel each way, its result laid out for a causal convolution.

y = SiLU(x / ‖x‖₂ · √C · γ) over the channels of every pixel. Compiling the same from PyTorch took a minute for every
batch shape; these kernels take seconds for all. `TRITON_INTERPRET=1` runs them on a CPU (tests/test_pretraining.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS, PROGRAMS = 16, 1056  # pixels of a tile; programs that share the tiles, eight to a multiprocessor


@triton.jit
def _forward(x, gamma, y, pixels, per_clip, ahead, root, channels: tl.constexpr, block: tl.constexpr,
             rows: tl.constexpr):
    """Pixel m of clip b goes to row m + (b + 1)·ahead of y."""
    columns = tl.arange(0, block)
    inside = columns < channels
    g = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32) * root
    tile = tl.program_id(0)
    while tile * rows < pixels:
        m = tile * rows + tl.arange(0, rows)
        mask = (m < pixels)[:, None] & inside[None, :]
        v = tl.load(x + m.to(tl.int64)[:, None] * channels + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.maximum(tl.sum(v * v, 1), 1e-24))
        u = v * inverse[:, None] * g[None, :]
        to = (m + (m // per_clip + 1) * ahead).to(tl.int64)
        tl.store(y + to[:, None] * channels + columns[None, :], (u * tl.sigmoid(u)).to(y.dtype.element_ty), mask=mask)
        tile += tl.num_programs(0)


@triton.jit
def _backward(x, gamma, dy, dx, dgamma, pixels, per_clip, ahead, root, channels: tl.constexpr, block: tl.constexpr,
              rows: tl.constexpr):
    """dx of every pixel, and each program's share of dγ."""
    columns = tl.arange(0, block)
    inside = columns < channels
    g = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32) * root
    total = tl.zeros([block], tl.float32)
    tile = tl.program_id(0)
    while tile * rows < pixels:
        m = tile * rows + tl.arange(0, rows)
        mask = (m < pixels)[:, None] & inside[None, :]
        at = m.to(tl.int64)[:, None] * channels + columns[None, :]
        v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        source = (m + (m // per_clip + 1) * ahead).to(tl.int64)
        d = tl.load(dy + source[:, None] * channels + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.maximum(tl.sum(v * v, 1), 1e-24))
        unit = v * inverse[:, None]
        u = unit * g[None, :]
        s = tl.sigmoid(u)
        du = d * s * (1.0 + u * (1.0 - s))
        total += tl.sum(du * unit, 0)
        w = du * g[None, :]
        tl.store(dx + at, (inverse[:, None] * (w - unit * tl.sum(w * unit, 1)[:, None])).to(dx.dtype.element_ty),
                 mask=mask)
        tile += tl.num_programs(0)
    tl.store(dgamma + tl.program_id(0) * channels + columns, total * root, mask=inside)


class NormAct(torch.autograd.Function):
    """x [B·T, C, H, W], channels last, γ [C] → [B·T, C, H, W], or with `ahead` frames [B, C, ahead + T, H, W] whose
    first ones are zero."""

    @staticmethod
    def forward(ctx, x, gamma, t, ahead):
        n, c, h, w = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty(n // t, t + ahead, h, w, c, dtype=x.dtype, device=x.device)
        if ahead:
            y[:, :ahead].zero_()
        ctx.save_for_backward(x, gamma)
        ctx.sizes = (n * h * w, t * h * w, ahead * h * w, c**0.5, c, triton.next_power_of_2(c), ROWS)
        _forward[(min(PROGRAMS, triton.cdiv(n * h * w, ROWS)),)](x, gamma, y, *ctx.sizes)
        return y.permute(0, 4, 1, 2, 3) if ahead else y.flatten(0, 1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, dy):
        x, gamma = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last_3d if dy.ndim == 5 else torch.channels_last)
        dx = torch.empty_like(x)
        programs = min(PROGRAMS, triton.cdiv(ctx.sizes[0], ROWS))
        shares = torch.empty(programs, len(gamma), device=x.device)
        _backward[(programs,)](x, gamma, dy, dx, shares, *ctx.sizes)
        return dx, shares.sum(0).to(gamma.dtype), None, None
