"""The transformers' forward for training: the weights of the stock classes; results are equal up to rounding
(tests/test_pretraining.py).

nano-video: the stock class takes a time per token and makes six modulation vectors of every token; here every latent
frame has its own, which all its tokens share. Of the 512 text tokens that the pipeline pads captions to, all but the
first 31 are the same padding: equal keys and values count as one whose logit is raised by log(their number), so 32
tokens give exactly what 512 give.

nano-image: the stock class waits for the GPU at every call and rounds the time to the activations' precision; here the
stock blocks get what they need without either.
"""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import nn

log = logging.getLogger(__name__)
TEXT_SLOTS, WAN_TEXT_LENGTH = 32, 512  # real tokens a caption may have; what the Wan pipeline pads captions to
COMPILED: dict[str, object] = {}  # filled by speed_up; empty means plain eager


def _rms(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps) * norm.weight).to(x.dtype)


def _layer_norm(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [B, S, heads, D]; cos and sin [S, 1, D/2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def _attention(attn: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias=None) -> torch.Tensor:
    """q, k, v [B, S, heads, D] → what the attention adds, [B, S, dim]."""
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _block(block: nn.Module, x: torch.Tensor, mod: torch.Tensor, text: torch.Tensor, cos: torch.Tensor,
           sin: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One block: x [B, T, S, dim] with S tokens a frame, mod [B, T, 6, dim], text [B, 32, dim]."""
    t, s = x.shape[1:3]
    shift, scale, gate, shift2, scale2, gate2 = (block.scale_shift_table + mod.float()).unsqueeze(2).unbind(3)
    heads = block.attn1.heads
    a, flat = block.attn1, (_layer_norm(x, block.norm1) * (1 + scale) + shift).to(x.dtype).flatten(1, 2)
    q, k = _rms(a.to_q(flat), a.norm_q), _rms(a.to_k(flat), a.norm_k)
    q, k = (_rotate(y.unflatten(2, (heads, -1)), cos, sin) for y in (q, k))
    seen = _attention(a, q, k, a.to_v(flat).unflatten(2, (heads, -1)))
    x = (x.float() + seen.unflatten(1, (t, s)) * gate).to(x.dtype)
    a, flat = block.attn2, _layer_norm(x, block.norm2).to(x.dtype).flatten(1, 2)
    q, k = _rms(a.to_q(flat), a.norm_q), _rms(a.to_k(text), a.norm_k)
    q, k, v = (y.unflatten(2, (heads, -1)) for y in (q, k, a.to_v(text)))
    x = x + _attention(a, q, k, v, bias.to(q.dtype)).unflatten(1, (t, s))
    inner = (_layer_norm(x, block.norm3) * (1 + scale2) + shift2).to(x.dtype)
    out = block.ffn.net[2](F.gelu(block.ffn.net[0].proj(inner), approximate="tanh"))
    return (x.float() + out.float() * gate2).to(x.dtype)


def _rotate_complex(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Qwen-Image's rotary embedding in real arithmetic, which compilers fuse; x [B, S, H, D], freqs [S, D/2]."""
    pairs = torch.view_as_real(freqs)
    return _rotate(x, pairs[:, None, :, 0], pairs[:, None, :, 1])


def _stock_block(block: nn.Module, *inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return block(*inputs)


def speed_up() -> None:
    """Compiles the block, once for all blocks of a model."""
    from diffusers.models.transformers import transformer_qwenimage

    transformer_qwenimage.ROPE_PER_DEVICE["cuda"] = _rotate_complex
    torch._dynamo.config.cache_size_limit = 256
    torch._dynamo.config.suppress_errors = True  # an unsupported graph runs eagerly instead of ending the run
    COMPILED["video"] = torch.compile(_block, dynamic=False)
    COMPILED["image"] = torch.compile(_stock_block, dynamic=False)


def text_bias(device: str) -> torch.Tensor:
    """[1, 1, 1, 32]: raises the last text token's logit by what its copies would add."""
    bias = torch.zeros(1, 1, 1, TEXT_SLOTS, device=device)
    bias[..., -1:].fill_(math.log(WAN_TEXT_LENGTH - TEXT_SLOTS + 1))
    return bias


def wan(model: nn.Module, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """x [B, z, T, h, w], t [B, T] in [0, 1], text [B, 32, text_dim] → v of x's shape."""
    b, z, frames, h, w = x.shape
    cos, sin = model.rope(x)
    cos, sin = cos[0, :, :, 0::2].contiguous(), sin[0, :, :, 1::2].contiguous()
    embed = model.condition_embedder
    times = embed.timesteps_proj(t.flatten() * 1000).unflatten(0, (b, frames))
    temb = embed.time_embedder(times)
    mod = embed.time_proj(F.silu(temb)).unflatten(2, (6, -1))
    text, bias = embed.text_embedder(text), text_bias(x.device)
    p = x.view(b, z, frames, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)
    x = F.linear(p, model.patch_embedding.weight.flatten(1), model.patch_embedding.bias)
    run = COMPILED.get("video", _block)
    for block in model.blocks:
        x = run(block, x, mod, text, cos, sin, bias)
    shift, scale = (model.scale_shift_table + temb.unsqueeze(2)).unsqueeze(2).unbind(3)
    x = model.proj_out((_layer_norm(x, model.norm_out) * (1 + scale) + shift).to(x.dtype))
    return x.view(b, frames, h // 2, w // 2, 2, 2, z).permute(0, 6, 1, 2, 4, 3, 5).reshape(b, z, frames, h, w)


def qwen(model: nn.Module, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x [B, z, 1, h, w], t [B] in [0, 1], text [B, S, text_dim], mask [B, S] → v of x's shape."""
    b, z, _, h, w = x.shape
    p = x.view(b, z, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, z * 4)
    embed = model.time_text_embed
    temb = embed.timestep_embedder(embed.time_proj(t))
    rotary = model.pos_embed([(1, h // 2, w // 2)], max_txt_seq_len=text.shape[1], device=x.device)
    x, text, run = model.img_in(p), model.txt_in(model.txt_norm(text)), COMPILED.get("image", _stock_block)
    for block in model.transformer_blocks:
        text, x = run(block, x, text, mask, temb, rotary)
    v = model.proj_out(model.norm_out(x, temb))
    return v.view(b, h // 2, w // 2, z, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, z, 1, h, w)
