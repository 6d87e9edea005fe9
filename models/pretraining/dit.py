"""Flow-matching pretraining of the two transformers on latents of the frozen VAEs.

x_t = (1 − t)·x0 + t·ε, target v = ε − x0, loss = mean squared error over the latent values that are noised.

nano-video learns three tasks with one set of weights: in half of the samples every latent frame has the sample's time
t; in a quarter the first latent frame is given clean, at t = 0, and the rest follow it, as in Wan2.2-TI2V; in a quarter
any frames are given. Half of the given frames are spoiled as a coarse code would spoil them, because a chain of chunks
starts from decoded frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vov import VovError

from . import dit_forward, parts
from . import vae_forward as forward
from .bank import Bank
from .dit_forward import TEXT_SLOTS
from .loop import Budget, Captured, Ema, Training, agreed, average_gradients, rate_factor
from .muon import Muon

log = logging.getLogger(__name__)
SHAPES = {  # latent frames, height, width, share of the training steps
    "video": [(5, 14, 24, 0.7), (5, 16, 16, 0.2), (3, 20, 28, 0.1)],
    "image": [(1, 16, 16, 0.15), (1, 24, 24, 0.15), (1, 32, 32, 0.3), (1, 32, 48, 0.25), (1, 48, 32, 0.15)],
}
# fmt: off
# tokens: of a batch; chunk: latents of the first shape that are encoded at a time; chunks: how many are kept, the
# oldest giving way to a new one every `fresh` steps.
RECIPES = {
    "video": {"lr": 0.03, "adam_lr": 1.2e-3, "ema": 0.999, "tokens": 40960, "chunk": 48, "chunks": 160, "fresh": 8,
              "log_every": 200, "shapes": SHAPES["video"]},
    "image": {"lr": 0.03, "adam_lr": 1.2e-3, "ema": 0.999, "tokens": 49152, "chunk": 256, "chunks": 160, "fresh": 8,
              "log_every": 200, "shapes": SHAPES["image"]}}
REFINE = {"lr": 0.015, "adam_lr": 6e-4}  # a piece that goes on from finished weights
TINY = {family: {"tokens": 200, "chunk": 2, "chunks": 2, "fresh": 2, "log_every": 1, "shapes": [(frames, 4, 4, 1.0)]}
        for family, frames in (("video", 3), ("image", 1))}
# fmt: on
SHIFT = {"video": 2.0, "image": 1.8}
AT_ONE = 0.05  # share of samples with t = 1 exactly: a fitted file may be decoded in one step from pure noise
UNSHIFTED = 0.7  # share of samples with t uniform: 740 bytes of coded noise end at t = 0.56, 4,700 at 0.22
NO_CAPTION = 0.5  # coded noise has none
FIRST_GIVEN, ANY_GIVEN = 0.25, 0.25  # shares of the samples of clips
SPOILED, SPOIL_FROM, SPOIL_TO = 0.5, 0.003, 0.1  # share of given frames, and the least and greatest error in them
WARMUP = 300  # steps
SAVE_EVERY_S = 180.0


@torch.no_grad()
def embed_captions(family: str, text, captions: list[str], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, S, 64] and masks [N, S] exactly as the stock pipelines compute them."""
    tokenizer, encoder = text
    if family == "video":
        for caption in captions:  # the last slot stands for the padding
            if len(tokenizer(caption).input_ids) >= TEXT_SLOTS:
                raise VovError(f"the caption {caption!r} has {TEXT_SLOTS} tokens or more; shorten it in captions.tsv")
        tokens = tokenizer(captions, padding="max_length", max_length=TEXT_SLOTS, return_tensors="pt")
        mask = tokens.attention_mask
        hidden = encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]
    else:
        tokens = tokenizer([parts.TEMPLATE.format(c) for c in captions], padding=True, return_tensors="pt")
        hidden = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
                         output_hidden_states=True).hidden_states[-1][:, parts.DROPPED:]
        mask = tokens.attention_mask[:, parts.DROPPED:]
        hidden = hidden * mask[..., None]
    return hidden.float().to(device), mask.bool().to(device)


