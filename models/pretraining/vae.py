"""Training the small VAEs: nano-video's causal one and nano-image's.

Objective, per pixel value in [−1, 1]:   squared error + rate_weight·(σ / 0.1)² × bits,   bits = ½ log2(1 + (z / σ)²).
The latents carry noise of σ, drawn for each sample: files of few bytes leave large errors in them, files of many bytes
small ones, and what a bit must buy follows. The rate term makes scale cost something, so that the encoder spends it
only where it buys pixels. It is off at the beginning: a channel that it closes early has no gradient with which to open
again.

Afterwards `equalise` changes the basis of the latents, which changes no picture: equal latent errors then cost equal
pixel errors on average, and channels are sorted by variance. Channels that carry nothing are cut out. `latents_std`
then says how much of each channel the transformer sees (`spread_of`).

A decoder alone can be trained on latents as files of few bytes give them back: noised to some t and restored by the
transformer (`coded`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from . import vae_forward as forward
from .bank import Bank
from .loop import Budget, Captured, Ema, Training, rate_factor
from .muon import Muon

log = logging.getLogger(__name__)
NOISE_STD, NOISE_FROM, NOISE_TO = 0.1, 0.04, 0.22  # the usual σ; the least and the greatest that training draws
# A recipe is a list of batches by the progress at which they begin: (from, frames, batch, height, width), the last that
# has begun is used; `stills` of every `cycle` steps are stills all the same, which the first frame of a clip is too.
# fmt: off
RECIPES = {
    "video": {"lr": 0.04, "adam_lr": 2e-3, "ema": 0.999, "rate_weight": 5e-4, "balance": 0.5,
              "batches": [(0.0, 1, 64, 128, 128), (0.05, 9, 16, 112, 112), (0.55, 17, 8, 112, 128)],
              "stills": (64, 128, 128), "cycle": 8, "log_every": 240},
    "image": {"lr": 0.04, "adam_lr": 2e-3, "ema": 0.999, "rate_weight": 5e-4, "balance": 0.5,
              "batches": [(0.0, 1, 96, 128, 128), (0.6, 1, 48, 192, 192)],
              "stills": (96, 128, 128), "cycle": 4, "log_every": 400}}
# A piece that goes on from finished weights refines them at lower rates. One of the decoder alone leaves the latents,
# and with them the transformer, as they are; the noise has given them their scale by then, so it gets weaker.
REFINE = {"lr": 0.015, "adam_lr": 1e-3}
DECODER_ONLY = {"rate_weight": 0.0}
REFINE_BATCHES = {"video": [(0.0, 17, 8, 112, 128), (0.6, 17, 6, 112, 192)], "image": [(0.0, 1, 48, 192, 192)]}
TINY = {"batches": [(0.0, 1, 2, 32, 32), (0.34, 5, 2, 32, 32)], "stills": (2, 32, 32), "cycle": 3, "log_every": 1}
# fmt: on
WARMUP = 150  # steps
SPREAD = {"video": 0.35, "image": 0.45}  # see `spread_of`
DEAD = 0.01  # a channel of a smaller deviation carries nothing: it is far below the least noise of the training
CODED_FROM, CODED_TO, CODED_CLEAN = 0.15, 0.65, 0.2  # t of 9,000 to 500 bytes; share of samples left clean
RATE_FROM, RATE_FULL = 0.25, 0.4  # progress over which the rate term is switched on
SAVE_EVERY_S = 180.0


def recipe(family: str, refine: bool, decoder_only: bool, tiny: bool) -> dict:
    """The settings of one piece of training."""
    chosen = dict(RECIPES[family])
    if refine:
        chosen |= REFINE | {"batches": REFINE_BATCHES[family]} | (DECODER_ONLY if decoder_only else {})
    if tiny:
        chosen |= TINY if family == "video" else TINY | {"batches": TINY["batches"][:1]}
    return chosen | {"refine": refine, "decoder_only": decoder_only}


def is_matrix(_: str, parameter: torch.Tensor) -> bool:
    """What Muon trains: convolutions with at least eight inputs and outputs."""
    return parameter.ndim >= 4 and min(parameter.shape[0], parameter[0].numel()) >= 8


def set_posterior(vae: nn.Module) -> None:
    """The posterior's spread is not learned: its log variance is the constant log σ², whatever the picture."""
    z = vae.config.z_dim
    with torch.no_grad():
        vae.quant_conv.weight[z:] = 0
        vae.quant_conv.bias[z:] = 2 * math.log(NOISE_STD)


