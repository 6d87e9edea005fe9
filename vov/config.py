"""Configuration: frozen dataclasses filled from the command line, the environment, a YAML preset, defaults.

A field `train_steps` is the flag `--train-steps`, the environment variable `TRAIN_STEPS` and the YAML key
`train_steps`. The first source that names it wins, in that order. Older names that users already type are
aliases in the field's metadata. `STAGE2_LR=…` sets `LR` for stage 2 alone; a preset has `stage1:` and
`stage2:` sections for the same purpose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from vov import VovError
from vov.files import REPO, content_hash, write_bytes

T = TypeVar("T")
STAGES = ("stage1", "stage2")


def option(default: Any, help: str, *, alias: tuple[str, ...] = (), choices: tuple[Any, ...] = (),
           minimum: float | None = None) -> Any:
    """A dataclass field that explains itself; `alias` lists further environment variables that set it."""
    metadata = {"help": help, "alias": alias, "choices": choices, "minimum": minimum}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Everything that shapes a fit and the file that it ends in; both trees extend it."""

    config: str = option("", "preset in configs/ or a YAML file", alias=("CONFIG",))
    out_dir: str = option("", "folder of this run")
    cache_dir: str = option("../pretrained_models", "where the foundation models are (Hugging Face cache or folders)")
    model_id: str = option("", "hub id or local folder of the foundation model")
    dtype: str = option("auto", "arithmetic of the frozen model; auto: bfloat16 on GPU, float32 on CPU",
                        choices=("auto", "float32", "bfloat16", "float16"))
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    quantize: str = option("none", "storage of the frozen weights: none; fp8 (half the memory); nf4 (a quarter, needs "
                           "bitsandbytes)", choices=("none", "fp8", "nf4"))
    offload: str = option("none", "none; blocks: blocks wait on the host and visit the GPU in turn (slower, least "
                          "memory)", choices=("none", "blocks"))

    width: int = option(512, "pixels, a multiple of the model's unit", minimum=1)
    height: int = option(512, "pixels, a multiple of the model's unit", minimum=1)
    resize: str = option("crop", "how the source is brought to WIDTH×HEIGHT: crop (cover and cut the centre), "
                         "stretch (undone on decode), pad (undone on decode)", choices=("crop", "stretch", "pad"))

    rank: int = option(1, "LoRA rank r", alias=("VOV_RANK",), minimum=1)
    theta_length: int = option(131072, "length d of the vector θ", alias=("THETA_D_LENGTH", "V_LENGTH"), minimum=1)
    last_k: int = option(30, "adapt the last K transformer blocks", minimum=1)
    lora_preset: str = option("qkvo", "which linears of a block are adapted", choices=("qkvo", "qkv", "qkvo_mlp"))
    proj_seed: int = option(42, "seed of UniLoRA's indices", minimum=0)
    theta_init: float = option(0.02, "θ starts uniform in ± this", minimum=0)

    train_steps: int = option(2000, "optimiser steps", minimum=1)
    batch_size: int = option(1, "samples of one forward pass", minimum=1)
    accum_step: int = option(1, "forward passes of one step and process", alias=("GRAD_ACCUM_STEPS",), minimum=1)
    lr: float = option(0.002, "peak learning rate of θ", minimum=0)
    lr_schedule: str = option("cosine", "after the warm-up", choices=("cosine", "constant"))
    lr_warmup: int = option(20, "steps of linear learning-rate warm-up", minimum=0)
    weight_decay: float = option(1e-4, "AdamW's decoupled weight decay", minimum=0)
    grad_clip: float = option(2.0, "a gradient longer than this times the running mean length is shortened to it; 0: "
                              "never", minimum=0)
    noise: str = option("anchored", "ε of the fit: random (fresh), anchored (the decoder's own), mix (half and half)",
                        choices=("random", "anchored", "mix"))
    timesteps: str = option("grid", "t of the fit: uniform, shifted (by SHIFT), grid (the decoder's σ values)",
                            choices=("uniform", "shifted", "grid"))
    loss: str = option("pixel", "latent: plain MSE; pixel: latent errors weighted as the VAE decoder weighs them",
                       choices=("latent", "pixel"))
    seed: int = option(42, "seed of the fit and of the decoder's noise", minimum=0)

    decode_steps: int = option(1, "sampler steps of the decoder", alias=("TEST_STEPS",), minimum=1)
    sampler: str = option("euler", "ODE solver of the decoder", choices=("euler", "unipc"))
    shift: float = option(3.0, "σ grid shift: σ' = s·σ / (1 + (s − 1)·σ); 0: the model's own", minimum=0)
    guidance: float = option(1.0, "classifier-free guidance; 1: off", alias=("TEST_CFG", "CFG"), minimum=1)

    lambda_rate: float = option(0.0, "λ: weight of bits per θ entry in the loss; 0: no rate term", minimum=0)
    lambda_rate_warmup: int = option(500, "steps over which λ ramps up", minimum=0)
    quantizer: str = option("ste", "how the fit sees rounding: ste (straight-through), noise (additive uniform)",
                            choices=("ste", "noise"))
    init_bits: float = option(3.0, "bits per θ entry that the first quantiser step aims at", minimum=0.1)
    init_lora_path: str = option("", "start from this checkpoint (ours or the reference's)")

    save_every: int = option(100, "steps between checkpoints", minimum=1)
    preview_every: int = option(500, "steps between decoded previews; 0: only at the end", minimum=0)
    resume: str = option("auto", "auto: go on from OUT_DIR's checkpoint; never", choices=("auto", "never"))
    overwrite: bool = option(False, "replace existing outputs")
    checkpointing: str = option("auto", "recompute activations: none, selective (keep attention outputs), full, auto",
                                choices=("auto", "none", "selective", "full"))
    compile: str = option("auto", "auto: on GPU, compile blocks of large models, CUDA graph of small ones; never",
                          choices=("auto", "blocks", "graph", "never"))

    @property
    def precision(self) -> str:
        """DTYPE and QUANTIZE as `Backbone.load` and headers write them: "auto", "bfloat16-fp8", …"""
        return self.dtype if self.quantize == "none" else f"{self.dtype}-{self.quantize}"

    def identity(self) -> dict[str, Any]:
        """The settings that shape the result: all but folders, reporting and speed."""
        skip = {"out_dir", "config", "cache_dir", "overwrite", "resume", "save_every", "preview_every", "compile",
                "checkpointing", "offload"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in skip}

    def hash(self) -> str:
        """12 hexadecimal digits that name `identity`."""
        return content_hash(*sorted(self.identity().items()))[:12]


