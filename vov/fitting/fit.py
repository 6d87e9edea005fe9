"""The fitting loop: one for both trees and both stages.

Stage 1 minimises the distortion of the velocity over θ; stage 2 (λ > 0) adds λ · bits per θ entry, with θ rounded
at a learned step in the forward pass. What a sample sees is `flow.Training`'s choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vov import VovError, config
from vov.config import FitConfig
from vov.fitting import checkpoint
from vov.fitting.distributed import World
from vov.fitting.loss import distortion, pixel_weights
from vov.fitting.rate import RateModel, empirical_bits, quantiser_noise
from vov.fitting.runlog import RunLog
from vov.fitting.samples import Training
from vov.model import speed
from vov.model.backbone import Backbone, Condition
from vov.model.flow import decoder_noise, interpolate, sigma_grid
from vov.model.unilora import Adapter, Projection
from vov.noise import Stream, integers, uniform

DENSITY_LR = 1e-2  # the learned density must follow θ's histogram faster than θ moves
STEP_LR = 2e-3  # of the raw quantiser step


class SpikeGuard:
    """Shortens a gradient that is longer than `limit` times the running mean length.

    At the learning rates that a short fit needs, a single spike can throw θ out of its valley for good: Adam's second
    moment forgets slowly, so a spike's step is many times a usual one. A limit relative to the recent past needs no
    tuning to model or loss (compare AutoClip, Seetharaman et al. 2020, and ZClip, Kumar et al. 2025).

    Args:
        limit: 0 switches it off.
    Attributes: mean, the running mean [] (time constant 20 steps); 0 before the first gradient. In place, for graphs.
    """

    def __init__(self, limit: float, device: torch.device):
        self.limit, self.mean = limit, torch.zeros((), device=device)

    @torch.no_grad()
    def __call__(self, gradient: Tensor) -> None:
        """Shortens `gradient`, in place."""
        if not self.limit:
            return
        length = gradient.norm().clamp_min(1e-30)
        self.mean.copy_(torch.where(self.mean > 0, self.mean, length))
        factor = (self.limit * self.mean / length).clamp(max=1.0)
        gradient.mul_(factor)
        self.mean.lerp_(length * factor, 0.05)


@dataclass(frozen=True)
class Item:
    """One thing that θ must regenerate: latents x0 [1, C, T, h, w], its caption, its number in the file."""

    latents: Tensor
    condition: Condition
    index: int = 0


@dataclass(frozen=True)
class Fitted:
    """A finished fit: θ float32 [d], the learned step (None before stage 2) and where its checkpoint is."""

    theta: Tensor
    step: float | None
    checkpoint: Path


class Fit:
    """One stage of fitting θ to items.

    Args:
        backbone: frozen; its layers are replaced by `adapter`'s.
        adapter, projection: from `unilora`, made by the caller, who also decodes with them.
        items: what to regenerate; several share θ, each with its own caption.
        settings: the resolved configuration of this stage.
        folder: gets config.yaml, log.jsonl, tensorboard/, checkpoint.safetensors, previews.
        world: this process among others.
        preview: (θ̂, step) → {name: value}, decodes and writes pictures; called in the first process.
        start: θ (and, from a stage-2 checkpoint, the rate tensors) to start from.
    Raises:
        VovError: settings that differ from those of the checkpoint in `folder`, or a loss that is not finite.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter, projection: Projection, items: Sequence[Item],
                 settings: FitConfig, folder: Path, *, world: World | None = None,
                 preview: Callable[[Tensor, int], dict[str, float]] | None = None,
                 start: dict[str, Tensor] | None = None, shift: float = 3.0):
        self.backbone, self.adapter, self.projection, self.items = backbone, adapter, projection, items
        self.settings, self.folder, self.preview, self.world = settings, folder, preview, world or World()
        self.device = backbone.device
        self.sigmas = sigma_grid(settings.decode_steps, shift)
        self.training = Training(settings.noise, settings.timesteps, self.sigmas, shift, settings.seed)
        self.batch, self.accumulate = settings.batch_size, settings.accum_step
        if self.training.constant:  # more samples than items would only be repetitions
            share = -(-len(items) // self.world.size)
            self.batch, self.accumulate = min(self.batch, share), min(self.accumulate, -(-share // self.batch))
        shape = items[0].latents.shape
        if any(item.latents.shape != shape for item in items):
            raise VovError("all items of one fit must have the same size; give one WIDTH and HEIGHT")

        start = start or {}
        self.theta = self._initial_theta(start).requires_grad_()
        self.rate = self._initial_rate(start) if settings.lambda_rate > 0 else None
        self.weights = pixel_weights(backbone, items[0].latents, settings.seed) if settings.loss == "pixel" else None
        self.clean = torch.cat([item.latents for item in items])
        self.anchors = torch.cat([decoder_noise(settings.seed, shape, item.index, self.device) for item in items])
        self.conditions = backbone.collate([item.condition for item in items])
        recompute, self.compiled = speed.plan(
            backbone.transformer, self.device, settings.checkpointing, settings.compile)
        if self.world.size > 1 and self.compiled == "graph":
            self.compiled = "never"  # a captured step has no place for the reduction
        blocks = backbone.transformer.get_submodule(backbone.blocks)
        speed.checkpoint_blocks(blocks, recompute)
        if self.compiled == "blocks":
            speed.compile_blocks(blocks)
        self._make_optimizer()
        self._make_step()

    def run(self) -> Fitted:
        """Fits, or goes on fitting; returns when all steps are done."""
        path, done = self.folder / "checkpoint.safetensors", 0
        if path.is_file() and self.settings.resume == "auto":
            done = self._resume(path)
        if self.world.first:
            config.save(self.settings, self.folder / "config.yaml")
        total, title = self.settings.train_steps, self.folder.name
        if done < total:
            log = RunLog(self.folder, title, total, done, self.world.first)
            try:
                for step in range(done, total):
                    outputs = self._advance(step)
                    log.step(step + 1, lambda outputs=outputs: self._read(outputs))
                    self._after(step + 1, total, path, log)
            finally:
                log.close()
        self.world.barrier()
        return Fitted(self.theta.detach(), self.rate.step_value if self.rate else None, path)

    def _after(self, done: int, total: int, path: Path, log: RunLog) -> None:
        """Checkpoint and preview, in the first process."""
        if not self.world.first:
            return
        if done % self.settings.save_every == 0 or done == total:
            if not torch.isfinite(self.theta).all():
                raise VovError(f"θ is no longer finite at step {done}; lower LR (it is {self.settings.lr:g}) and "
                               "start again in another OUT_DIR")
            checkpoint.save(path, done, self.theta, self.rate, self.optimizer, self._metadata(),
                            {"gradient_mean": self.guard.mean})
        every = self.settings.preview_every
        if self.preview and ((every and done % every == 0) or done == total):
            log.write(done, self.preview(self.quantised().detach(), done))

    @torch.no_grad()
    def quantised(self) -> Tensor:
        """θ̂ [d] as a decoder would see it; θ itself before stage 2."""
        return self.rate.quantise(self.theta, "round") if self.rate else self.theta.detach()

    def _initial_theta(self, start: dict[str, Tensor]) -> Tensor:
        length = self.projection.length
        if "unilora_theta_d" in start:
            theta = start["unilora_theta_d"].float()
            if theta.shape != (length,):
                raise VovError(f"INIT_LORA_PATH holds θ of length {theta.numel()}; set THETA_D_LENGTH={theta.numel()}")
            return theta.to(self.device, copy=True)
        bound = self.settings.theta_init
        return uniform(self.settings.seed, Stream.THETA, length, self.device) * (2 * bound) - bound

    def _initial_rate(self, start: dict[str, Tensor]) -> RateModel:
        rate = RateModel.from_theta(self.theta, self.settings.init_bits)
        rate.load_reference({k: v for k, v in start.items() if k != "unilora_theta_d"})
        return rate.to(self.device)

    def _make_optimizer(self) -> None:
        groups = [{"params": [self.theta], "lr": self.settings.lr, "weight_decay": self.settings.weight_decay}]
        if self.rate:
            groups += self.rate.parameter_groups(STEP_LR, DENSITY_LR)
        self.peaks = [group["lr"] for group in groups]
        captured = self.compiled == "graph"
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=self.device) if captured else group["lr"]
        self.guard = SpikeGuard(self.settings.grad_clip, self.device)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), capturable=captured)

    def _make_step(self) -> None:
        """Static input buffers, so that the step can be captured."""
        shape, count = self.clean.shape[1:], self.batch * self.accumulate
        self.buffers = {
            "which": torch.zeros(count, dtype=torch.long, device=self.device),
            "noise": torch.zeros(count, *shape, device=self.device),
            "time": torch.ones(count, device=self.device),
            "lambda": torch.zeros((), device=self.device),
            "dither": torch.zeros_like(self.theta),
        }
        self.step = self._step
        if self.compiled == "graph":
            self.step = speed.CapturedStep(self._step, self.buffers)

    def _step(self) -> dict[str, Tensor]:
        """Forward, backward and update from the buffers."""
        # In place, not to None: a captured graph and a resumed optimiser both keep the addresses.
        self.optimizer.zero_grad(set_to_none=self.compiled != "graph")
        theta, bits = (self.rate(self.theta, self.buffers["dither"]) if self.rate
                       else (self.theta, torch.zeros((), device=self.device)))
        flat = self.projection.expand(theta)
        leaf = flat.detach().requires_grad_()  # samples accumulate here; θ is reached once
        loss = torch.zeros((), device=self.device)
        for part in torch.arange(self.batch * self.accumulate).split(self.batch):
            piece = slice(int(part[0]), int(part[-1]) + 1)
            error = self._error(leaf, piece)
            share = distortion(error, self.weights) / self.accumulate
            share.backward()
            loss = loss + share.detach()
        objective = self.buffers["lambda"] * bits / self.projection.length
        torch.autograd.backward([flat, objective] if self.rate else [flat],
                                [leaf.grad, None] if self.rate else [leaf.grad])
        self.world.mean(self.theta.grad, loss)
        self.guard(self.theta.grad)
        self.optimizer.step()
        return {"loss": loss, "bits": bits.detach() / self.projection.length}

    def _error(self, leaf: Tensor, piece: slice) -> Tensor:
        """v̂ − v of some samples, [B, C, T, h, w]."""
        self.adapter.bind(self.projection.factors(leaf.to(self.backbone.dtype)))
        which, noise, time = (self.buffers[k][piece] for k in ("which", "noise", "time"))
        clean = self.clean[which]
        condition = {k: v[which] for k, v in self.conditions.items()}
        velocity = self.backbone.velocity(interpolate(clean, noise, time), time, condition)
        return velocity - (noise - clean)

    def _advance(self, step: int) -> dict[str, Tensor]:
        """Fills the buffers for `step` and takes it."""
        schedule = self._schedule(step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * schedule)
            else:
                group["lr"] = peak * schedule
        buffers, count = self.buffers, self.batch * self.accumulate
        total = count * self.world.size
        if not (self.training.constant and len(self.items) == 1 and step > 0 and self._filled):
            which = self._choose(step, total)
            for local in range(count):
                # Number of this sample in the batch that all processes make together.
                number = (local // self.batch * self.world.size + self.world.rank) * self.batch + local % self.batch
                item = which[number]
                buffers["which"][local] = item
                buffers["time"][local] = self.training.time(step, number, total)
                anchored = self.training.anchored(step, number)
                buffers["noise"][local] = self.anchors[item] if anchored else self.training.draw(
                    step, number, self.clean.shape[1:], self.device)
            self._filled = True
        if self.rate:
            ramp = min(1.0, (step + 1) / max(1, self.settings.lambda_rate_warmup))
            buffers["lambda"].fill_(self.settings.lambda_rate * ramp)
            buffers["dither"].copy_(quantiser_noise(self.settings.seed, step, self.theta))
        return self.step()

    _filled = False

    def _choose(self, step: int, total: int) -> list[int]:
        """Which item each of `total` samples shows: shuffled passes over all items."""
        items, chosen = len(self.items), []
        for position in range(step * total, (step + 1) * total):
            epoch, place = divmod(position, items)
            keys = integers(self.settings.seed, (Stream.OTHER, 1, epoch), 1 << 30, items)
            chosen.append(int(torch.argsort(keys, stable=True)[place]))
        return chosen

    def _schedule(self, step: int) -> float:
        """Learning-rate factor: linear warm-up, then cosine to zero or constant."""
        warmup, total = self.settings.lr_warmup, self.settings.train_steps
        if step < warmup:
            return (step + 1) / warmup
        if self.settings.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def _read(self, outputs: dict[str, Tensor]) -> dict[str, float]:
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise VovError(f"the loss is {loss}; lower LR (it is {self.settings.lr:g}) and start again in another "
                           "OUT_DIR")
        values = {"loss": loss, "lr": float(self.optimizer.param_groups[0]["lr"])}
        if self.rate:
            coded = empirical_bits(self.rate.symbols(self.theta)) / self.projection.length
            values |= {"bits": coded, "bits_model": float(outputs["bits"]), "step": self.rate.step_value}
        return values

    def _metadata(self) -> dict:
        return {"config": self.settings.identity(), "config_hash": self.settings.hash(),
                "model": self.backbone.name, "fingerprint": self.backbone.fingerprint().hex(),
                "index_hash": self.projection.hash.hex(), "rank": self.projection.rank,
                "proj_seed": self.projection.seed, "lora_preset": self.settings.lora_preset,
                "last_k": self.settings.last_k}

    def _resume(self, path: Path) -> int:
        found = checkpoint.load(path)
        ours, theirs = self._metadata(), found.metadata
        if theirs.get("config_hash") != ours["config_hash"] or theirs.get("fingerprint") != ours["fingerprint"]:
            changed = [k for k, v in ours["config"].items() if theirs.get("config", {}).get(k) != v]
            raise VovError(f"{path} belongs to a run with other settings ({', '.join(changed) or 'another model'}); "
                           "use another OUT_DIR, the old settings, or RESUME=never to start over")
        checkpoint.restore(found, self.theta, self.rate, self.optimizer, {"gradient_mean": self.guard.mean})
        return found.step
