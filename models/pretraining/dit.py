"""Flow-matching pretraining of the two transformers on latents of the frozen VAEs.

x_t = (1 − t)·x0 + t·ε, target v = ε − x0, loss = mean squared error over the latent values that are noised.

nano-video learns two tasks with one set of weights, as Wan2.2-TI2V does: in half of the steps every latent frame has
the sample's time t; in the other half the first latent frame is given clean, at t = 0, and the rest follow it. Half of
the given frames are spoiled as a coarse code would spoil them, because a chain of chunks starts from decoded frames.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from vov import VovError

from . import parts
from . import vae_forward as forward
from .bank import Bank
from .loop import Budget, Ema, Training, agreed, average_gradients, rate_factor
from .muon import Muon

log = logging.getLogger(__name__)
TEXT_SLOTS, WAN_TEXT_LENGTH = 32, 512  # real tokens a caption may have; what the Wan pipeline pads captions to
SHAPES = {  # latent frames, height, width, share of the training steps
    "video": [(5, 14, 24, 0.7), (5, 16, 16, 0.3)],
    "image": [(1, 16, 16, 0.2), (1, 24, 24, 0.15), (1, 32, 32, 0.35), (1, 32, 48, 0.15), (1, 48, 32, 0.15)],
}
# fmt: off
# tokens: of a batch; chunk: latents that are encoded at a time; chunks: how many are kept, the oldest giving way to a
# new one every `fresh` steps.
RECIPES = {
    "video": {"lr": 0.03, "adam_lr": 1.2e-3, "ema": 0.999, "tokens": 49152, "chunk": 48, "chunks": 480, "fresh": 8,
              "log_every": 100, "shapes": SHAPES["video"]},
    "image": {"lr": 0.03, "adam_lr": 1.2e-3, "ema": 0.999, "tokens": 49152, "chunk": 128, "chunks": 400, "fresh": 8,
              "log_every": 100, "shapes": SHAPES["image"]}}
REFINE = {"lr": 0.012, "adam_lr": 5e-4}  # a piece that goes on from finished weights
TINY = {family: {"tokens": 200, "chunk": 2, "chunks": 2, "fresh": 2, "log_every": 1, "shapes": [(frames, 4, 4, 1.0)]}
        for family, frames in (("video", 3), ("image", 1))}
# fmt: on
SHIFT = {"video": 3.0, "image": 1.8}
AT_ONE = 0.15  # share of samples with t = 1 exactly: a fitted file may be decoded in one step from pure noise
UNSHIFTED = 0.3  # share of samples with t uniform: fine detail is decided at small t, which a shift seldom draws
NO_CAPTION = 0.15
SPOILED, SPOIL_FROM, SPOIL_TO = 0.5, 0.003, 0.1  # share of given frames, and the least and greatest error in them
WARMUP = 300  # steps
SAVE_EVERY_S = 120.0


class PaddedTextAttention:
    """Wan's cross-attention when all but the first 31 of 512 text tokens are the same padding.

    Equal keys and values count as one whose logit is raised by log(their number), so 32 tokens give exactly what the
    pipeline's 512 give, at a sixteenth of the cost."""

    def __init__(self, device: str):
        bias = torch.zeros(TEXT_SLOTS, device=device)
        bias[-1] = math.log(WAN_TEXT_LENGTH - TEXT_SLOTS + 1)
        self.bias = bias[None, None, None]

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        k = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        v = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=self.bias.to(q.dtype))
        return attn.to_out[0](out.transpose(1, 2).flatten(2).type_as(hidden_states))