def variables(cls: type) -> dict[str, dataclasses.Field]:
    """{field name: field} of a configuration class, in order."""
    return {field.name: field for field in dataclasses.fields(cls)}


def environment_names(field: dataclasses.Field) -> tuple[str, ...]:
    """The environment variables that set a field, the canonical one first."""
    own = field.name.upper()
    return (own, *(name for name in field.metadata.get("alias", ()) if name != own))


def load(cls: type[T], arguments: Mapping[str, Any], environ: Mapping[str, str], stage: str = "",
         defaults: Mapping[str, Any] | None = None) -> T:
    """Builds `cls` from, in falling priority: arguments > STAGE_environment > environment > YAML > defaults.

    Args:
        arguments: values given on the command line, by field name.
        environ: environment variables; empty strings count as unset.
        stage: "", "stage1" or "stage2".
        defaults: an entry point's own defaults, over those of the class.
    Raises:
        VovError: unknown YAML key, value that does not parse or is out of range.
    """
    if "TORCHELASTIC_RUN_ID" in environ:  # torchrun's RANK is not the LoRA's; common.sh hands that on as VOV_RANK
        environ = {k: v for k, v in environ.items() if k != "RANK"}
    fields = variables(cls)
    types = get_type_hints(cls)
    values = dict(defaults or {})

    def from_environment(name: str) -> tuple[str, str] | None:
        prefixes = (f"{stage.upper()}_", "") if stage else ("",)
        for prefix in prefixes:
            for variable in environment_names(fields[name]):
                if environ.get(prefix + variable, "") != "":
                    return prefix + variable, environ[prefix + variable]
        return None

    if "config" in fields:
        named = from_environment("config")
        preset = arguments.get("config") or (named[1] if named else values.get("config", ""))
        if preset:
            values |= {k: _parse(preset, k, v, types[k], fields[k])
                       for k, v in read_preset(preset, set(fields), stage).items()}
            values["config"] = preset
    for name in fields:
        found = from_environment(name)
        if found:
            values[name] = _parse(found[0], name, found[1], types[name], fields[name])
        if arguments.get(name) is not None:
            flag = "--" + name.replace("_", "-")
            values[name] = _parse(flag, name, arguments[name], types[name], fields[name])
    return cls(**values)


