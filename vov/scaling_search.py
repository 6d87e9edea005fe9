"""The encoder's half of coded noise: which candidates, and how many bits for which step. See `vov.scaling`.

A step's score of a candidate is <direction, z>. Three directions, all free choices of the encoder:

    likelihood  the drift: the score is the log-ratio of the posterior to the model, as in the paper
    pixel       the drift as pixels see it, WᵀW·drift with W of `loss.pixel_weights`
    lookahead   Jᵀ·WᵀW·(x0 − x̂0) with J = ∂x̂0/∂x: the gradient of the squared pixel error of the model's own guess,
                so that a choice counts for what the model makes of it; a backward pass a coded step

M atoms of K candidates move the state by about √(2·ln K·M) standard deviations along the direction, whatever M and K;
each atom is chosen for the whole direction, not for what others left of it: their sum is mostly noise, which a matching
pursuit would undo. What is optimised, then, is how many atoms a step gets; a first pass measures what they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vov import VovError, bitstream, speed
from vov.backbone import Backbone, Condition
from vov.bitstream import Bitstream
from vov.codec import Clock, Decoder, Source, decode_file, report, save_items
from vov.config import FitConfig, option
from vov.files import write_json
from vov.flow import denoised, euler
from vov.loss import pixel_weights
from vov.media import restore_geometry
from vov.metrics import psnr
from vov.noise import Stream, uniform_batch
from vov.rate import dequantise
from vov.scaling import (
    CPU_VALUES,
    ETA_UNIT,
    GPU_VALUES,
    INDEPENDENT,
    KINDS,
    MAX_ATOMS,
    SHIFTS,
    Candidates,
    NoiseCode,
    Replay,
    Step,
    block_count,
    entries,
    stochastic_step,
)

LEVELS = np.array([*range(9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256, 384, 512])
END_STEP = 102  # 1024ths by which the last jump is lowered when a budget is too much for the steps above it


@dataclass(frozen=True)
class ScalingConfig:
    """How noise is coded; both trees extend it."""

    scaling: bool = option(True, "0: no noise section, only STEPS changes")
    steps: int = option(0, "sampler steps; 0: the file's own", minimum=0)
    scheme: str = option("atoms", "paper: one index for the whole latent a step; blocks: one index a block of BLOCK "
                         "values; atoms: ATOMS signed atoms a step, or as many as SCALING_BYTES allow",
                         choices=("paper", "blocks", "atoms"))
    scaling_bytes: int = option(0, "bytes for the noise, spent on the steps that gain most; 0: ATOMS a coded step",
                                minimum=0)
    bits: int = option(0, "bits of an index; 0: 10 (1024 candidates), all shifts of a block for shifts", minimum=0)
    atoms: int = option(1, "signed atoms of a block and step (scheme atoms, no SCALING_BYTES)", minimum=1)
    block: int = option(0, "latent values of a block; 0: the whole latent (1024 for scheme blocks)", minimum=0)
    candidates: str = option("", "independent (the paper's) or shifts (of one vector, scored by one FFT; default of "
                             "scheme atoms)", choices=("", *KINDS))
    eta: float = option(1.0, "diffusion strength: 0 no noise, 1 as the posterior's, more: fresher", minimum=0)
    first_step: int = option(0, "first coded step", minimum=0)
    coded_steps: int = option(0, "coded steps from there on; 0: all", minimum=0)
    theta_steps: int = option(0, "θ adapts the model in the first so many steps, then the frozen model goes on alone; "
                              "0: in all steps", minimum=0)
    start_level: float = option(0.0, "σ below 1 to which the first step jumps, the rest is spread below it; for "
                                "anchored one-step θ, with THETA_STEPS=1; 0: the plain grid", minimum=0)
    end_level: float = option(-1.0, "σ from which the last step goes straight to 0, to the model's mean; 0: the plain "
                              "grid; -1: `jump_level` for scheme atoms, else 0", minimum=-1)
    score: str = option("likelihood", "what a candidate is chosen for: likelihood, pixel, lookahead",
                        choices=("likelihood", "pixel", "lookahead"))
    choice: str = option("best", "best candidate, or sample (Gumbel: in proportion to its likelihood)",
                         choices=("best", "sample"))

    def code(self, steps: int, size: int, items: int) -> NoiseCode:
        """An empty code with these parameters and ATOMS everywhere, for `steps` sampler steps and `size` values."""
        kind = KINDS.index(self.candidates or ("shifts" if self.scheme == "atoms" else "independent"))
        block = 0 if self.scheme == "paper" else self.block or (1024 if self.scheme == "blocks" else 0)
        block = 0 if block >= size else block
        bits = self.bits or (10 if kind == INDEPENDENT else min(24, (block or size).bit_length() - 1))
        if self.first_step >= steps:
            raise VovError(f"FIRST_STEP={self.first_step}, but there are only {steps} steps; lower it or raise STEPS")
        coded = min(self.coded_steps or steps, steps - self.first_step)
        atoms, signed = (self.atoms, 1) if self.scheme == "atoms" else (1, 0)
        blocks = block_count(size, block)
        rate = (8 * self.scaling_bytes / items if self.scaling_bytes else
                coded * blocks * atoms * (bits + signed)) / size
        end = self.end_level
        if end < 0:
            end = (self.start_level or 1.0) * jump_level(rate) if self.scheme == "atoms" and steps > 2 else 0.0
        for name, level, top in (("START_LEVEL", self.start_level, 1.0), ("END_LEVEL", end, self.start_level or 1.0)):
            if level and (level >= top or steps <= bool(self.start_level) + bool(end)):
                raise VovError(f"{name}={level:g}: must be below {top:g}, and needs more STEPS than {steps}")
        if atoms > MAX_ATOMS:
            raise VovError(f"ATOMS={atoms}: at most {MAX_ATOMS}; use smaller blocks (BLOCK)")
        return NoiseCode(
            kind, bits, signed, block, round(self.eta * ETA_UNIT), self.first_step, coded,
            min(self.theta_steps, steps), round(self.start_level * 1024), round(end * 1024),
            np.full((coded, blocks), atoms), np.zeros((items, 0), np.int32))


def jump_level(rate: float) -> float:
    """The END_LEVEL for `rate` bits of noise per latent value: few bits settle nothing below a high level.

    Measured with nano-video (video/README.md): 0.5 was best at 1/8 bit, 0.4 at 1/4, 0.3 at 1/2.
    """
    return min(0.5, max(0.1, 0.2 - 0.1 * math.log2(rate)))


class Chooser(Replay):
    """A sampler's `after_step` that chooses the noise it injects.

    direction: (step, x̂0) → the score's direction [1, C, T, h, w], in standard deviations of the step's noise, and
        what a unit of score is worth (see `allocate`).
    gumbel: whether to sample rather than to take the best.
    Attributes: found, the symbols per coded step; energy [steps, blocks], |direction|²; worth, that times value².
    """

    def __init__(self, code: NoiseCode, sigmas: Sequence[float], seed: int, item: int,
                 direction: Callable[[Step, Tensor], tuple[Tensor, float]], gumbel: bool = False, on_theta_end=None):
        super().__init__(code, sigmas, seed, item, on_theta_end)
        self.direction, self.gumbel = direction, gumbel
        self.found = [np.zeros(0, np.int32) for _ in range(code.steps)]
        self.energy, self.worth = np.zeros(code.plan.shape), np.zeros(code.plan.shape)

    def symbols(self, i: int, row: int, step: Step, x: Tensor, x0: Tensor) -> np.ndarray:
        made = self.candidates
        wanted = torch.zeros(made.blocks * made.block, device=x.device)
        direction, value = self.direction(step, x0)
        wanted[: made.size] = direction.reshape(-1)
        wanted = wanted.view(made.blocks, made.block)
        self.energy[row] = wanted.square().sum(1).cpu().numpy()
        self.worth[row] = self.energy[row] * value**2
        rows, numbers = entries(self.code.plan[row])
        share = torch.from_numpy(1 / np.sqrt(self.code.plan[row].clip(1))).to(x.device, torch.float32)[:, None]
        found = [self._pick(i, where, which, scores(made, i, which, where, wanted[where]), share[where])
                 for where, which in made.batches(rows, numbers)]
        self.found[row] = torch.cat(found).to("cpu", torch.int32).numpy()
        return self.found[row]

    def _pick(self, i: int, blocks: Tensor, atoms: Tensor, score: Tensor, share: Tensor) -> Tensor:
        """Symbols [rows] from scores [rows, K]; of equal ones the first."""
        if self.code.signed:
            score = torch.stack((score, -score), dim=-1).flatten(1)  # in the order of the symbols
        if self.gumbel:
            ids = blocks * MAX_ATOMS + atoms
            u = uniform_batch(self.seed, (Stream.OTHER, 3, self.base + i), ids, score.shape[1])
            score = score * share - torch.log(-torch.log(u.clamp(2.0**-25, 1 - 2.0**-25)))
        best = score == score.amax(1, keepdim=True)
        places = torch.arange(score.shape[1], device=score.device)
        return torch.where(best, places, score.shape[1] - 1).amin(1)


def scores(candidates: Candidates, step: int, atoms: Tensor, blocks: Tensor, wanted: Tensor) -> Tensor:
    """Inner products of wanted[r] [block] with every candidate of atom atoms[r] in block blocks[r]: [rows, 2^bits]."""
    code, count = candidates.code, 1 << candidates.code.bits
    if code.kind == SHIFTS:
        turned = torch.fft.rfft(wanted * candidates.signs(step, blocks, atoms))
        vector = torch.fft.rfft(candidates.draw(step, blocks, atoms))
        return torch.fft.irfft(turned * vector.conj(), n=candidates.block)[:, :count]
    if wanted.is_cuda:
        from vov import scaling_kernel

        if scaling_kernel.available():
            out = torch.empty(len(blocks), count, device=wanted.device)
            for atom in atoms.unique().tolist():
                rows = torch.nonzero(atoms == atom)[:, 0]
                out[rows] = scaling_kernel.scores(candidates.seed, candidates.base + step, atom * count, count,
                                                  blocks[rows], wanted[rows])
            return out
    return plain_scores(candidates, step, atoms, blocks, wanted)


def plain_scores(candidates: Candidates, step: int, atoms: Tensor, blocks: Tensor, wanted: Tensor) -> Tensor:
    """`scores` of independent candidates: all of them drawn, a few at a time, and one matrix product each time."""
    count, width = 1 << candidates.code.bits, wanted.shape[1]
    limit = GPU_VALUES if wanted.is_cuda else CPU_VALUES
    some = max(1, min(count, limit // width))
    rows = max(1, limit // (width * some))
    out = torch.empty(len(blocks), count, device=wanted.device)
    for top in range(0, len(blocks), rows):
        part, first_ids = blocks[top:top + rows], atoms[top:top + rows, None] * count
        for first in range(0, count, some):
            ids = first_ids + torch.arange(first, min(first + some, count), device=wanted.device)
            drawn = candidates.draw(step, part.repeat_interleave(ids.shape[1]), ids.flatten())
            drawn = drawn.view(len(part), -1, width)
            out[top:top + rows, first:first + some] = torch.einsum("bkn,bn->bk", drawn, wanted[top:top + rows])
    return out


class Search:
    """Finds the noise code of a file: samples each item with the decoder's own steps, choosing as it goes.

    Args:
        decoder: of the file that will carry the code; its header has the final steps.
        theta: θ̂ [d] as decoded.
        conditions, targets: of the items; targets are their true latents [1, C, T, h, w].
        settings: what to spend where.
    """

    def __init__(self, decoder: Decoder, theta: Tensor, conditions: Sequence[Condition], targets: Sequence[Tensor],
                 settings: ScalingConfig):
        if decoder.header.sampler != "euler":
            raise VovError(f"the file's sampler is {decoder.header.sampler}; noise can be coded for euler only")
        self.decoder, self.theta, self.settings = decoder, theta, settings
        self.conditions, self.targets = conditions, targets
        self._place(settings.code(len(decoder.sigmas) - 1, targets[0].numel(), len(targets)))
        if settings.score == "lookahead":  # a large model's activations must not all wait for the backward pass
            model, blocks = decoder.backbone.transformer, decoder.backbone.blocks
            recompute, _ = speed.plan(model, decoder.backbone.device, "auto", "never")
            speed.checkpoint_blocks(model.get_submodule(blocks), recompute)

    def _place(self, code: NoiseCode) -> None:
        """Makes `code` the one to fill, its levels the sampler's, and its plan zero where a step takes no noise."""
        header = self.decoder.header
        if header.sigmas and (code.start or code.end):
            raise VovError("the file has levels of its own; set STEPS, or START_LEVEL=0 END_LEVEL=0")
        self.code, self.sigmas = code, code.levels(header)
        edges = self.sigmas[code.first:][: code.steps + 1]
        noisy = np.array([stochastic_step(*pair, code.eta / ETA_UNIT).g > 0 for pair in pairwise(edges)])
        code.plan[~noisy] = 0  # the last step ends at level 0
        if not noisy.any():
            raise VovError("no step takes noise; raise STEPS (to 2 or more) or ETA, or lower FIRST_STEP")

    def run(self, progress: Callable[[int, Tensor], None] = lambda step, x: None) -> tuple[NoiseCode, list[Tensor]]:
        """The code and the latents of every item, as the decoder will find them.

        progress: called after every sampler step with its number and the state.
        """
        budget, count = self.settings.scaling_bytes, len(self.targets)
        code, spent = self._planned(budget, progress) if budget else (self.code, True)
        while not spent and self.settings.end_level < 0 and code.end > END_STEP:  # lower levels have use for the rest
            self._place(replace(self.code, end=max(END_STEP, code.end - END_STEP)))
            code, spent = self._planned(budget, progress)
        choosers, latents = zip(*(self._sample(code, item, progress) for item in range(count)), strict=True)
        symbols = np.stack([np.concatenate(chooser.found) for chooser in choosers])
        return replace(code, symbols=symbols), list(latents)

    def _planned(self, budget: int, progress: Callable) -> tuple[NoiseCode, bool]:
        """`allocate` for a budget, by what a first pass with equal shares finds the steps to be worth."""
        code, count = self.code, len(self.targets)
        spread = code.steps * code.plan.shape[1] * (code.bits + code.signed) * count
        pilot = min(max(1, MAX_ATOMS // 4), max(1, round(8 * budget / spread)))
        first = replace(code, plan=np.minimum(code.plan, 1) * (pilot if code.signed else 1))
        pilots = [self._sample(first, item, progress)[0] for item in range(count)]
        energy, worth = (np.mean([getattr(p, name) for p in pilots], axis=0) for name in ("energy", "worth"))
        return allocate(code, energy, worth, budget, count)

    @torch.no_grad()
    def _sample(self, code: NoiseCode, item: int, progress: Callable) -> tuple[Chooser, Tensor]:
        decoder, settings, target = self.decoder, self.settings, self.targets[item]
        weigh = self._weights(target)
        kept: list[Tensor] = []
        plain = decoder.velocity(self.conditions[item])

        def watched(x: Tensor, t: float) -> Tensor:
            """The velocity, and x and x̂0 with the graph between them."""
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                v = plain(x, t)
                kept[:] = [x, denoised(x, v, t)]
            return v.detach()

        def direction(step: Step, x0: Tensor) -> tuple[Tensor, float]:
            error = target - x0
            drift = step.drift * weigh(error)
            if settings.score != "lookahead":
                return drift, step.g / max(abs(step.drift), 1e-20)
            (pulled,) = torch.autograd.grad(kept[1], kept[0], weigh(error))
            length = float(drift.norm() / pulled.norm().clamp_min(1e-20))  # as long as the drift, to compare with it
            return pulled * length, step.g / max(length, 1e-20)

        chooser = Chooser(code, self.sigmas, decoder.header.seed, item, direction, settings.choice == "sample",
                          decoder.adapter.unbind)

        def after_step(i: int, x: Tensor, x0: Tensor) -> Tensor:
            x = chooser(i, x, x0)
            progress(i, x)
            return x

        decoder.bind(self.theta)
        velocity = watched if settings.score == "lookahead" else plain
        return chooser, euler(velocity, decoder.noise(item), self.sigmas, after_step)

    def _weights(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        """e → WᵀW·e of `loss.pixel_weights`, or e itself."""
        if self.settings.score == "likelihood":
            return lambda error: error
        matrices = pixel_weights(self.decoder.backbone, target, self.decoder.header.seed)
        first, later = (w.T @ w for w in matrices)
        return lambda error: torch.cat((torch.einsum("ij,bjthw->bithw", first, error[:, :, :1]),
                                        torch.einsum("ij,bjthw->bithw", later, error[:, :, 1:])), dim=2)


def scale(stream: Bitstream, backbone: Backbone, sources: Sequence[Source], settings: ScalingConfig,
          progress: Callable[[int, Tensor], None] = lambda step, x: None) -> tuple[Bitstream, list[np.ndarray]]:
    """A file with a noise section, and the frames [T, height, width, 3] of each item as the encoder sees them.

    stream: a file without one (a noise section it has is replaced). sources: its originals, in its order.
    """
    header = stream.header
    if settings.steps and settings.steps != header.decode_steps:
        header = replace(header, decode_steps=settings.steps, sigmas=())
    if settings.scaling:
        header = replace(header, sampler="euler")  # a multistep solver's memory has no place for injected noise
    if len(sources) != len(stream.items):
        raise VovError(f"the file holds {len(stream.items)} items, but {len(sources)} originals were given")
    with Decoder.for_file(backbone, header) as decoder:
        theta = dequantise(stream.symbols, header.step)
        conditions = backbone.embed([item.caption for item in stream.items])
        if not settings.scaling:
            latents = [decoder.latents(theta, condition, index) for index, condition in enumerate(conditions)]
            return replace(stream, header=header, noise=None), [backbone.decode(x) for x in latents]
        targets = [backbone.encode(s.fitted(header.width, header.height, header.fit)) for s in sources]
        code, latents = Search(decoder, theta, conditions, targets, settings).run(progress)
        return replace(stream, header=header, noise=code.to_bytes()), [backbone.decode(x) for x in latents]


def scale_command(stream: Bitstream, backbone: Backbone, sources: Sequence[Source], settings: ScalingConfig,
                  path: Path) -> dict:
    """What the commands of both trees do: choose, write `path`, decode it from the bytes alone, measure.

    Returns codec.report's result, with `encoder_psnr`: that of the frames the encoder saw, before any file.
    """
    header, clock = stream.header, Clock()
    bar = tqdm(unit="step", desc=path.stem, disable=None)
    with bar:
        scaled, seen = clock.time("choose", lambda: scale(stream, backbone, sources, settings,
                                                          lambda step, x: bar.update()))
    bitstream.write(path, scaled)
    clips = clock.time("decode", decode_file, path, backbone)
    save_items(path.parent, path.stem, [item.name for item in stream.items], clips)
    geometry = FitConfig(width=header.width, height=header.height, resize=header.fit)
    result = report(path, clips, sources, geometry, clock.seconds)
    restored = [restore_geometry(frames, item.original_width, item.original_height, header.fit)
                for frames, item in zip(seen, stream.items, strict=True)]
    targets = [source.reference(header.width, header.height, header.fit) for source in sources]
    result["encoder_psnr"] = float(np.mean([psnr(*pair) for pair in zip(targets, restored, strict=True)]))
    result["scaling"] = {k: v for k, v in vars(settings).items() if k in ScalingConfig.__dataclass_fields__}
    write_json(path.with_suffix(".json"), result)
    return result


def allocate(code: NoiseCode, energy: np.ndarray, worth: np.ndarray, budget: int,
             items: int = 1) -> tuple[NoiseCode, bool]:
    """`code` with the plan that spends at most `budget` bytes in proportion to `worth`, and whether it spends them.

    The score of M atoms is about |direction|·√(2·ln K·M), and a unit of it lowers the final squared error by some
    value v, so Σ v·|direction|·√M under ΣM = const is largest at M ∝ v²·|direction|², the `worth` [steps, blocks].
    v is g·|Jᵀe| / |direction| when J = ∂x̂0/∂x is measured (lookahead), else with J = 1: a step's worth is how far its
    noise can move the state towards the original. No cell gets more atoms than its `energy`, |direction|², can
    use. Without sign bits a cell has an index or has none.
    """
    useful = np.maximum(energy / (2 * math.log(code.alphabet)), 1)

    def plan_of(scale: float) -> np.ndarray:
        if not code.signed:
            return (worth * scale >= 1).astype(np.int64)
        wanted = np.minimum(np.minimum(worth * scale, useful), MAX_ATOMS)
        return LEVELS[np.abs(LEVELS[:, None] - wanted.reshape(1, -1)).argmin(0)].reshape(worth.shape)

    def size_of(plan: np.ndarray) -> int:
        packed = -(-int(plan.sum()) * items * (code.bits + code.signed) // 8)  # indices are as good as random
        return len(replace(code, plan=plan).to_bytes()) + 4 + packed

    worth = worth / max(worth.max(), 1e-30)
    low, high = 1e-9, 1e9
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if size_of(plan_of(middle)) <= budget else (low, middle)
    plan = plan_of(low)
    if not plan.any():
        raise VovError(f"SCALING_BYTES={budget} is too little for a single index; raise it")
    return replace(code, plan=plan), size_of(plan_of(1e9)) > budget
