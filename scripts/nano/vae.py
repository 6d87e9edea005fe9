"""Training the small causal video VAE that both models share.

The stock Wan VAE walks through a clip in chunks of four frames and is bound by kernel launches. `encode` and `decode`
here run the same weights over all frames at once; the results are equal up to rounding (`tests/test_models.py`).
Still pictures need only the last temporal tap of every kernel, a third of the work, so training starts on stills.

Objective, per pixel value in [-1, 1]:   squared error + rate_weight × bits,   bits = ½ log2(1 + (z / σ)²) a latent.
The latents carry fixed noise of σ = 0.1. Under this pair the encoder spends scale only where it buys pixels: a latent
step of a given size costs about the same squared error in the picture whichever channel it is in. That is why the
shipped `latents_std` is one number for all channels: the flow-matching loss then weighs latents as pixels would.
"""

import logging
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from .muon import Muon

log = logging.getLogger(__name__)
NOISE_STD = 0.1
# fmt: off
VAE_RUN = {"lr": 0.04, "adam_lr": 2e-3, "ema": 0.998, "rate_weight": 5e-4, "stills_share": 0.1, "still_batch": 48,
           "still_size": (128, 128), "clip_batch": 12, "clip_size": (112, 112), "frames": 9, "frames_late": 17,
           "late": 0.75, "log_every": 201, "revive": False, "balance": 0.5, "decoder_only": False}
# A later piece refines everything at lower rates; one of the decoder alone leaves the latents, and with them both
# transformers, as they are.
VAE_RESUME = {"lr": 0.02, "adam_lr": 1e-3, "rate_weight": 1e-4, "stills_share": 0.0, "revive": True}
VAE_DECODER = {"lr": 0.015, "adam_lr": 1e-3, "rate_weight": 0.0, "stills_share": 0.0, "clip_size": (112, 192),
               "late": 0.0, "clip_batch": 8, "balance": 1.0, "decoder_only": True}
TINY_VAE = {"still_batch": 2, "still_size": (32, 32), "clip_batch": 2, "clip_size": (32, 32), "frames_late": 9,
            "log_every": 3}
# fmt: on
COMPILED: dict[str, object] = {}  # filled by speed_up; empty means plain eager


