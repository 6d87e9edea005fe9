"""Everything that shapes a fit and the file that it ends in."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

from vov import VovError
from vov.bitstream.header import HIGHEST
from vov.config import environment_names, option, override
from vov.config.rate_targets import TargetOptions
from vov.media.roi import RoiOptions
from vov.model.options import ModelOptions

RATE_OF_ONE = 10.0  # `learning_rate` of a θ with one entry; studies/learning_rates says where it comes from
per_stage = partial(option, per_stage=True)  # a setting in which stage 1 and stage 2 may differ


@dataclasses.dataclass(frozen=True)
class FitConfig(ModelOptions, TargetOptions, RoiOptions):
    """Everything that shapes a fit and the file that it ends in; both trees extend it."""

    UNUSED: ClassVar[tuple[str, ...]] = ("collection",)

    config: str = option("", "preset in configs/ or a YAML file", alias=("CONFIG",), identity=False)
    out_dir: str = per_stage("", "folder of this run", identity=False)
    quantize: str = option("none", "storage of the frozen weights: none; fp8 (half the memory); nf4 (a quarter, needs "
                           "bitsandbytes)", choices=("none", "fp8", "nf4"))

    decode_limit: float = override(ModelOptions, "decode_limit", 1.0, rare=True)
    width: int = option(512, "pixels, a multiple of the model's unit", minimum=1, maximum=HIGHEST["width"])
    height: int = option(512, "pixels, a multiple of the model's unit", minimum=1, maximum=HIGHEST["height"])
    resize: str = option("crop", "how the source is brought to WIDTH×HEIGHT: crop (cover and cut the centre), "
                         "stretch (undone on decode), pad (undone on decode)", choices=("crop", "stretch", "pad"))

    rank: int = option(1, "LoRA rank r", minimum=1, maximum=HIGHEST["rank"])
    theta_length: int = option(131072, "length d of the vector θ", alias=("THETA_D_LENGTH", "V_LENGTH"), minimum=1,
                               maximum=HIGHEST["theta_length"])
    last_k: int = option(30, "adapt the last K transformer blocks", minimum=1, maximum=HIGHEST["last_k"])
    lora_preset: str = option("qkvo", "which linears of a block are adapted", choices=("qkvo", "qkv", "qkvo_mlp"),
                              rare=True)
    proj_seed: int = option(42, "seed of UniLoRA's indices", minimum=0, maximum=HIGHEST["proj_seed"], rare=True)

    train_steps: int = per_stage(2000, "optimiser steps", minimum=1, maximum=10**9)
    batch_size: int = per_stage(1, "samples of one forward pass", minimum=1, maximum=65536)
    accum_step: int = per_stage(1, "forward passes of one step and process", alias=("GRAD_ACCUM_STEPS",), minimum=1,
                                maximum=65536)
    lr: float = per_stage(0.002, "peak learning rate of θ; auto or 0: 10/√d, with a rate term a third of it",
                          minimum=0, words={"auto": 0.0})
    lr_schedule: str = per_stage("cosine", "the learning rate after the warm-up", choices=("cosine", "constant"),
                                 rare=True)
    lr_warmup: int = per_stage(20, "steps of linear learning-rate warm-up", minimum=0, rare=True)
    grad_clip: float = per_stage(2.0, "a gradient longer than this times the running mean length is shortened to it; "
                                 "0: never", minimum=0, rare=True)
    noise: str = per_stage("anchored", "ε of the fit: random (fresh), anchored (the decoder's own), mix (half and "
                           "half)", choices=("random", "anchored", "mix"))
    timesteps: str = per_stage("grid", "t of the fit: uniform, shifted (by SHIFT), grid (the decoder's σ values)",
                            choices=("uniform", "shifted", "grid"))
    loss: str = per_stage("pixel", "latent: plain MSE; pixel: latent errors weighted as the VAE decoder weighs them",
                       choices=("latent", "pixel"), rare=True)
    seed: int = per_stage(42, "seed of the fit and of the decoder's noise", minimum=0, maximum=HIGHEST["seed"])

    decode_steps: int = per_stage(1, "sampler steps of the decoder", alias=("TEST_STEPS",), minimum=1,
                                  maximum=HIGHEST["decode_steps"])
    sampler: str = per_stage("euler", "ODE solver of the decoder", choices=("euler", "unipc"), rare=True)
    shift: float = per_stage(3.0, "σ grid shift: σ' = s·σ / (1 + (s − 1)·σ); 0: the model's own", minimum=0,
                             maximum=HIGHEST["shift"], rare=True)
    guidance: float = per_stage(1.0, "classifier-free guidance; 1: off", alias=("TEST_CFG", "CFG"), minimum=1,
                                maximum=HIGHEST["guidance"])

    lambda_rate: float = per_stage(0.0, "λ: weight of bits per θ entry in the loss; 0: no rate term", minimum=0)
    lambda_rate_warmup: int = per_stage(500, "steps over which λ ramps up", minimum=0)
    rounding: str = per_stage("ste", "of θ in a stage with a rate term: soft (ever steeper, straight-through in the "
                              "last fifth), ste (straight-through from the start, as in the paper)",
                              choices=("soft", "ste"), rare=True)
    init_bits: float = per_stage(3.0, "bits per θ entry that the first quantiser step aims at", minimum=0.1, rare=True)
    step_lr: float = per_stage(0.002, "peak learning rate of the raw quantiser step (the step is its softplus): above "
                               "1 about what the step moves at a time, far below 1 what its logarithm does", minimum=0,
                               rare=True)
    init_lora_path: str = per_stage("", "start from this checkpoint (ours or the reference's)", identity=False)

    save_every: int = per_stage(100, "steps between checkpoints", minimum=1, identity=False)
    preview_every: int = per_stage(500, "steps between decoded previews; 0: only at the end", minimum=0,
                                   identity=False, rare=True)
    overwrite: bool = option(False, "replace existing outputs", identity=False)
    checkpointing: str = per_stage("auto", "recompute activations: none, selective (keep attention outputs), full, "
                                   "auto", choices=("auto", "none", "selective", "full"), identity=False, rare=True)
    compile: str = per_stage("auto", "auto: on GPU, compile blocks of large models, CUDA graph of small ones; never",
                             choices=("auto", "blocks", "graph", "never"), identity=False, rare=True)

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of θ: LR, or with LR=auto one that carries over between models.

        A LoRA entry is θ/√(slots / d), so d entries of θ move a layer's output in proportion to their rate times √d,
        whatever the model's width and the rank; studies/learning_rates derives and measures it. θ that is rounded
        (LAMBDA_RATE > 0) takes a third: it starts from a fit and must settle on its grid.
        """
        return self.lr or RATE_OF_ONE / self.theta_length**0.5 / (3 if self.lambda_rate > 0 else 1)

    def identity(self) -> dict[str, Any]:
        """The settings that shape the result: all but folders, paths, reporting and speed."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                if field.metadata["identity"]}


def refuse_disagreement(stages: dict[str, FitConfig]) -> None:
    """Raises VovError when stages differ in what must be one for all of them: geometry, adapter, clip, model.

    stages: by name, in order.
    """
    (first, base), *others = stages.items()
    for name, settings in others:
        for field in dataclasses.fields(base):
            ours, theirs = getattr(base, field.name), getattr(settings, field.name)
            if ours != theirs and not field.metadata.get("per_stage"):
                variable = environment_names(field)[0]
                raise VovError(f"`{field.name}` is {ours!r} in {first} but {theirs!r} in {name}, and must be the same "
                               f"in both; set `{field.name}`, not STAGE1_{variable} or STAGE2_{variable}")
