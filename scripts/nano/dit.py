"""Flow-matching pretraining of the two transformers on latents of the frozen VAE.

x_t = (1 − t)·x0 + t·ε, target v = ε − x0, loss = mean squared error over all latent values. A fifth of the samples has
t = 1 exactly: a fitted file may be decoded in one step from pure noise, so the model must be good there, not only near
it. The other t are uniform under the timestep shift of the model's own sampler.
"""

import logging
import math
import time

import torch
import torch.nn.functional as F

from . import parts
from . import vae as vae_module
from .muon import Muon

log = logging.getLogger(__name__)
TEXT_SLOTS, WAN_TEXT_LENGTH = 32, 512  # real tokens a caption may have; what the Wan pipeline pads captions to
SHAPES = {  # latent frames, height, width, share of the training steps
    "video": [(5, 14, 24, 0.6), (5, 16, 16, 0.3), (3, 14, 24, 0.1)],
    "image": [(1, 16, 16, 0.3), (1, 24, 24, 0.2), (1, 32, 32, 0.3), (1, 24, 32, 0.2)],
}
# fmt: off
DIT_RUN = {"video": {"lr": 0.03, "adam_lr": 1.2e-3, "ema": 0.999, "tokens": 65536, "bank": 8000, "encode_batch": 64,
                     "log_every": 200},
           "image": {"lr": 0.03, "adam_lr": 1.2e-3, "ema": 0.999, "tokens": 49152, "bank": 24000, "encode_batch": 256,
                     "log_every": 200}}
TINY_DIT = {"tokens": 900, "bank": 6, "encode_batch": 2, "log_every": 1}
# fmt: on
SHIFT = {"video": 3.0, "image": 1.8}


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


def embed_captions(family: str, text, captions: list[str], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, S, 64] and masks [N, S] exactly as the stock pipelines compute them."""
    tokenizer, encoder = text
    with torch.no_grad():
        if family == "video":
            tokens = tokenizer(
                captions, padding="max_length", max_length=TEXT_SLOTS, return_tensors="pt", truncation=False
            )
            assert tokens.attention_mask[:, -1].sum() == 0, "a caption is too long"
            mask = tokens.attention_mask
            hidden = encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]
        else:
            tokens = tokenizer([parts.TEMPLATE.format(c) for c in captions], padding=True, return_tensors="pt")
            hidden = encoder(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
            ).hidden_states[-1][:, 34:]
            mask = tokens.attention_mask[:, 34:]
            hidden = hidden * mask[..., None]
    return hidden.float().to(device), mask.bool().to(device)


def velocity(
    family: str, model, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """x [B, z, T, h, w], t [B] in [0, 1] → v of x's shape, through the stock model's own interface."""
    if family == "video":
        return model(hidden_states=x, timestep=t * 1000, encoder_hidden_states=text, return_dict=False)[0]
    b, z, _, h, w = x.shape
    packed = x.view(b, z, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, z * 4)
    v = model(
        hidden_states=packed,
        timestep=t,
        encoder_hidden_states=text,
        encoder_hidden_states_mask=mask,
        img_shapes=[[(1, h // 2, w // 2)]] * b,
        return_dict=False,
    )[0]
    return v.view(b, h // 2, w // 2, z, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, z, 1, h, w)


class LatentBank:
    """Latents of augmented media, encoded once: a tensor [N, z, T, h, w] in bfloat16 and captions [N] per shape."""

    @torch.no_grad()
    def __init__(self, family: str, vae, bank, count: int, batch: int):
        mean = torch.tensor(vae.config.latents_mean, device=bank.device).view(1, -1, 1, 1, 1)
        std = torch.tensor(vae.config.latents_std, device=bank.device).view(1, -1, 1, 1, 1)
        self.sets, self.shares = [], []
        for t, h, w, share in SHAPES[family]:
            latents, captions, done = [], [], 0
            while done < count * share:
                n, size = max(2, batch * 4 // (t * 4)), (8 * h, 8 * w)
                x, c = bank.draw_video(n, 4 * t - 3, size) if family == "video" else bank.draw_stills(n, size)
                with torch.autocast(bank.device.split(":")[0], torch.bfloat16, enabled=bank.device != "cpu"):
                    z = vae_module.encode(vae, x).float()
                latents.append(((z - mean) / std).to(torch.bfloat16))
                captions.append(c)
                done += n
            self.sets.append((torch.cat(latents), torch.cat(captions)))
            self.shares.append(share)


def draw_t(family: str, n: int, generator: torch.Generator, device: str) -> torch.Tensor:
    """t [n]: one fifth exactly 1, the rest shifted-uniform: t = s·u / (1 + (s − 1)·u)."""
    u = torch.rand(n, generator=generator, device=device)
    t = SHIFT[family] * u / (1 + (SHIFT[family] - 1) * u)
    return torch.where(torch.rand(n, generator=generator, device=device) < 0.2, torch.ones_like(t), t)


def prepare_model(family: str, model, device: str, compile_blocks: bool):
    """Swap in the exact, faster attention pieces and compile the repeated block; returns a function that undoes it."""
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
        except Exception as error:
            log.warning("torch.compile is not usable here (%s); running eager", type(error).__name__)

    def undo():
        for block, processor in zip(model.blocks, stock, strict=True) if stock else []:
            block.attn2.processor = processor

    return undo


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """What Muon trains: the matrices of the blocks, without the adaptive norms' modulations."""
    return "blocks." in name and parameter.ndim == 2 and "_mod." not in name