def velocity(family: str, model, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor,
             mask: torch.Tensor) -> torch.Tensor:
    """x [B, z, T, h, w] → v of x's shape; t in [0, 1] is [B], or, for video alone, [B, T]: a time per latent frame."""
    if family == "image":
        return dit_forward.qwen(model, x, t, text, mask)
    return dit_forward.wan(model, x, t if t.ndim == 2 else t[:, None].repeat(1, x.shape[2]), text)


class LatentBank:
    """Latents of augmented media: a ring of chunks [chunk, z, T, h, w] in bfloat16 per shape, with their captions.

    Chunk k is drawn from a seed of its own, so that a resumed run finds the chunks it had.
    """

    def __init__(self, family: str, vae, bank: Bank, cfg: dict, seed: int):
        self.family, self.vae, self.bank, self.seed = family, vae, bank, seed
        self.shares = [s[3] for s in cfg["shapes"]]
        shape = (1, -1, 1, 1, 1)
        self.mean = torch.tensor(vae.config.latents_mean, device=bank.device).view(shape)
        self.std = torch.tensor(vae.config.latents_std, device=bank.device).view(shape)
        self.variance = torch.zeros(1)
        self.rings, self.captions, self.sizes = [], [], []
        for t, h, w, share in cfg["shapes"]:
            n = max(2, round(cfg["chunk"] * math.prod(cfg["shapes"][0][:3]) / (t * h * w)))
            count = max(1, round(cfg["chunks"] * share))
            self.rings.append(torch.empty(count, n, vae.config.z_dim, t, h, w, dtype=torch.bfloat16,
                                          device=bank.device))
            self.captions.append(torch.empty(count, n, dtype=torch.long, device=bank.device))
            self.sizes.append(count)

    @torch.no_grad()
    def encode(self, which: int, k: int) -> None:
        """Draws and encodes chunk k of one shape, over the chunk that is `sizes[which]` older."""
        ring, slot = self.rings[which], k % self.sizes[which]
        n, _, t, h, w = ring.shape[1:]
        self.bank.seed(self.seed * 1000 + which * 1_000_003 + k)
        size = (8 * h, 8 * w)
        x, captions = (self.bank.draw_video(n, 4 * t - 3, size) if self.family == "video"
                       else self.bank.draw_stills(n, size))
        kind = self.bank.device.split(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            z = forward.encode(self.vae, x).float()
        ring[slot] = ((z - self.mean) / self.std).to(torch.bfloat16)
        self.captions[which][slot] = captions

    def fill(self, newest: list[int]) -> None:
        """Encodes the chunks that a run has once `newest[i]` chunks of shape i were drawn."""
        for which, last in enumerate(newest):
            for k in range(max(0, last - self.sizes[which]), last):
                self.encode(which, k)
        z = self.rings[0][:, :2].float().transpose(0, 2).flatten(1)
        self.variance = z.var(1).view(1, -1, 1, 1)  # of each channel, [1, z, 1, 1]


def draw_t(family: str, n: int, generator: torch.Generator, device: str) -> torch.Tensor:
    """t [n]: some exactly 1, some uniform, the rest under the sampler's shift: t = s·u / (1 + (s − 1)·u). u is spread
    evenly over the batch, which makes the gradient less noisy."""
    u, kind = torch.rand(2, n, generator=generator, device=device)
    u = (torch.randperm(n, generator=generator, device=device) + u) / n
    t = SHIFT[family] * u / (1 + (SHIFT[family] - 1) * u)
    t = torch.where(kind < AT_ONE + UNSHIFTED, u, t)
    return torch.where(kind < AT_ONE, torch.ones_like(t), t)


def draw_given(n: int, frames: int, generator: torch.Generator, device: str) -> torch.Tensor:
    """Which latent frames of each sample are given, bool [n, frames]: none, the first, or any but one."""
    kind, order = (torch.rand(n, k, generator=generator, device=device) for k in (1, frames))
    first = torch.arange(frames, device=device) == 0
    any_but_one = (torch.rand(n, frames, generator=generator, device=device) < 0.5) & (order < order.amax(1, True))
    given = first & (kind < FIRST_GIVEN)
    return torch.where(kind > 1 - ANY_GIVEN, any_but_one, given) if frames > 1 else torch.zeros_like(given)


def spoil(first: torch.Tensor, variance: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latent frames [B, z, h, w] as a code with a mean squared error of D per value would give them back.

    Channels with less variance than D are lost, the others shrink and get noise: the Gaussian test channel
    x̂ = (1 − D/σ²)·x + √(D·(1 − D/σ²))·n. D is drawn for each sample; the other samples keep theirs."""
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=first.device)  # noqa: E731
    n = len(first)
    level = (math.log(SPOIL_FROM) + draw(n, 1, 1, 1) * math.log(SPOIL_TO / SPOIL_FROM)).exp()
    keep = (1 - level / variance).clamp_min(0)
    noise = torch.randn(first.shape, generator=generator, device=first.device)
    spoiled = keep * first + (level * keep).sqrt() * noise
    return torch.where(draw(n, 1, 1, 1) < SPOILED, spoiled, first)


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """What Muon trains: the matrices of the blocks, without the adaptive norms' modulations."""
    return "blocks." in name and parameter.ndim == 2 and "_mod." not in name


class Task:
    """Draws a batch and gives its loss per sample."""

    def __init__(self, family: str, latents: LatentBank, text: torch.Tensor, mask: torch.Tensor, tokens: int):
        self.family, self.latents, self.text, self.mask, self.tokens = family, latents, text, mask, tokens

    def draw(self, generator: torch.Generator, chooser: torch.Generator) -> tuple[torch.Tensor, ...]:
        """x0 and noise [B, z, T, h, w], t [B, T] (0 where a frame is given), caption [B]. `chooser`, on the CPU and
        equal in all processes, decides the shape."""
        which = int(torch.multinomial(torch.tensor(self.latents.shares), 1, generator=chooser))
        ring, captions = (a[which].flatten(0, 1) for a in (self.latents.rings, self.latents.captions))
        frames, h, w = ring.shape[2:]
        each = frames * h * w // 4 + (0 if self.family == "video" else self.text.shape[1])
        n, device = max(2, self.tokens // each // 8 * 8), ring.device
        index = torch.randint(len(ring), (n,), generator=generator, device=device)
        x0, caption = ring[index].float(), captions[index]
        dropped = torch.rand(n, generator=generator, device=device) < NO_CAPTION
        given = draw_given(n, frames, generator, device)
        if frames > 1:
            spoiled = spoil(x0.transpose(1, 2).flatten(0, 1), self.latents.variance, generator)
            x0 = torch.where(given.view(n, 1, frames, 1, 1), spoiled.unflatten(0, (n, frames)).transpose(1, 2), x0)
        t = draw_t(self.family, n, generator, device)[:, None] * ~given
        noise = torch.randn(x0.shape, generator=generator, device=device)
        return x0, noise, t, torch.where(dropped, torch.zeros_like(caption), caption)

    def loss(self, model, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor,
             caption: torch.Tensor) -> torch.Tensor:
        """Mean squared velocity error of each sample [B], over the frames that are noised."""
        tt = t.view(len(t), 1, -1, 1, 1)
        v = velocity(self.family, model, (1 - tt) * x0 + tt * noise, t if self.family == "video" else t[:, 0],
                     self.text[caption], self.mask[caption])
        each = (v.float() - (noise - x0)).square().mean((1, 3, 4))
        return (each * (t > 0)).sum(1) / (t > 0).sum(1).clamp_min(1)


def restoring(family: str, vae, model, text: tuple[torch.Tensor, torch.Tensor]) -> Callable:
    """(latents of the VAE, noise, t) → the same latents noised to t and restored by the transformer, no caption."""
    std, mean = (torch.tensor(c, device=model.device).view(1, -1, 1, 1, 1)
                 for c in (vae.config.latents_std, vae.config.latents_mean))

    @torch.no_grad()
    def restore(z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        noised, n = (1 - t) * (z - mean) / std + t * noise, len(z)
        v = velocity(family, model, noised, t.flatten(), *(a.expand(n, *a.shape[1:]) for a in text))
        return (noised - t * v.float()) * std + mean

    return restore


@torch.no_grad()
def loss_by_time(task: Task, model, latents: torch.Tensor, kind: str, seed: int = 5) -> dict[str, float]:
    """Velocity error without caption at several t, of latents [N, z, T, h, w]: comparable between models of one VAE."""
    dit_forward.COMPILED.clear()  # no other shape is worth compiling for
    generator, out = torch.Generator(latents.device).manual_seed(seed), {}
    for t in (0.9, 0.7, 0.5, 0.35, 0.2, 0.1):
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            times = torch.full((len(latents), latents.shape[2]), t, device=latents.device)
            error = task.loss(model, latents, noise, times, torch.zeros_like(times[:, 0]).long())
        out[str(t)] = round(float(error.mean()), 4)
    return out


@torch.no_grad()
def held_out_latents(family: str, vae, held: Bank, tiny: bool = False) -> torch.Tensor:
    """Normalised latents of media that training never draws: 48 clips in the native geometry, or 96 stills."""
    held.seed(7)
    size = (32, 32) if tiny else (112, 192) if family == "video" else (192, 192)
    n, frames = (2, 9) if tiny else (48, 17)
    x = held.draw_clips(n, frames, size)[0] if family == "video" else held.draw_stills(2 * n, size)[0]
    std, mean = (torch.tensor(c, device=x.device).view(1, -1, 1, 1, 1)
                 for c in (vae.config.latents_std, vae.config.latents_mean))
    return (forward.encode(vae, x).float() - mean) / std


def train(family: str, model: nn.Module, vae, text_stack, bank: Bank, budget: Budget, cfg: dict, seed: int,
          rank: int, state: Path, resume: bool, held: Bank | None = None) -> dict:
    """Trains `model` in place, encoding included; leaves the averaged weights in it. Returns what the card tells.

    Under several processes each has its own latents and noise; gradients are averaged.
    """
    device, kind = bank.device, bank.device.split(":")[0]
    vae.to(device).eval().requires_grad_(False)
    if kind == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        forward.speed_up()
        dit_forward.speed_up()
    text, mask = embed_captions(family, text_stack, bank.captions, device)
    model.to(device).train()
    optimiser = Muon(model, is_matrix, cfg["lr"], cfg["adam_lr"], momentum=0.95, weight_decay=0.01)
    generator, chooser = torch.Generator(device).manual_seed(seed + 1 + rank), torch.Generator().manual_seed(seed)
    run = Training(model, optimiser, Ema(model, cfg["ema"]), (generator, chooser))
    budget.begin(run.load(state) if resume and state.is_file() else 0.0)
    if rank and run.step:  # the saved generator is the first process's
        generator.manual_seed(seed + 1 + rank + run.step * 64)
    latents = LatentBank(family, vae, bank, cfg, seed * 64 + rank)
    fresh = lambda step: [n + (step // cfg["fresh"] + len(latents.sizes) - 1 - i) // len(latents.sizes)  # noqa: E731
                          for i, n in enumerate(latents.sizes)]
    latents.fill(fresh(run.step))
    log.info("%s: latents %s after %.0f s", family, [tuple(r.shape) for r in latents.rings], budget.elapsed())
    task, saved, shown = Task(family, latents, text, mask, cfg["tokens"]), budget.elapsed(), {}

    def update(*batch: torch.Tensor) -> tuple[torch.Tensor]:
        optimiser.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            error = task.loss(model, *batch)
        error.mean().backward()
        average_gradients(optimiser)
        optimiser.step()
        return (error.detach(),)

    step = Captured(update, kind)
    while (progress := agreed(budget.progress(run.step), device)) < 1:
        if run.step % cfg["fresh"] == 0 and run.step:
            which = (run.step // cfg["fresh"] - 1) % len(latents.sizes)
            latents.encode(which, fresh(run.step)[which] - 1)
        batch = task.draw(generator, chooser)
        optimiser.set_factor(rate_factor(progress, run.step, WARMUP))
        (error,) = step(*batch)
        run.ema.update()
        mean = error.mean()
        shown["loss"] = shown.get("loss", mean).lerp(mean, 0.02)
        if run.step % cfg["log_every"] == 0:
            log.info("%s %6d  %5.0f s  loss %.4f", family, run.step, budget.elapsed(), float(shown["loss"]))
        run.step += 1
        if rank == 0 and budget.elapsed() - saved > SAVE_EVERY_S:
            run.save(state, saved := budget.elapsed())
    if rank == 0:
        run.save(state, budget.elapsed())
    run.ema.copy_to(model)
    facts = {"steps": run.step, "seconds": round(budget.elapsed()), "loss": round(float(shown["loss"]), 4)}
    if held is not None:
        seen = held_out_latents(family, vae, held, len(latents.rings[0][0]) == 2)
        facts["held_out_loss"] = loss_by_time(task, model, seen, kind)
    return facts