def preset_path(preset: str) -> Path:
    """The YAML file of a preset name or path. Raises VovError, listing the presets, when there is none."""
    shipped = REPO / "configs" / f"{preset}.yaml"
    for path in (shipped, Path(preset)):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in (REPO / "configs").glob("*.yaml")))
    raise VovError(f"CONFIG={preset}: no such preset or YAML file; presets are {known}")


def read_preset(preset: str, known: set[str], stage: str = "") -> dict[str, Any]:
    """The keys of a preset, those of its `stage` section over the common ones. An unknown key is an error."""
    path = preset_path(preset)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VovError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise VovError(f"{path}: must be a mapping of variable names to values")
    sections = {name: tree.pop(name, None) or {} for name in STAGES}
    for key in [*tree, *sections["stage1"], *sections["stage2"]]:
        if key not in known:
            raise VovError(f"{path}: unknown key {key!r}; run the script with --help for the known ones")
    return tree | sections.get(stage, {})


def save(config: Any, path: str | Path) -> None:
    """Writes the resolved configuration as YAML that `load` reads back."""
    tree = {k: v for k, v in dataclasses.asdict(config).items() if k != "config"}
    write_bytes(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())


def number_list(name: str, text: str, count: int = 0, positive: bool = False) -> list[float]:
    """The numbers of a variable: "0.5,1,2" → [0.5, 1.0, 2.0].

    Args:
        name: of the variable, for errors.
        count: how many there must be; one number then stands for all. 0: any number of them, at least one.
        positive: all must be above 0.
    Raises:
        VovError: the text is something else.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)) or (positive and min(values) <= 0):
        raise VovError(f"{name}={text!r}: must be {'positive ' if positive else ''}numbers with commas between")
    if count and len(values) == 1:
        values *= count
    if count and len(values) != count:
        raise VovError(f"{name}={text!r} has {len(values)} values, {count} are needed; give one for each, or one for "
                       "all")
    return values


def _parse(source: str, name: str, value: Any, kind: Any, field: dataclasses.Field) -> Any:
    kind = next((k for k in get_args(kind) if k is not type(None)), kind)
    try:
        if kind is bool and isinstance(value, str):
            parsed: Any = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False,
                           "no": False, "off": False, "": False}[value.lower()]
        elif kind is int:
            parsed = int(str(value))
        else:
            parsed = kind(value)
    except (KeyError, ValueError, TypeError):
        wanted = {int: "a whole number", float: "a number", bool: "0 or 1"}.get(kind, "text")
        raise VovError(f"{source}: {name}={value!r} is not {wanted}") from None
    choices, minimum = field.metadata.get("choices", ()), field.metadata.get("minimum")
    if choices and parsed not in choices:
        raise VovError(f"{source}: {name}={value!r} is not one of {', '.join(map(str, choices))}")
    if minimum is not None and not parsed >= minimum:
        raise VovError(f"{source}: {name}={value!r} must be at least {minimum:g}")
    return parsed