def train(family: str, model, vae, text_stack, bank, seconds: float, cfg: dict, seed: int) -> dict:
    """Train `model` in place for `seconds` of wall clock, encoding included; leaves the EMA weights in it."""
    device, start = bank.device, time.monotonic()
    kind = device.split(":")[0]
    bank.seed(seed)
    vae.to(device).eval().requires_grad_(False)
    if kind == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        vae_module.speed_up()
    latents = LatentBank(family, vae, bank, cfg["bank"], cfg["encode_batch"])
    log.info("%s: latents %s after %.0f s", family, [tuple(s[0].shape) for s in latents.sets], time.monotonic() - start)
    text, mask = embed_captions(family, text_stack, bank.captions, device)
    model.to(device).train()
    undo = prepare_model(family, model, device, kind == "cuda")
    optimiser = Muon(model, is_matrix, cfg["lr"], cfg["adam_lr"], momentum=0.95, weight_decay=0.01)
    generator = torch.Generator(device).manual_seed(seed + 1)
    ema, step, shown, last, first_step = vae_module.Ema(model, cfg["ema"]), 0, {}, {}, time.monotonic()
    while (progress := (time.monotonic() - first_step) / max(1.0, seconds - (first_step - start))) < 1:
        which = bank.choice.choices(range(len(latents.sets)), latents.shares)[0]
        stock, stock_captions = latents.sets[which]
        tokens = stock.shape[2] * stock.shape[3] * stock.shape[4] // 4 + (0 if family == "video" else text.shape[1])
        n = max(2, cfg["tokens"] // tokens // 8 * 8)
        index = torch.randint(len(stock), (n,), generator=generator, device=device)
        x0, caption = stock[index].float(), stock_captions[index]
        dropped = torch.rand(n, generator=generator, device=device) < 0.15
        caption = torch.where(dropped, torch.zeros_like(caption), caption)
        t = draw_t(family, n, generator, device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        tt = t.view(-1, 1, 1, 1, 1)
        optimiser.set_factor(vae_module.time_schedule(progress, step, 300))
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            v = velocity(family, model, (1 - tt) * x0 + tt * noise, t, text[caption], mask[caption])
        error = (v.float() - (noise - x0)).square().flatten(1).mean(1)
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
        ema.update()
        at_one, below = error.detach()[t == 1].mean(), error.detach()[t < 1].mean()
        shown = {
            k: 0.98 * shown.get(k, e) + 0.02 * e
            for k, e in (("t=1", at_one), ("t<1", below))
            if k in shown or step >= 0
        }
        if step % cfg["log_every"] == 0:
            last = {k: round(float(e), 4) for k, e in shown.items()}
            log.info("%s %5d  %4.0f s  loss %s", family, step, time.monotonic() - start, last)
        step += 1
    undo()
    ema.copy_to(model)
    return {"steps": step, "seconds": round(time.monotonic() - start), **last}
