"""Editing: the θ of one or several fits, a new caption, and how strongly and when each θ acts.

    ΔW = Σ wᵢ Bᵢ Aᵢ        concatenated along the rank, never a dense matrix

A fit comes from a .vov file, one of our checkpoints or one of the reference's; θ is the quantised one where the fit
has a quantiser. Fits may differ in rank, length and adapted layers; they must be of one foundation model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vov import VovError, bitstream, media, metrics
from vov.bitstream import Header
from vov.bitstream.noise_code import NoiseCode
from vov.config import FitConfig, option
from vov.fitting.rate import dequantise
from vov.formats import reference
from vov.model.backbone import Backbone, Condition
from vov.model.flow import decoder_noise, sample, sigma_grid
from vov.model.unilora import Adapter
from vov.scaling.replay import Replay, levels


@dataclass(frozen=True)
class EditConfig:
    """What all editing commands share. The variables up to LORA_PRESET are for checkpoints that do not say."""

    caption: str = option("", "what the edited result shows (required)")
    steps: int = option(0, "sampler steps; 0: the fit's own, 50 for a checkpoint that does not say", minimum=0)
    seed: int = option(-1, "of the noise; -1: the fit's own, 42 for a checkpoint that does not say", minimum=-1)
    strength: str = option("1", "weight of each θ, comma-separated; 0 is the frozen model", alias=("STRENGTHS",))
    start_step: str = option("0", "first sampler step at which each θ acts, comma-separated")
    stop_step: str = option("0", "step before which it stops, comma-separated; 0: acts to the end")
    guidance: float = option(0.0, "classifier-free guidance; 0: the fit's own", alias=("CFG",), minimum=0)
    replay_noise: bool = option(False, "inject the coded noise of a scaled .vov file: keeps more of the original")
    base_caption: str = option("", "caption of the reconstruction beside the edit; default: the first fit's own")
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    overwrite: bool = option(False, "replace existing outputs")
    rank: int = option(1, "LoRA rank", minimum=1)
    last_k: int = option(30, "the last K blocks are adapted", minimum=1)
    theta_length: int = option(131072, "length d of θ", alias=("V_LENGTH", "THETA_D_LENGTH"), minimum=1)
    proj_seed: int = option(42, "seed of UniLoRA's indices", minimum=0)
    width: int = option(832, "pixels", minimum=1)
    height: int = option(480, "pixels", minimum=1)
    num_frames: int = option(81, "frames", minimum=1)
    fps: float = option(16.0, "frames per second", minimum=0)
    shift: float = option(0.0, "σ grid shift; 0: the model's own", minimum=0)
    lora_preset: str = option("qkvo", "adapted linears", choices=("qkvo", "qkv", "qkvo_mlp"))


@dataclass(frozen=True, eq=False)
class Adaptation:
    """One fit: θ̂ float32 [d] and what it adapts.

    settings: geometry, sampler and the rest as a `Header` or a checkpoint says them (see `load`).
    header, noise: of a .vov file, else None. caption: "" when the fit does not know it.
    """

    source: str
    theta: Tensor
    settings: FitConfig
    num_frames: int
    fps: float
    model_id: str
    precision: str
    caption: str = ""
    header: Header | None = None
    noise: bytes | None = None
    sigmas: tuple[float, ...] = ()


def load(path: str | Path, settings: EditConfig) -> Adaptation:
    """Reads a .vov file or a checkpoint; what a checkpoint does not say is taken from `settings`."""
    if not str(path):
        raise VovError("WEIGHTS is not set; give a .vov file or a checkpoint")
    if Path(path).suffix == ".vov":
        stream = bitstream.read(path)
        header = stream.header
        fit = FitConfig(width=header.width, height=header.height, resize=header.fit, rank=header.rank,
                        theta_length=header.theta_length, last_k=header.last_k, lora_preset=header.lora_preset,
                        proj_seed=header.proj_seed, decode_steps=header.decode_steps, sampler=header.sampler,
                        shift=header.shift, guidance=header.guidance, seed=header.seed)
        return Adaptation(str(path), dequantise(stream.symbols, header.step), fit, header.num_frames, header.fps,
                          header.model_id, header.dtype, stream.items[0].caption, header, stream.noise, header.sigmas)
    found = reference.load_reference(path)
    known = found.metadata.get("config", {})
    own = {"decode_steps": 50, "seed": 42, "resize": "crop", "sampler": "euler", "guidance": 1.0}
    names = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "shift", *own)
    fit = FitConfig(**{name: known.get(name, own.get(name, getattr(settings, name, None))) for name in names})
    if found.theta.numel() != fit.theta_length:
        raise VovError(f"{path}: holds θ of length {found.theta.numel()}; set V_LENGTH={found.theta.numel()}")
    return Adaptation(str(path), found.theta_hat, fit, known.get("num_frames", settings.num_frames),
                      known.get("fps") or settings.fps, known.get("model_id", ""), known.get("dtype", "auto"),
                      known.get("caption", ""))


def numbered(*given: str) -> list[str]:
    """The fits to merge: those given, then WEIGHTS3, WEIGHTS4 … of the environment, without gaps."""
    found = [source for source in given if source]
    number = len(given) + 1
    while source := os.environ.get(f"WEIGHTS{number}", ""):
        found.append(source)
        number += 1
    if len(found) < 2:
        raise VovError("WEIGHTS1 and WEIGHTS2 must both be set; for a single fit use edit_caption.sh")
    return found


def numbers(text: str, count: int, name: str) -> list[float]:
    """'1,0.5' → [1.0, 0.5]; one value serves all, otherwise there must be `count`."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise VovError(f"{name}={text!r} is not a comma-separated list of numbers") from None
    if len(values) == 1:
        values *= count
    if len(values) != count:
        raise VovError(f"{name}={text!r} has {len(values)} values for {count} θ; give one for each, or one for all")
    return values