def draw_spread(n: int, mode: str, generator: torch.Generator) -> torch.Tensor:
    """σ of each sample [n] in the mode "joint"; "decoder": weaker ones, the latents have their scale; "coded": t."""
    u, kind = torch.rand(2, n, generator=generator, device=generator.device)
    if mode == "joint":
        return (math.log(NOISE_FROM) + u * math.log(NOISE_TO / NOISE_FROM)).exp()
    if mode == "decoder":
        return u * NOISE_STD
    return torch.where(kind < CODED_CLEAN, torch.zeros_like(u), CODED_FROM + u * (CODED_TO - CODED_FROM))


def add_noise(z: torch.Tensor, noise: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """What the decoder is given of latents z unless a transformer restores them."""
    return z + spread * noise


def loss_terms(vae: nn.Module, x: torch.Tensor, noise: torch.Tensor, spread: torch.Tensor,
               spoil: Callable = add_noise) -> tuple[torch.Tensor, torch.Tensor]:
    """x [B, 3, T, H, W], noise N(0, 1) [B, z, T', h, w], σ [B] → squared error [B] and bits [B], per pixel value."""
    z, spread = forward.encode(vae, x).float(), spread.view(-1, 1, 1, 1, 1)
    bits = 0.5 * torch.log2(1 + (z / spread.clamp_min(1e-3)).square()).flatten(1).sum(1) / x[0].numel()
    error = (forward.decode(vae, spoil(z, noise, spread)).float() - x).square().flatten(1).mean(1)
    return error, bits


class Step:
    """One training step: forward, backward, update. `spoil` gives the decoder its latents; see `draw_spread` for the
    modes."""

    def __init__(self, vae: nn.Module, optimiser: Muon, balance: float, device: str, mode: str = "joint",
                 spoil: Callable = add_noise):
        self.vae, self.optimiser, self.kind, self.balance = vae, optimiser, device.split(":")[0], balance
        self.mode, self.spoil, self.rate_weight = mode, spoil, torch.zeros((), device=device)
        self.run = Captured(self.eager, self.kind)

    def eager(self, x: torch.Tensor, noise: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error [B] and bits [B], both per pixel value, of the batch before the update."""
        self.optimiser.zero_grad()
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.kind == "cuda"):
            error, bits = loss_terms(self.vae, x, noise, spread, self.spoil)
        # Dividing by the root of the error balances the mean squared error against the mean PSNR.
        weight = (error.detach() + 1e-4) ** -self.balance * 0.07
        rate = self.rate_weight * (spread / NOISE_STD).square()
        (weight * (error + rate * bits)).mean().backward()
        self.optimiser.step()
        return error.detach(), bits.detach()

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        b, _, t, h, w = x.shape
        z = self.vae.config.z_dim
        noise = torch.randn(b, z, (t + 3) // 4, h // 8, w // 8, generator=generator, device=x.device)
        return self.run(x, noise, draw_spread(b, self.mode, generator))


def draw_batch(bank: Bank, cfg: dict, progress: float, step: int) -> torch.Tensor:
    """The batch [B, 3, T, H, W] of this step."""
    frames, n, height, width = [b[1:] for b in cfg["batches"] if b[0] <= progress][-1]
    if frames == 1:
        return bank.draw_stills(n, (height, width))[0]
    if step % cfg["cycle"] == 0:
        return bank.draw_stills(cfg["stills"][0], cfg["stills"][1:])[0]
    return bank.draw_video(n, frames, (height, width))[0]


def train(vae: nn.Module, bank: Bank, budget: Budget, cfg: dict, seed: int, state: Path, resume: bool,
          restore: Callable | None = None) -> dict:
    """Trains in place, leaves the averaged weights in `vae`; returns what the card tells of the run. With `restore`
    (z, noise, t) → z the decoder is trained on what that gives.

    The state of the run is saved to `state` now and then and at the end; with `resume` it is gone on from.
    """
    device = bank.device
    set_posterior(vae)
    vae.to(device).train()
    bank.seed(seed)
    generator = torch.Generator(device).manual_seed(seed + 1)
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        forward.speed_up()
    if cfg["decoder_only"]:
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    optimiser = Muon(vae, is_matrix, cfg["lr"], cfg["adam_lr"])
    run = Training(vae, optimiser, Ema(vae, cfg["ema"]), (bank.generator, generator))
    budget.begin(run.load(state) if resume and state.is_file() else 0.0)
    mode = "coded" if restore else "decoder" if cfg["decoder_only"] else "joint"
    one_step = Step(vae, optimiser, cfg["balance"], device, mode, restore or add_noise)
    saved, shown = budget.elapsed(), {}
    while (progress := budget.progress(run.step)) < 1:
        x = draw_batch(bank, cfg, progress, run.step)
        ramp = 1.0 if cfg["refine"] else min(1.0, max(0.0, (progress - RATE_FROM) / (RATE_FULL - RATE_FROM)))
        one_step.rate_weight.fill_(cfg["rate_weight"] * ramp)
        optimiser.set_factor(rate_factor(progress, run.step, WARMUP))
        error, bits = one_step(x, generator)
        run.ema.update()
        if run.step % cfg["log_every"] < 2:  # one batch of stills and one of clips
            shown[f"{x.shape[2]} frames"] = (f"{float(-10 * torch.log10(error.mean() / 4)):.2f} dB, "
                                             f"{float(bits.mean()) * x[0].numel() / 1000:.1f} kbit")
        if run.step % cfg["log_every"] == 1:
            log.info("vae %6d  %5.0f s  %s", run.step, budget.elapsed(), shown)
        run.step += 1
        if budget.elapsed() - saved > SAVE_EVERY_S:
            run.save(state, saved := budget.elapsed())
    run.save(state, budget.elapsed())
    run.ema.copy_to(vae)
    set_posterior(vae)
    torch.backends.cudnn.benchmark = False  # what follows uses each shape a few times
    return {"steps": run.step, "seconds": round(budget.elapsed()), **shown}


def _latent_batches(vae: nn.Module, bank: Bank, family: str, count: int, tiny: bool) -> list[torch.Tensor]:
    """Latents [B, z, T', h, w], float32, of `count` augmented batches in the model's native geometry."""
    n, side = (2, (32, 32)) if tiny else (12, (112, 192) if family == "video" else (192, 192))
    draws = [bank.draw_stills(n * 2, side) if family == "image" or k % 4 == 0 else
             bank.draw_video(n, 5 if tiny else 17, side) for k in range(count)]
    with torch.no_grad():
        return [forward.encode(vae, x).float() for x, _ in draws]


def pixel_metric(vae: nn.Module, latents: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """[z, z]: the channel blocks of JᵀJ of the decoder, averaged over places and pictures.

    For pixels p(z) and random signs u, g = Jᵀu has E[g gᵀ] = JᵀJ."""
    total, places = 0.0, 0
    for z in latents:
        z = z.detach().requires_grad_()
        pixels = forward.decode(vae, z)
        signs = torch.randint(0, 2, pixels.shape, generator=generator, device=z.device) * 2.0 - 1
        gradient = torch.autograd.grad((pixels.float() * signs).sum(), z)[0].transpose(0, 1).flatten(1).double()
        total, places = total + gradient @ gradient.T, places + gradient.shape[1]
    return total / places


@torch.no_grad()
def change_basis(vae: nn.Module, basis: torch.Tensor) -> None:
    """Latents z become basis·z; the decoder undoes it, so pictures stay as they are. basis [z, z], float64."""
    z, inverse = vae.config.z_dim, torch.linalg.inv(basis)
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    encoder.weight[:z] = torch.einsum("ij,j...->i...", basis, encoder.weight[:z].double()).to(encoder.weight.dtype)
    encoder.bias[:z] = (basis @ encoder.bias[:z].double()).to(encoder.bias.dtype)
    decoder.weight.copy_(torch.einsum("oj...,ji->oi...", decoder.weight.double(), inverse))


def equalise(vae: nn.Module, bank: Bank, family: str, seed: int, tiny: bool = False) -> None:
    """Gives the latents the basis in which equal errors cost equal pixel errors, sorted by variance."""
    bank.seed(seed)
    generator = torch.Generator(bank.device).manual_seed(seed)
    latents = _latent_batches(vae, bank, family, 8, tiny)
    values, vectors = torch.linalg.eigh(pixel_metric(vae, latents, generator))
    root = vectors @ torch.diag(values.clamp_min(1e-4 * values.mean()).sqrt()) @ vectors.T
    samples = root @ torch.cat([z.transpose(0, 1).flatten(1) for z in latents], 1).double()
    order = torch.linalg.eigh(torch.cov(samples))[1].flip(1)
    change_basis(vae, order.T @ root)


@torch.no_grad()
def measure_latents(vae: nn.Module, bank: Bank, family: str, seed: int, tiny: bool = False) -> dict:
    """mean [z] of each latent channel, their deviations `own` [z] and the root of their mean square `std`."""
    bank.seed(seed + 1)
    z = torch.cat([z.transpose(0, 1).flatten(1) for z in _latent_batches(vae, bank, family, 12, tiny)], 1)
    mean, var = z.mean(1), z.var(1)
    return {"mean": mean.tolist(), "std": float(var.mean().sqrt()), "own": var.sqrt().tolist()}


def spread_of(own: list[float], power: float) -> list[float]:
    """`latents_std`: what each channel is divided by, from the channels' own deviations.

    With one number for all (power 0) a noised state x_t tells equally much of all channels, and below its noise that is
    wasted: half a bit on a channel whose variance equals the noise halves an error that is small already. The best code
    (reverse water-filling) tells nothing of such channels. Weaker channels are therefore shown weaker: a channel's
    variance v counts as v^(1 + power), the geometric mean staying what it was."""
    common = math.sqrt(sum(s * s for s in own) / len(own))
    middle = math.exp(sum(math.log(s) for s in own) / len(own))
    return [common * (s / middle) ** -power for s in own]


@torch.no_grad()
def without_dead_channels(vae: nn.Module, own: list[float]) -> nn.Module:
    """The same VAE without the latent channels whose deviation in `own` is below DEAD.

    The encoder gives what it gave. The decoder's first two layers share what the lost channels left: exactly inside a
    picture, not where they see the zeros around it, for the constant part that only those channels could carry."""
    live = [k for k, s in enumerate(own) if s >= DEAD]
    z, mean = len(live), torch.tensor(vae.config.latents_mean).double()
    config = dict(vae.config) | {"z_dim": z} | {name: [vae.config[name][k] for k in live]
                                                for name in ("latents_mean", "latents_std")}
    new, state = type(vae).from_config(config), {k: v.double() for k, v in vae.state_dict().items()}
    quant, first = state["quant_conv.weight"][live].flatten(1), state["encoder.conv_out.weight"]
    state["encoder.conv_out.weight"] = torch.cat([torch.einsum("oi,i...->o...", quant, first),
                                                  torch.zeros(z, *first.shape[1:], dtype=first.dtype)])
    state["encoder.conv_out.bias"] = torch.cat([quant @ state["encoder.conv_out.bias"] + state["quant_conv.bias"][live],
                                                torch.full((z,), 2 * math.log(NOISE_STD), dtype=first.dtype)])
    state["quant_conv.weight"] = torch.eye(2 * z, dtype=first.dtype).view(2 * z, 2 * z, 1, 1, 1)
    state["quant_conv.bias"] = torch.zeros(2 * z, dtype=first.dtype)
    post, bias = state["post_quant_conv.weight"].flatten(1), state["post_quant_conv.bias"]
    dead = [k for k in range(len(own)) if k not in live]
    bias = bias + post[:, dead] @ mean[dead]
    basis = torch.linalg.qr(post[:, live])[0]  # [old z, z]
    rest, entry = bias - basis @ (basis.T @ bias), state["decoder.conv_in.weight"]
    log.info("channels %d of %d; of the constant %.4f is in none of them", z, len(own), rest.norm() / bias.norm())
    state["decoder.conv_in.bias"] += entry.sum((2, 3, 4)) @ rest
    state["decoder.conv_in.weight"] = torch.einsum("oi...,ij->oj...", entry, basis)
    state["post_quant_conv.weight"] = (basis.T @ post[:, live]).view(z, z, 1, 1, 1)
    state["post_quant_conv.bias"] = basis.T @ bias
    new.load_state_dict({k: v.float() for k, v in state.items()})
    return new
