"""The fitting loop: one for both trees and both stages.

Stage 1 minimises the distortion of the velocity over θ; stage 2 (λ > 0) adds λ · bits per θ entry, with θ rounded
at a learned step in the forward pass. What a sample sees is `samples.Training`'s choice.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vov import VovError, config
from vov.adapter.adapted import AdaptedModel
from vov.fitting import checkpoint
from vov.fitting.distributed import World
from vov.fitting.guard import SpikeGuard
from vov.fitting.identity import identity_hash, same_run
from vov.fitting.loss import distortion, pixel_weights
from vov.fitting.rate import RateModel, empirical_bits, quantiser_noise, softness
from vov.fitting.runlog import RunLog
from vov.fitting.samples import Passes, Training, choose
from vov.fitting.settings import FitConfig
from vov.model import speed
from vov.model.backbone import Condition
from vov.model.flow import decoder_noise, interpolate, sigma_grid
from vov.runtime import signals
from vov.runtime.files import content_hash
from vov.runtime.random import Stream, uniform
from vov.runtime.resumable import FIT, claim

if TYPE_CHECKING:
    from vov.fitting.rate_control import RateControl

log = logging.getLogger(__name__)
THETA_INIT = 0.02  # θ starts uniform in ± this
WEIGHT_DECAY = 1e-4  # AdamW's, decoupled
DENSITY_LR = 1e-2  # the learned density must follow θ's histogram faster than θ moves


@dataclass(frozen=True)
class FitItem:
    """One thing that θ must regenerate: latents x0 [1, C, T, h, w], its caption, its number in the file.

    importance: what a squared error of each latent value counts, [1, 1, T, h, w] (`roi`); None: the same everywhere.
    chained: the decoder knows the first latent frame; only the others count (`Backbone.velocity_after`).
    """

    latents: Tensor
    condition: Condition
    index: int = 0
    chained: bool = False
    importance: Tensor | None = None


@dataclass(frozen=True)
class Fitted:
    """A finished fit: θ float32 [d], the learned step (None before stage 2) and where its checkpoint is."""

    theta: Tensor
    step: float | None
    checkpoint: Path


@dataclass(frozen=True)
class FitContext:
    """What surrounds a fit.

    Attributes:
        world: this process among others.
        preview: (θ̂, step) → {name: value}, decodes and writes pictures; called in the first process.
        start: θ (and, from a stage-2 checkpoint, the rate tensors) to start from.
        shift: of the σ grid.
        content: {name: hash} of what is fitted; a checkpoint of other content is not resumed.
        notes: further facts for whoever reads the checkpoint: captions, frames, rate.
        rate_control: what a stage with a rate term is aimed at; None: λ stays as it is.
    """

    world: World = field(default_factory=World)
    preview: Callable[[Tensor, int], dict[str, float]] | None = None
    start: dict[str, Tensor] | None = None
    shift: float = 3.0
    content: dict[str, str] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    rate_control: RateControl | None = None


class Fit:
    """One stage of fitting θ to items.

    Args:
        model: the frozen model with the adapter that is fitted; the caller also decodes with it.
        items: what to regenerate; several share θ, each with its own caption.
        settings: the resolved configuration of this stage.
        folder: gets config.yaml, log.jsonl, tensorboard/, checkpoint.safetensors, previews.
    Raises:
        VovError: the checkpoint in `folder` belongs to another run, or a loss is not finite.
    """

    def __init__(self, model: AdaptedModel, items: Sequence[FitItem], settings: FitConfig, folder: Path,
                 context: FitContext | None = None):
        context = context or FitContext()
        backbone, shift = model.backbone, context.shift
        self.backbone, self.model, self.projection, self.items = backbone, model, model.projection, items
        self.settings, self.folder, self.preview, self.world = settings, folder, context.preview, context.world
        self.device, self.notes, self.rate_control = backbone.device, context.notes, context.rate_control
        self.sigmas = sigma_grid(settings.decode_steps, shift)
        self.training = Training(settings.noise, settings.timesteps, self.sigmas, shift, settings.seed)
        self.passes = Passes(self.training.constant, len(items), settings.batch_size, settings.accum_step,
                             self.world.rank, self.world.size)
        shape = items[0].latents.shape
        if any(item.latents.shape != shape for item in items):
            raise VovError("all pictures of one fit must have the same size; give one `width` and `height`")

        start = context.start or {}
        self.content = {**context.content, "start": content_hash(*(
            part for name in sorted(start) for part in (name, start[name].cpu().float().numpy().tobytes())))}
        self.theta = self._initial_theta(start).requires_grad_()
        self.rate = self._initial_rate(start) if settings.lambda_rate > 0 else None
        self.clean = torch.cat([item.latents for item in items])
        self.weights = pixel_weights(backbone, self.clean, settings.seed) if settings.loss == "pixel" else None
        self.importance = None
        if any(item.importance is not None for item in items):
            even = torch.ones(1, 1, *shape[2:], device=self.device)
            self.importance = torch.cat([even if t.importance is None else t.importance for t in items]).sqrt()
        self.chained = torch.tensor([item.chained for item in items], device=self.device)
        self.any_chained = any(item.chained for item in items)
        self.anchors = torch.cat([decoder_noise(settings.seed, shape, item.index, self.device) for item in items])
        self.conditions = backbone.collate([item.condition for item in items])
        self._make_fast()
        self._make_optimizer()
        self._make_step()

    def run(self) -> Fitted:
        """Fits, or goes on fitting; returns when all steps are done. A signal ends it after the step at hand, saved."""
        path, done = self.folder / "checkpoint.safetensors", 0
        if path.is_file():
            done = self._resume(path)
        if self.world.first:
            claim(self.folder, FIT)  # before the first of them: what a full disk leaves is ours
            config.save(self.settings, self.folder / "config.yaml")
        total, title = self.settings.train_steps, self.folder.name
        if done < total:
            record = RunLog(self.folder, title, total, done, self.world.first)
            try:
                with signals.graceful() as signalled:
                    for step in range(done, total):
                        outputs = self.advance(step)
                        record.step(step + 1, lambda outputs=outputs: self._read(outputs))
                        self._after(step + 1, total, path, record)
                        if number := max(self.world.numbers(signalled())):
                            self._save(path, step + 1)
                            raise signals.Stopped(number, f"{title} saved at step {step + 1} of {total}")
            finally:
                record.close()
        self.world.barrier()
        return Fitted(self.theta.detach(), self.rate.step_value if self.rate else None, path)

    def _after(self, done: int, total: int, path: Path, record: RunLog) -> None:
        """Preview and checkpoint."""
        every = self.settings.preview_every
        if (every and done % every == 0) or done % self.settings.save_every == 0 or done == total:
            self._refuse_infinite(done)
        if self.world.first and self.preview and ((every and done % every == 0) or done == total):
            record.write(done, self.preview(self.theta_hat().detach(), done))
        if done % self.settings.save_every == 0 or done == total:
            self._save(path, done)

    def _save(self, path: Path, done: int) -> None:
        """The checkpoint, by the first process, once all processes have been found to agree."""
        self._refuse_infinite(done)
        learned = [self.theta, *(self.rate.parameters() if self.rate else ())]
        self.world.agree(f"θ and the rate model at step {done}", *learned)
        if self.world.first:
            checkpoint.save(path, done, self.theta, self.rate, self.optimizer, self._metadata(),
                            self._extra())

    def _extra(self) -> dict[str, Tensor]:
        """State beside θ, the rate model and the optimiser."""
        steered = {"steering": self.rate_control.state} if self.rate_control and self.rate else {}
        return {"gradient_mean": self.guard.mean, **steered}

    def _refuse_infinite(self, done: int) -> None:
        if not torch.isfinite(self.theta).all():
            raise VovError(f"θ is no longer finite at step {done}; lower `lr` (it is {self.settings.learning_rate:g}) "
                           "and start again in another `out_dir`")

    @torch.no_grad()
    def theta_hat(self) -> Tensor:
        """θ̂ [d] as a decoder would see it; θ itself before stage 2."""
        return self.rate.theta_hat(self.theta, "round") if self.rate else self.theta.detach()

    def _initial_theta(self, start: dict[str, Tensor]) -> Tensor:
        length = self.projection.length
        if "unilora_theta_d" in start:
            theta = start["unilora_theta_d"].float()
            if theta.shape != (length,):
                raise VovError(f"`init_lora_path` has θ of length {theta.numel()}; set `theta_length`={theta.numel()}")
            return theta.to(self.device, copy=True)
        return uniform(self.settings.seed, Stream.THETA, length, self.device) * (2 * THETA_INIT) - THETA_INIT

    def _initial_rate(self, start: dict[str, Tensor]) -> RateModel:
        bits = self.rate_control.bits if self.rate_control else self.settings.init_bits
        rate = RateModel.from_theta(self.theta, bits)
        rate.load_reference({k: v for k, v in start.items() if k != "unilora_theta_d"})
        return rate.to(self.device)

    def _make_fast(self) -> None:
        recompute, self.compiled = speed.plan(
            self.backbone.transformer, self.device, self.settings.checkpointing, self.settings.compile)
        if self.world.size > 1 and self.compiled == "graph":
            self.compiled = "never"  # a captured step has no place for the exchange between processes
        blocks = list(self.backbone.transformer.get_submodule(self.backbone.blocks).children())
        speed.checkpoint_blocks(blocks, recompute)
        if self.compiled == "blocks":
            speed.compile_blocks(blocks)

    def _make_optimizer(self) -> None:
        groups: list[dict] = [{"params": [self.theta], "lr": self.settings.learning_rate, "weight_decay": WEIGHT_DECAY}]
        if self.rate:
            groups += self.rate.parameter_groups(self.settings.step_lr, DENSITY_LR)
        self.peaks = [group["lr"] for group in groups]
        captured = self.compiled == "graph"
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=self.device) if captured else group["lr"]
        self.guard = SpikeGuard(self.settings.grad_clip, self.device)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), capturable=captured)

    def _make_step(self) -> None:
        """Static input buffers, so that the step can be captured."""
        shape, count = self.clean.shape[1:], len(self.passes.mine) * self.passes.batch
        self.buffers = {
            "which": torch.zeros(count, dtype=torch.long, device=self.device),
            "noise": torch.zeros(count, *shape, device=self.device),
            "time": torch.ones(count, device=self.device),
            "lambda": torch.zeros((), device=self.device),
            "dither": torch.zeros_like(self.theta),
            "temperature": torch.zeros((), device=self.device),
        }
        self._filled = False  # whether the buffers of a fit without anything random hold its samples
        self.step = speed.CapturedStep(self._step, self.buffers) if self.compiled == "graph" else self._step

    def _step(self) -> dict[str, Tensor]:
        """Forward, backward and update from the buffers.

        Processes exchange the gradient of all LoRA entries (3 MB for Wan2.1-1.3B) of every pass and add them up in the
        order of the passes: everything behind it, θ, step and density, gets the same gradient in each process as in
        one process alone, to the bit.
        """
        # In place, not to None: a captured graph and a resumed optimiser both keep the addresses.
        self.optimizer.zero_grad(set_to_none=self.compiled != "graph")
        soft = self.buffers["temperature"] if self.settings.rounding == "soft" else None
        theta, bits = (self.rate(self.theta, self.buffers["dither"], soft) if self.rate
                       else (self.theta, torch.zeros((), device=self.device)))
        flat = self.projection.expand(theta)
        total = torch.zeros(flat.numel() + 1, device=self.device)  # of the gradients, and of the loss
        for turn in range(self.passes.rounds):
            found = torch.zeros_like(total)
            if turn < len(self.passes.mine):
                leaf = flat.detach().requires_grad_()
                piece = slice(turn * self.passes.batch, (turn + 1) * self.passes.batch)
                share = self._distortion(leaf, piece) / self.passes.count
                found = torch.cat([*torch.autograd.grad(share, leaf), share.detach()[None]])
            for one in self.world.gather(found):
                total += one
        objective = self.buffers["lambda"] * bits / self.projection.length
        torch.autograd.backward([flat, objective] if self.rate else [flat],
                                [total[:-1], None] if self.rate else [total[:-1]])
        if self.theta.grad is not None:  # which it has, after `backward`
            self.guard(self.theta.grad)
        self.optimizer.step()
        return {"loss": total[-1], "bits": bits.detach() / self.projection.length}

    def _distortion(self, leaf: Tensor, piece: slice) -> Tensor:
        """What is minimised, of some samples: []."""
        error = self._error(leaf, piece)
        if self.importance is not None:
            error = error * self.importance[self.buffers["which"][piece]]
        return distortion(error, self.weights)

    def _error(self, leaf: Tensor, piece: slice) -> Tensor:
        """v̂ − v of some samples, [B, C, T, h, w]."""
        self.model.bind_entries(leaf)
        which, noise, time = (self.buffers[k][piece] for k in ("which", "noise", "time"))
        clean = self.clean[which]
        condition = {k: v[which] for k, v in self.conditions.items()}
        state = interpolate(clean, noise, time)
        if not self.any_chained:
            return self.backbone.velocity(state, time, condition) - (noise - clean)
        known = self.chained[which].view(-1, 1, 1, 1)
        if self.backbone.clean_first_frame:
            state[:, :, 0] = torch.where(known, clean[:, :, 0], state[:, :, 0])
            time = time[:, None].repeat(1, state.shape[2])
            time[:, 0] *= ~known.view(-1)
        error = self.backbone.velocity(state, time, condition) - (noise - clean)
        first = error[:, :, :1].masked_fill(known[..., None], 0)
        return torch.cat((first, error[:, :, 1:]), dim=2)

    @torch.no_grad()
    def distortion_of(self, theta: Tensor) -> float:
        """The distortion of the first step's samples in this process under θ [d]; changes nothing."""
        self._fill(0)
        flat, size = self.projection.expand(theta), self.passes.batch
        return sum(float(self._distortion(flat, slice(turn * size, (turn + 1) * size)))
                   for turn in range(len(self.passes.mine)))

    def advance(self, step: int) -> dict[str, Tensor]:
        """Takes optimiser step `step`; returns its loss [] and bits per θ entry []."""
        schedule = self._schedule(step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * schedule)
            else:
                group["lr"] = peak * schedule
        if not (self._filled and self.training.constant and len(self.items) == 1):
            self._fill(step)
        if self.rate:
            ramp = min(1.0, (step + 1) / max(1, self.settings.lambda_rate_warmup))
            factor = self.rate_control.factor if self.rate_control else 1.0
            self.buffers["lambda"].fill_(self.settings.lambda_rate * ramp * factor)
            self.buffers["temperature"].fill_(softness((step + 1) / self.settings.train_steps))
            self.buffers["dither"].copy_(quantiser_noise(self.settings.seed, step, self.theta))
        outputs = self.step()
        if self.rate and self.rate_control:
            self.rate_control.note(step + 1, self.rate, self.theta)
        return outputs

    def coded_bits(self) -> float:
        """Entropy of θ's rounded symbols, in bits an entry."""
        assert self.rate is not None  # of a fit with a rate term
        return empirical_bits(self.rate.symbols(self.theta)) / self.projection.length

    def _fill(self, step: int) -> None:
        """This process's samples of a step: which target, which noise, which time."""
        self._filled, numbers = True, self.passes.numbers()
        if not numbers:
            return
        chosen = choose(self.settings.seed, step, self.passes.samples, len(self.items))
        which = torch.tensor([chosen[n] for n in numbers], device=self.device)
        self.buffers["which"].copy_(which)
        self.buffers["time"].copy_(torch.tensor([self.training.time(step, n, self.passes.samples) for n in numbers]))
        anchored = [self.training.anchored(step, n) for n in numbers]
        self.buffers["noise"].copy_(self.anchors[which])
        if fresh := [place for place, flag in enumerate(anchored) if not flag]:
            self.buffers["noise"][fresh] = self.training.draw(
                step, [numbers[place] for place in fresh], self.clean.shape[1:], self.device)

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
            raise VovError(f"the loss is {loss}; lower `lr` (it is {self.settings.learning_rate:g}) and start again in "
                           "another `out_dir`")
        values = {"loss": loss, "lr": float(self.optimizer.param_groups[0]["lr"])}
        if self.rate:
            values |= {"bits": self.coded_bits(), "bits_model": float(outputs["bits"]),
                       "quantiser_step": self.rate.step_value, "lambda": float(self.buffers["lambda"])}
        return values

    def identity(self) -> dict:
        """What this fit is made of: settings that shape it, and hashes of content. Equal identity, equal result."""
        settings = self.settings.identity()
        for name in ("dtype", "quantize"):  # as resolved: "auto" is what it stands for
            settings.pop(name)
        settings["shift"] = self.training.shift
        return {"settings": settings, "precision": self.backbone.precision,
                "model": self.backbone.fingerprint().hex(), **self.content}

    def _metadata(self) -> dict:
        identity = self.identity()
        return {**self.notes, "config": dataclasses.asdict(self.settings),
                "identity": identity, "identity_hash": identity_hash(identity),
                "model": self.backbone.name, "fingerprint": self.backbone.fingerprint().hex(),
                "index_hash": self.projection.hash.hex(), "rank": self.projection.rank,
                "proj_seed": self.projection.seed, "lora_preset": self.settings.lora_preset,
                "last_k": self.settings.last_k}

    def _resume(self, path: Path) -> int:
        """Puts the checkpoint into this fit and returns its step; 0 when OVERWRITE lets another run be replaced."""
        found = checkpoint.load(path)
        if not same_run(found, self.identity(), self.settings, path):
            return 0
        checkpoint.restore(found, self.theta, self.rate, self.optimizer, self._extra(), path)
        return found.step