class Merged:
    """Several adaptations in one model; use it in a `with` block, which gives the model its own layers back."""

    def __init__(self, backbone: Backbone, adaptations: Sequence[Adaptation]):
        for each in adaptations:
            if each.header is not None and each.header.fingerprint != backbone.fingerprint():
                raise VovError(f"{each.source}: was made with another model ({each.header.model_id}); merge and edit "
                               "only fits of the model at hand")
        layers = [backbone.layers(each.settings.lora_preset, each.settings.last_k) for each in adaptations]
        self.adapter = Adapter(backbone.transformer, {name for names in layers for name in names})
        self.factors = []
        try:
            for each, names in zip(adaptations, layers, strict=True):
                self.factors.append(self._factors(backbone, each, set(names)))
        except BaseException:
            self.adapter.remove()
            raise

    def _factors(self, backbone: Backbone, each: Adaptation, own: set[str]) -> list[tuple[Tensor, Tensor]]:
        """(A, B) for every layer of the union; of rank 0 where this θ has none."""
        from vov.model.unilora import Projection

        pairs = zip(self.adapter.names, self.adapter.shapes, strict=True)
        fit = each.settings
        projection = Projection([shape for name, shape in pairs if name in own], fit.rank, fit.theta_length,
                                fit.proj_seed)
        if each.header is not None and each.header.index_hash != projection.hash:
            raise VovError(f"{each.source}: UniLoRA indices differ from those it was made with; install the NumPy "
                           "version of requirements.txt")
        projection.to(backbone.device)
        flat = projection.expand(each.theta.to(backbone.device).float()).to(backbone.dtype)
        mine = iter(projection.factors(flat))
        return [next(mine) if name in own else (flat.new_zeros(0, inn), flat.new_zeros(out, 0))
                for name, (out, inn) in zip(self.adapter.names, self.adapter.shapes, strict=True)]

    def bind(self, weights: Sequence[float]) -> None:
        """ΔW = Σ wᵢ Bᵢ Aᵢ; where no weight is left, the frozen model."""
        active = [(f, w) for f, w in zip(self.factors, weights, strict=True) if w]
        if active:
            self.adapter.bind(*[f for f, _ in active], weights=[w for _, w in active])
        else:
            self.adapter.unbind()

    def __enter__(self) -> Merged:
        return self

    def __exit__(self, *_: object) -> None:
        self.adapter.remove()


def scheduled(velocity: Callable[[Tensor, float], Tensor], bind: Callable[[Sequence[float]], None],
              weights: Sequence[float], starts: Sequence[int], stops: Sequence[int]) -> Callable:
    """`velocity` that binds θ number i with its weight in sampler steps starts[i] ≤ step < stops[i] (0: no end).

    Counts its calls: a sampler calls it once a step.
    """
    state = {"step": 0, "bound": None}

    def stepped(x: Tensor, t: float) -> Tensor:
        step = state["step"]
        now = [w if a <= step and (step < b or not b) else 0.0
               for w, a, b in zip(weights, starts, stops, strict=True)]
        if now != state["bound"]:
            bind(now)
        state.update(step=step + 1, bound=now)
        return velocity(x, t)

    return stepped


