"""The VAEs' encode and decode over all frames at once, for training.

The stock classes walk through a clip in chunks of four frames and are bound by kernel launches. Here the same weights
run over the whole clip; the results are equal up to rounding (tests/test_pretraining.py). Still pictures need only the
last temporal tap of every kernel, a third of the work.

Activations are [B·T, C, H, W], channels last in memory, the frames of one clip next to each other; T travels beside
them.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import nn

log = logging.getLogger(__name__)
COMPILED: dict[str, object] = {}  # filled by speed_up; empty means plain eager


def _lead(x: torch.Tensor, t: int, taps: int) -> torch.Tensor:
    """[B·T, C, H, W] → [B, C, taps − 1 + T, H, W]: what a causal convolution reads, frames of zeros first."""
    clip = x.permute(0, 2, 3, 1).unflatten(0, (-1, t))  # [B, T, H, W, C]
    return F.pad(clip, (0, 0, 0, 0, 0, 0, taps - 1, 0)).permute(0, 4, 1, 2, 3)


def _norm_act(x: torch.Tensor, gamma: torch.Tensor, t: int) -> torch.Tensor:
    """SiLU(x / ‖x‖₂ · √C · γ) over channels, x [N, C, H, W]; with t > 1 what a causal convolution reads of it."""
    wide = x.float()
    unit = wide * torch.rsqrt(wide.square().sum(1, keepdim=True).clamp_min(1e-24))
    out = F.silu(unit * (x.shape[1] ** 0.5) * gamma.float().view(1, -1, 1, 1)).to(x.dtype)
    return _lead(out, t, 3) if t > 1 else out


def speed_up() -> None:
    """Norms and activations as one kernel; without a working Triton everything still runs, about half as fast."""
    try:
        from .norm_kernel import NormAct

        fused = lambda x, gamma, t: NormAct.apply(x, gamma, t, 2 if t > 1 else 0)  # noqa: E731
        for t in (1, 3):
            x, gamma = torch.randn(6, 96, 5, 7, device="cuda", requires_grad=True), torch.rand(96, device="cuda")
            grads = [torch.autograd.grad(f(x, gamma, t).square().sum(), x)[0] for f in (fused, _norm_act)]
            if not torch.allclose(*grads, atol=1e-3):
                raise RuntimeError("the kernel is wrong here")
        COMPILED["norm_act"] = fused
    except Exception as error:  # any failure of Triton at all: slow is better than dead
        log.warning("Triton is not usable here (%s: %s); norms run eagerly", type(error).__name__, error)


def norm_act(norm: nn.Module, x: torch.Tensor, t: int = 1) -> torch.Tensor:
    """A norm of the VAE and the activation that follows it; with t > 1 ready for `convolve`."""
    return COMPILED.get("norm_act", _norm_act)(x, norm.gamma.flatten(), t)


def convolve(m: nn.Conv3d, lead: torch.Tensor) -> torch.Tensor:
    """A causal Conv3d of what `_lead` laid out, or, given [N, C, H, W], of single frames → [B·T, C', H, W]."""
    w, pad = m.weight, m.kernel_size[1] // 2
    if lead.ndim == 4:
        return F.conv2d(lead, w[:, :, -1], m.bias, padding=pad)
    out = F.conv3d(lead, w.contiguous(memory_format=torch.channels_last_3d), m.bias, padding=(0, pad, pad))
    return out.transpose(1, 2).flatten(0, 1)


def conv(m: nn.Conv3d, x: torch.Tensor, t: int) -> torch.Tensor:
    """A stride-1 causal Conv3d of [B·T, C, H, W]."""
    return convolve(m, x if m.kernel_size[0] == 1 or t == 1 else _lead(x, t, m.kernel_size[0]))


def norm_act_conv(norm: nn.Module, m: nn.Conv3d, x: torch.Tensor, t: int) -> torch.Tensor:
    """Norm, activation, causal convolution over three frames."""
    return convolve(m, norm_act(norm, x, t))


def res_block(m: nn.Module, x: torch.Tensor, t: int) -> torch.Tensor:
    """norm, activation, convolution, twice, beside a shortcut."""
    h = x if isinstance(m.conv_shortcut, nn.Identity) else conv(m.conv_shortcut, x, t)
    return norm_act_conv(m.norm2, m.conv2, norm_act_conv(m.norm1, m.conv1, x, t), t) + h


def attention(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One head of self-attention within each frame."""
    n, c, h, w = x.shape
    wide = F.normalize(x.float(), dim=1) * m.norm.scale * m.norm.gamma
    q, k, v = F.conv2d(wide.to(x.dtype), m.to_qkv.weight, m.to_qkv.bias).flatten(2).transpose(1, 2).chunk(3, -1)
    out = F.scaled_dot_product_attention(*(a.unsqueeze(1) for a in (q, k, v))).squeeze(1)
    return x + m.proj(out.transpose(1, 2).reshape(n, c, h, w))


def middle(m: nn.Module, x: torch.Tensor, t: int) -> torch.Tensor:
    """The mid block: residual block, attention, residual block."""
    return res_block(m.resnets[1], attention(m.attentions[0], res_block(m.resnets[0], x, t)), t)


def upsample(m: nn.Module, x: torch.Tensor, t: int) -> tuple[torch.Tensor, int]:
    """Twice the height and width; the 3D mode also doubles all frames but the first, which has no past to mix with."""
    if m.mode == "upsample3d" and t > 1:
        clip = x.permute(0, 2, 3, 1).unflatten(0, (-1, t))  # [B, T, H, W, C]
        later = clip[:, 1:].flatten(0, 1).permute(0, 3, 1, 2)
        rest = conv(m.time_conv, later, t - 1).permute(0, 2, 3, 1).unflatten(0, (-1, t - 1))
        rest = rest.unflatten(-1, (2, -1)).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)  # two frames of each
        x, t = torch.cat([clip[:, :1], rest], 1).flatten(0, 1).permute(0, 3, 1, 2), 2 * t - 1
    x = F.interpolate(x.contiguous(memory_format=torch.channels_last), scale_factor=2, mode="nearest-exact")
    return m.resample[1](x), t


def downsample(m: nn.Module, x: torch.Tensor, t: int) -> tuple[torch.Tensor, int]:
    """Half the height and width; the 3D mode also halves all frames but the first."""
    x = m.resample[1](F.pad(x, (0, 1, 0, 1)))
    if m.mode == "downsample3d" and t > 1:
        clip = x.permute(0, 2, 3, 1).unflatten(0, (-1, t))
        stacked = torch.cat([clip[:, 0:-2:2], clip[:, 1:-1:2], clip[:, 2::2]], -1).flatten(0, 1).permute(0, 3, 1, 2)
        weight = m.time_conv.weight.transpose(1, 2).flatten(1, 2)
        rest = F.conv2d(stacked, weight, m.time_conv.bias)
        t = (t + 1) // 2
        rest = rest.permute(0, 2, 3, 1).unflatten(0, (-1, t - 1))
        x = torch.cat([clip[:, :1], rest], 1).flatten(0, 1).permute(0, 3, 1, 2)
    return x, t


def fold(x: torch.Tensor, p: int) -> torch.Tensor:
    """[N, C, H, W] → [N, C·p·p, H/p, W/p]: p×p pixels as channels, in the stock classes' order."""
    return x if p == 1 else x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 1, 5, 3, 2, 4).flatten(1, 3)


def unfold(x: torch.Tensor, p: int) -> torch.Tensor:
    """The inverse of `fold`."""
    if p == 1:
        return x
    return x.unflatten(1, (-1, p, p)).permute(0, 1, 4, 3, 5, 2).flatten(4, 5).flatten(2, 3)


def patch(vae: nn.Module) -> int:
    """Pixels on a side that the VAE takes as one; 1 where its class knows no patches."""
    return getattr(vae.config, "patch_size", None) or 1


def encode(vae: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """pixels [B, 3, 4n+1, H, W] in [−1, 1] → posterior mean [B, z, n+1, H/8, W/8], as `vae.encode(...).mode()`."""
    t, encoder = pixels.shape[2], vae.encoder
    x = fold(pixels.transpose(1, 2).flatten(0, 1), patch(vae)).contiguous(memory_format=torch.channels_last)
    x = conv(encoder.conv_in, x, t)
    for m in encoder.down_blocks:
        if hasattr(m, "resample"):
            x, t = downsample(m, x, t)
        else:
            x = res_block(m, x, t)
    x = norm_act_conv(encoder.norm_out, encoder.conv_out, middle(encoder.mid_block, x, t), t)
    x = conv(vae.quant_conv, x, t)
    return x[:, : vae.config.z_dim].unflatten(0, (-1, t)).transpose(1, 2)


def decode(vae: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """latents [B, z, n+1, h, w] → pixels [B, 3, 4n+1, 8h, 8w], not clamped; otherwise as `vae.decode`."""
    t, decoder = latents.shape[2], vae.decoder
    x = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    x = middle(decoder.mid_block, conv(decoder.conv_in, conv(vae.post_quant_conv, x, t), t), t)
    for block in decoder.up_blocks:
        for m in block.resnets:
            x = res_block(m, x, t)
        if block.upsamplers is not None:
            x, t = upsample(block.upsamplers[0], x, t)
    x = norm_act_conv(decoder.norm_out, decoder.conv_out, x, t)
    return unfold(x, patch(vae)).unflatten(0, (-1, t)).transpose(1, 2)