def _norm_act(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """SiLU(x / ‖x‖₂ · √C · γ) over channels, x [N, C, H, W]."""
    wide = x.float()
    unit = wide * torch.rsqrt(wide.square().sum(1, keepdim=True).clamp_min(1e-24))
    return F.silu(unit * (x.shape[1] ** 0.5) * gamma.float().view(1, -1, 1, 1)).to(x.dtype)


def speed_up() -> None:
    """Fuse the norms; without a working compiler everything still runs, about half as fast."""
    torch._dynamo.config.cache_size_limit = 64
    try:
        fused = torch.compile(_norm_act, dynamic=True)
        probe = torch.ones(2, 32, 8, 8, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        fused(probe, torch.ones(32, device="cuda")).sum().backward()
        COMPILED["norm_act"] = fused
    except Exception as error:  # any compiler failure at all: slow is better than dead
        log.warning("torch.compile is not usable here (%s); running eager", type(error).__name__)


def norm_act(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return COMPILED.get("norm_act", _norm_act)(x, norm.gamma.flatten())


# Activations are [B·T, C, H, W] (channels last in memory, frames of one clip adjacent); t is carried beside them.
def conv(m: nn.Conv3d, x: torch.Tensor, t: int) -> torch.Tensor:
    """A stride-1 causal Conv3d as one Conv2d over the last k_t frames stacked along channels."""
    taps, w = m.kernel_size[0], m.weight
    pad = m.kernel_size[1] // 2
    if taps == 1 or t == 1:
        return F.conv2d(x, w[:, :, -1], m.bias, padding=pad)
    clip = x.unflatten(0, (-1, t))
    clip = torch.cat([clip.new_zeros(clip.shape[0], taps - 1, *clip.shape[2:]), clip], 1)
    stacked = torch.cat([clip[:, k : k + t] for k in range(taps)], 2).flatten(0, 1)
    return F.conv2d(
        stacked.contiguous(memory_format=torch.channels_last), w.transpose(1, 2).flatten(1, 2), m.bias, padding=pad
    )


def res_block(m: nn.Module, x: torch.Tensor, t: int) -> torch.Tensor:
    h = x if isinstance(m.conv_shortcut, nn.Identity) else conv(m.conv_shortcut, x, t)
    x = conv(m.conv1, norm_act(m.norm1, x), t)
    return conv(m.conv2, norm_act(m.norm2, x), t) + h


def attention(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    wide = F.normalize(x.float(), dim=1) * m.norm.scale * m.norm.gamma
    q, k, v = F.conv2d(wide.to(x.dtype), m.to_qkv.weight, m.to_qkv.bias).flatten(2).transpose(1, 2).chunk(3, -1)
    out = F.scaled_dot_product_attention(*(a.unsqueeze(1) for a in (q, k, v))).squeeze(1)
    return x + m.proj(out.transpose(1, 2).reshape(n, c, h, w))


def middle(m: nn.Module, x: torch.Tensor, t: int) -> torch.Tensor:
    return res_block(m.resnets[1], attention(m.attentions[0], res_block(m.resnets[0], x, t)), t)


def resample(m: nn.Module, x: torch.Tensor, t: int) -> tuple[torch.Tensor, int]:
    """Spatial factor 2; the 3D modes halve or double all frames but the first, which has no past to mix with."""
    if m.mode == "upsample3d" and t > 1:
        clip = x.unflatten(0, (-1, t))
        rest = conv(m.time_conv, clip[:, 1:].flatten(0, 1), t - 1)
        rest = rest.unflatten(0, (-1, t - 1)).unflatten(2, (2, -1)).transpose(2, 3)  # [B, t-1, C, 2, H, W]
        rest = rest.permute(0, 1, 3, 2, 4, 5).flatten(1, 2)
        x, t = torch.cat([clip[:, :1], rest], 1).flatten(0, 1), 2 * t - 1
    if m.mode.startswith("upsample"):
        x = F.interpolate(x.contiguous(memory_format=torch.channels_last), scale_factor=2, mode="nearest-exact")
        return m.resample[1](x), t
    x = m.resample[1](F.pad(x, (0, 1, 0, 1)))
    if m.mode == "downsample3d" and t > 1:
        clip = x.unflatten(0, (-1, t))
        stacked = torch.cat([clip[:, 0:-2:2], clip[:, 1:-1:2], clip[:, 2::2]], 2).flatten(0, 1)
        weight = m.time_conv.weight.transpose(1, 2).flatten(1, 2)
        rest = F.conv2d(stacked.contiguous(memory_format=torch.channels_last), weight, m.time_conv.bias)
        t = (t + 1) // 2
        x = torch.cat([clip[:, :1], rest.unflatten(0, (-1, t - 1))], 1).flatten(0, 1)
    return x, t


def encode(vae: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """pixels [B, 3, 4n+1, H, W] in [-1, 1] → posterior mean [B, z, n+1, H/8, W/8], as `vae.encode(...).mode()`."""
    t, encoder = pixels.shape[2], vae.encoder
    x = pixels.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    x = conv(encoder.conv_in, x, t)
    for m in encoder.down_blocks:
        if hasattr(m, "resample"):
            x, t = resample(m, x, t)
        else:
            x = res_block(m, x, t)
    x = norm_act(encoder.norm_out, middle(encoder.mid_block, x, t))
    x = conv(vae.quant_conv, conv(encoder.conv_out, x, t), t)
    return x[:, : vae.z_dim].unflatten(0, (-1, t)).transpose(1, 2)


def decode(vae: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """latents [B, z, n+1, h, w] → pixels [B, 3, 4n+1, 8h, 8w], not clamped; otherwise as `vae.decode`."""
    t, decoder = latents.shape[2], vae.decoder
    x = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    x = middle(decoder.mid_block, conv(decoder.conv_in, conv(vae.post_quant_conv, x, t), t), t)
    for block in decoder.up_blocks:
        for m in block.resnets:
            x = res_block(m, x, t)
        if block.upsamplers is not None:
            x, t = resample(block.upsamplers[0], x, t)
    x = conv(decoder.conv_out, norm_act(decoder.norm_out, x), t)
    return x.unflatten(0, (-1, t)).transpose(1, 2)


def set_posterior(vae: nn.Module) -> None:
    """The posterior's spread is not learned: its log variance is the constant log σ², whatever the picture."""
    with torch.no_grad():
        vae.quant_conv.weight[vae.z_dim :] = 0
        vae.quant_conv.bias[vae.z_dim :] = 2 * math.log(NOISE_STD)


@torch.no_grad()
def revive(vae: nn.Module, x: torch.Tensor, generator: torch.Generator) -> int:
    """Give channels that carry less than the noise a fresh start; returns how many.

    Stills alone need few channels, the rate term closes the rest, and a closed channel has no gradient with which to
    open again when clips arrive. x [B, 3, T, H, W]."""
    std = encode(vae, x).float().transpose(0, 1).flatten(1).std(1)
    dead = (std < NOISE_STD).nonzero().flatten()
    draw = lambda like: torch.randn(like.shape, generator=generator, device=like.device)  # noqa: E731
    if len(dead):
        spare = vae.encoder.conv_out.weight[vae.z_dim :]
        spare.copy_(draw(spare) * spare[0].numel() ** -0.5)
        vae.quant_conv.weight[dead] = draw(vae.quant_conv.weight[dead]) * vae.quant_conv.in_channels**-0.5
        scale = encode(vae, x).float().transpose(0, 1).flatten(1).std(1)[dead] / (4 * NOISE_STD)
        vae.quant_conv.weight[dead] /= scale.view(-1, 1, 1, 1, 1)
        vae.quant_conv.bias[dead] = 0
        columns = vae.post_quant_conv.weight[:, dead]
        vae.post_quant_conv.weight[:, dead] = draw(columns) * 0.5 * vae.z_dim**-0.5
    return len(dead)


def loss_terms(vae: nn.Module, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [B, 3, T, H, W], noise N(0, 1) [B, z, T', h, w] → squared error [B] and bits [B], both per pixel value."""
    z = encode(vae, x).float()
    bits = 0.5 * torch.log2(1 + (z / NOISE_STD).square()).flatten(1).sum(1) / x[0].numel()
    error = (decode(vae, z + NOISE_STD * noise).float() - x).square().flatten(1).mean(1)
    return error, bits


class Ema:
    """Exponential moving average of parameters; the decay warms up so that the first steps are forgotten."""

    def __init__(self, module: nn.Module, decay: float):
        self.live, self.decay, self.steps = list(module.parameters()), decay, 0
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for p, m in zip(module.parameters(), self.mean, strict=True):
            p.copy_(m)


def time_schedule(progress: float, step: int, warmup: int = 150) -> float:
    """Learning-rate factor: linear warm-up in steps, cosine in the share `progress` of the time budget, floor 1 %."""
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Step:
    """One training step: forward, backward, update. On a GPU each batch shape becomes a CUDA graph, because the many
    small kernels of this model are slow to launch."""

    def __init__(self, vae: nn.Module, optimiser: Muon, rate_weight: float, balance: float, device: str):
        self.vae, self.optimiser, self.kind = vae, optimiser, device.split(":")[0]
        self.rate_weight, self.balance = rate_weight, balance
        self.graphs: dict[torch.Size, tuple] = {}

    def eager(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error [B] and bits [B], both per pixel value, of the batch before the update."""
        self.optimiser.zero_grad()
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.kind == "cuda"):
            error, bits = loss_terms(self.vae, x, noise)
        # Dividing by the root of the error balances the mean squared error against the mean PSNR.
        weight = (error.detach() + 1e-4) ** -self.balance * 0.07
        (weight * (error + self.rate_weight * bits)).mean().backward()
        self.optimiser.step()
        return error.detach(), bits.detach()

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        b, _, t, h, w = x.shape
        noise = torch.randn(b, self.vae.z_dim, (t + 3) // 4, h // 8, w // 8, generator=generator, device=x.device)
        if self.kind != "cuda":
            return self.eager(x, noise)
        if x.shape not in self.graphs:
            self.graphs[x.shape] = self._capture(x, noise)
        graph, inputs, outputs = self.graphs[x.shape]
        for static, new in zip(inputs, (x, noise), strict=True):
            static.copy_(new)
        graph.replay()
        return outputs

    def _capture(self, x: torch.Tensor, noise: torch.Tensor) -> tuple:
        inputs, stream = (x.clone(), noise.clone()), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # real steps, which also let cuDNN choose its kernels
                self.eager(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad()
        with torch.cuda.graph(graph):
            outputs = self.eager(*inputs)
        return graph, inputs, outputs


def train(vae: nn.Module, bank, seconds: float, cfg: dict, seed: int) -> dict:
    """Train in place for `seconds` of wall clock, leave the EMA weights in `vae`; returns the log's last line."""
    device = bank.device
    set_posterior(vae)
    vae.to(device).train()
    bank.seed(seed)
    generator = torch.Generator(device).manual_seed(seed + 1)
    if device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        speed_up()
    if cfg["revive"]:
        log.info("%d latent channels revived", revive(vae, bank.draw_stills(32, (128, 128))[0], generator))
    if cfg["decoder_only"]:
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    optimiser = Muon(vae, lambda _, p: p.ndim >= 4 and min(p.shape[0], p[0].numel()) >= 8, cfg["lr"], cfg["adam_lr"])
    train_step = Step(vae, optimiser, cfg["rate_weight"], cfg["balance"], device)
    ema, start, step, shown, last = Ema(vae, cfg["ema"]), time.monotonic(), 0, {}, {}
    while (progress := (time.monotonic() - start) / seconds) < 1:
        clips_now = progress >= cfg["stills_share"] and step % 3 != 0
        if clips_now:
            frames = cfg["frames_late"] if progress > cfg["late"] else cfg["frames"]
            batch = max(1, cfg["clip_batch"] * cfg["frames"] // frames)
            x, _ = bank.draw_video(batch, frames, cfg["clip_size"])
        else:
            x, _ = bank.draw_stills(cfg["still_batch"], cfg["still_size"])
        optimiser.set_factor(time_schedule(progress, step))
        error, bits = train_step(x, generator)
        ema.update()
        kind = "clips" if clips_now else "stills"
        if step % cfg["log_every"] < 3:
            shown[kind] = (-10 * torch.log10(error.mean() / 4), bits.mean() * x[0].numel())
        if step % cfg["log_every"] == 2:
            last = {k: f"{float(p):.2f} dB {float(b) / 1000:.1f} kbit" for k, (p, b) in shown.items()}
            log.info("vae %5d  %4.0f s  %s", step, time.monotonic() - start, last)
        step += 1
    ema.copy_to(vae)
    set_posterior(vae)
    return {"steps": step, "seconds": round(time.monotonic() - start), **last}


@torch.no_grad()
def measure_latents(vae: nn.Module, bank, seed: int) -> tuple[list[float], float, torch.Tensor]:
    """Mean [z] of each latent channel, the common standard deviation, and every channel's own [z]."""
    bank.seed(seed)
    sets = [bank.draw_stills(128, (128, 128))[0] for _ in range(4)] + [
        bank.draw_video(16, 17, (112, 192))[0] for _ in range(6)
    ]
    with torch.autocast(bank.device.split(":")[0], torch.bfloat16, enabled=bank.device != "cpu"):
        z = torch.cat([encode(vae, s).float().transpose(0, 1).flatten(1) for s in sets], 1)
    mean, var = z.mean(1), z.var(1)
    return mean.tolist(), float(var.mean().sqrt()), var.sqrt().cpu()