@torch.no_grad()
def edit(backbone: Backbone, adaptations: Sequence[Adaptation], settings: EditConfig) -> tuple[np.ndarray, np.ndarray]:
    """(reconstruction of the first fit, edit): uint8 [T, H, W, 3], at the first fit's geometry, from equal noise."""
    first, count = adaptations[0], len(adaptations)
    fit = first.settings
    weights = numbers(settings.strength, count, "STRENGTH")
    starts, stops = ([int(v) for v in numbers(getattr(settings, name), count, name.upper())]
                     for name in ("start_step", "stop_step"))
    backbone.check_geometry(fit.width, fit.height, first.num_frames)
    caption = settings.base_caption or first.caption
    conditions = backbone.embed([settings.caption, caption or settings.caption])
    own = settings.steps in (0, fit.decode_steps)
    sigmas = (list(first.sigmas) if own else []) or sigma_grid(
        settings.steps or fit.decode_steps, fit.shift or backbone.native_shift(fit.width, fit.height))
    seed = fit.seed if settings.seed < 0 else settings.seed
    shape = backbone.latent_shape(fit.width, fit.height, first.num_frames)
    guidance = settings.guidance or fit.guidance
    negative = backbone.embed([""])[0] if guidance != 1 else None
    code = None
    if settings.replay_noise:
        if first.noise is None or not own or seed != fit.seed:
            raise VovError("REPLAY_NOISE=1 needs a .vov file with a noise section, and its own STEPS and SEED")
        code = NoiseCode.from_bytes(first.noise, first.header, int(np.prod(shape)), 1, f"{first.source}: noise")
        sigmas = levels(first.header, code.start, code.end)

    def run(condition: Condition, chosen: tuple) -> np.ndarray:
        velocity = scheduled(backbone.guided(condition, negative, guidance), merged.bind, *chosen)
        replay = code and Replay(code, sigmas, seed, 0, merged.adapter.unbind)
        latents = sample(velocity, decoder_noise(seed, shape, device=backbone.device), sigmas, fit.sampler, replay)
        return backbone.decode(latents)

    with Merged(backbone, adaptations) as merged:
        plain = ([1.0] + [0.0] * (count - 1), [0] * count, [0] * count)
        return run(conditions[1], plain), run(conditions[0], (weights, starts, stops))


def sheet(original: np.ndarray | None, reconstruction: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """original | reconstruction | edit as one picture [H, W, 3]; of a clip its first, middle and last frames."""
    clips = [clip for clip in (original, reconstruction, edited) if clip is not None]
    return media.side_by_side(*[media.contact_sheet(clip, 3)[None] for clip in clips])[0]


def measures(original: np.ndarray, edited: np.ndarray) -> dict[str, str]:
    """{metric: text} of an edit against the original; LPIPS needs its weights, else says what is missing."""
    from vov.evaluation.measure import Suite

    suite = Suite(video=False)
    found = suite.measure(original, edited, len(original))
    values = {"PSNR": f"{metrics.psnr(original, edited):.2f} dB"}
    for name in ("lpips_vgg", "lpips_alex"):
        values[name] = f"{found.values[name]:.4f}" if name in found.values else f"n/a ({suite.unavailable.get(name)})"
    return values


def run_command(sources: Sequence[str], settings: EditConfig, load_backbone: Callable[[str, str], Backbone],
                read_original: Callable[[int], media.Clip | None], output: Path) -> None:
    """What the commands of both trees do: edit, write `output` (a video or a picture) and OUTPUT_sheet.png.

    load_backbone: (model id, precision) → model. read_original: frames → the original, or None.
    """
    from vov.results import check_outputs

    if not settings.caption.strip():
        raise VovError("CAPTION is not set; say what the edited result shows")
    beside = output.with_name(f"{output.stem}_sheet.png")
    check_outputs([output, beside], settings.overwrite)
    adaptations = [load(source, settings) for source in sources]
    first = adaptations[0]
    clip = read_original(first.num_frames)
    backbone = load_backbone(first.model_id, first.precision)
    reconstruction, edited = edit(backbone, adaptations, settings)
    if len(edited) > 1:
        media.write_video(output, edited, first.fps)
    else:
        media.write_image(output, edited[0])
    target = None
    if clip is not None:
        target = media.fit_geometry(clip.frames, first.settings.width, first.settings.height, first.settings.resize)
        for name, frames in (("reconstruction", reconstruction), ("edit", edited)):
            print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in measures(target, frames).items()))
    print(f"edit against reconstruction: PSNR {metrics.psnr(reconstruction, edited):.2f} dB")
    media.write_image(beside, sheet(target, reconstruction, edited))
    print(f"{output} and {beside}")