def _rotate(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Qwen-Image's rotary embedding in real arithmetic, which compilers fuse; x [B, S, H, D], freqs [S, D/2]."""
    pairs = torch.view_as_real(freqs)
    cos, sin = pairs[:, None, :, 0], pairs[:, None, :, 1]
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(3).type_as(x)


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
    """x [B, z, T, h, w] → v of x's shape, through the stock model's own interface.

    t in [0, 1] is [B], or, for video alone, [B, T]: one time per latent frame, which all its tokens get."""
    b, z, _, h, w = x.shape
    if family == "video":
        if t.ndim == 2:
            t = t.repeat_interleave(h * w // 4, 1)
        return model(hidden_states=x, timestep=t * 1000, encoder_hidden_states=text, return_dict=False)[0]
    packed = x.view(b, z, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, z * 4)
    v = model(hidden_states=packed, timestep=t, encoder_hidden_states=text, encoder_hidden_states_mask=mask,
              img_shapes=[[(1, h // 2, w // 2)]] * b, return_dict=False)[0]
    return v.view(b, h // 2, w // 2, z, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, z, 1, h, w)


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
            n, count = max(2, round(cfg["chunk"] * cfg["shapes"][0][0] / t)), max(1, round(cfg["chunks"] * share))
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
    """t [n]: some exactly 1, some uniform, the rest under the sampler's shift: t = s·u / (1 + (s − 1)·u)."""
    u, kind = torch.rand(2, n, generator=generator, device=device)
    t = SHIFT[family] * u / (1 + (SHIFT[family] - 1) * u)
    t = torch.where(kind < AT_ONE + UNSHIFTED, u, t)
    return torch.where(kind < AT_ONE, torch.ones_like(t), t)


def spoil(first: torch.Tensor, variance: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """First latent frames [B, z, h, w] as a code with a mean squared error of D per value would give them back.

    Channels with less variance than D are lost, the others shrink and get noise: the Gaussian test channel
    x̂ = (1 − D/σ²)·x + √(D·(1 − D/σ²))·n. D is drawn for each sample; the other samples keep theirs."""
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=first.device)  # noqa: E731
    n = len(first)
    level = (math.log(SPOIL_FROM) + draw(n, 1, 1, 1) * math.log(SPOIL_TO / SPOIL_FROM)).exp()
    keep = (1 - level / variance).clamp_min(0)
    noise = torch.randn(first.shape, generator=generator, device=first.device)
    spoiled = keep * first + (level * keep).sqrt() * noise
    return torch.where(draw(n, 1, 1, 1) < SPOILED, spoiled, first)


def prepare_model(family: str, model, device: str, compile_blocks: bool):
    """Swaps in exact, faster attention pieces and compiles the repeated block; returns a function that undoes it."""
    stock = [b.attn2.processor for b in model.blocks] if family == "video" else None
    if family == "video":
        for block in model.blocks:
            block.attn2.processor = PaddedTextAttention(device)
    else:
        from diffusers.models.transformers import transformer_qwenimage

        transformer_qwenimage.ROPE_PER_DEVICE["cuda"] = _rotate
    if compile_blocks:
        torch._dynamo.config.cache_size_limit = 64
        torch._dynamo.config.suppress_errors = True  # an unsupported graph runs eagerly instead of ending the run
        try:
            for block in model.blocks if family == "video" else model.transformer_blocks:
                block.compile(dynamic=False)
        except Exception as error:  # any compiler failure at all: slow is better than dead
            log.warning("torch.compile is not usable here (%s); running eager", type(error).__name__)

    def undo():
        for block, processor in zip(model.blocks, stock, strict=True) if stock else []:
            block.attn2.processor = processor

    return undo


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """What Muon trains: the matrices of the blocks, without the adaptive norms' modulations."""
    return "blocks." in name and parameter.ndim == 2 and "_mod." not in name


class Task:
    """Draws one batch of the two tasks and gives its loss per sample."""

    def __init__(self, family: str, latents: LatentBank, text: torch.Tensor, mask: torch.Tensor, tokens: int):
        self.family, self.latents, self.text, self.mask, self.tokens = family, latents, text, mask, tokens

    def draw(self, generator: torch.Generator, chooser: torch.Generator) -> dict[str, torch.Tensor]:
        """x0 and noise [B, z, T, h, w], t [B, T], caption [B]. `chooser`, on the CPU and equal in all processes,
        decides shape and task; a first frame that is given has t = 0 in all samples."""
        which = int(torch.multinomial(torch.tensor(self.latents.shares), 1, generator=chooser))
        given = self.family == "video" and float(torch.rand(1, generator=chooser)) < 0.5
        ring, captions = (a[which].flatten(0, 1) for a in (self.latents.rings, self.latents.captions))
        _, _, frames, h, w = ring.shape
        each = frames * h * w // 4 + (0 if self.family == "video" else self.text.shape[1])
        n, device = max(2, self.tokens // each // 8 * 8), ring.device
        index = torch.randint(len(ring), (n,), generator=generator, device=device)
        x0, caption = ring[index].float(), captions[index]
        dropped = torch.rand(n, generator=generator, device=device) < NO_CAPTION
        t = draw_t(self.family, n, generator, device)
        batch = {"x0": x0, "t": t[:, None].repeat(1, frames), "known": int(given),
                 "caption": torch.where(dropped, torch.zeros_like(caption), caption),
                 "noise": torch.randn(x0.shape, generator=generator, device=device)}
        if given:
            x0[:, :, 0] = spoil(x0[:, :, 0], self.latents.variance, generator)
            batch["t"][:, 0] = 0
        return batch

    def loss(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared velocity error of each sample [B], over the frames that are noised."""
        x0, noise, t = batch["x0"], batch["noise"], batch["t"]
        tt = t.view(len(t), 1, -1, 1, 1)
        v = velocity(self.family, model, (1 - tt) * x0 + tt * noise, t if self.family == "video" else t[:, 0],
                     self.text[batch["caption"]], self.mask[batch["caption"]])
        return (v.float() - (noise - x0))[:, :, batch["known"]:].square().flatten(1).mean(1)


@dataclass(frozen=True)
class Piece:
    """One piece of a training: how long, from which seed, which process this is, where the state is.

    resume: go on from that state, if it is there.
    """

    budget: Budget
    seed: int
    rank: int
    state: Path
    resume: bool


def train(family: str, model: nn.Module, vae, text_stack, bank: Bank, cfg: dict, piece: Piece) -> dict:
    """Trains `model` in place, encoding included; leaves the averaged weights in it. Returns what the card tells.

    Under several processes each has its own latents and noise; gradients are averaged.
    """
    budget, seed, rank, state = piece.budget, piece.seed, piece.rank, piece.state
    device, kind = bank.device, bank.device.split(":")[0]
    vae.to(device).eval().requires_grad_(False)
    if kind == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        forward.speed_up()
    text, mask = embed_captions(family, text_stack, bank.captions, device)
    model.to(device).train()
    undo = prepare_model(family, model, device, kind == "cuda")
    optimiser = Muon(model, is_matrix, cfg["lr"], cfg["adam_lr"], momentum=0.95, weight_decay=0.01)
    generator, chooser = torch.Generator(device).manual_seed(seed + 1 + rank), torch.Generator().manual_seed(seed)
    run = Training(model, optimiser, Ema(model, cfg["ema"]), (generator, chooser))
    budget.begin(run.load(state) if piece.resume and state.is_file() else 0.0)
    if rank and run.step:  # the saved generator is the first process's
        generator.manual_seed(seed + 1 + rank + run.step * 64)
    latents = LatentBank(family, vae, bank, cfg, seed * 64 + rank)
    fresh = lambda step: [n + (step // cfg["fresh"] + len(latents.sizes) - 1 - i) // len(latents.sizes)  # noqa: E731
                          for i, n in enumerate(latents.sizes)]
    latents.fill(fresh(run.step))
    log.info("%s: latents %s after %.0f s", family, [tuple(r.shape) for r in latents.rings], budget.elapsed())
    task, saved, last, shown = Task(family, latents, text, mask, cfg["tokens"]), budget.elapsed(), {}, {}
    while (progress := agreed(budget.progress(run.step), device)) < 1:
        if run.step % cfg["fresh"] == 0 and run.step:
            which = (run.step // cfg["fresh"] - 1) % len(latents.sizes)
            latents.encode(which, fresh(run.step)[which] - 1)
        batch = task.draw(generator, chooser)
        optimiser.set_factor(rate_factor(progress, run.step, WARMUP))
        optimiser.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            error = task.loss(model, batch)
        error.mean().backward()
        average_gradients([*optimiser.matrices, *optimiser.rest])
        optimiser.step()
        run.ema.update()
        name = "first frame given" if batch["known"] else "all noised"
        mean = error.detach().mean()
        shown[name] = shown.get(name, mean).lerp(mean, 0.03)
        if run.step % cfg["log_every"] == 0:
            last = {k: round(float(e), 4) for k, e in shown.items()}
            log.info("%s %6d  %5.0f s  loss %s", family, run.step, budget.elapsed(), last)
        run.step += 1
        if rank == 0 and budget.elapsed() - saved > SAVE_EVERY_S:
            run.save(state, saved := budget.elapsed())
    if rank == 0:
        run.save(state, budget.elapsed())
    undo()
    run.ema.copy_to(model)
    return {"steps": run.step, "seconds": round(budget.elapsed()), **last}
