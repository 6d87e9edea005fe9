"""θ in other people's files: reference checkpoints, PEFT UniLoRA adapters, standard LoRA files.

    load_reference / save_reference   the paper's checkpoints: θ, and after stage 2 step and density
    read_peft / write_peft            a folder that stock `PeftModel.from_pretrained` opens
    write_lora                        the expanded A and B, for diffusers' `load_lora_weights` and for ComfyUI

Everything is safetensors or JSON; nothing is unpickled. Arithmetic is float32, whatever the file holds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vov import VovError
from vov.files import atomic, write_json
from vov.rate import quantise
from vov.unilora import Adapter, Projection

THETA, STEP, DENSITY = "unilora_theta_d", "unilora_scale_quant", "unilora_bit_estimator."
PEFT_THETA = f"base_model.{THETA}"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_SLOTS = 2**31  # entries of all A and B together that a file may ask for
MAX_JSON = 1 << 24  # bytes


# --- the reference's checkpoints ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # tensors have no single truth value
class Reference:
    """A checkpoint in the reference's format.

    theta: float32 [d], as fitted, not rounded.
    step: the quantiser step, in units of theta; None after stage 1.
    estimator_state: the step's raw value and the density under the reference's names, for `RateModel.load_reference`.
    metadata: what our files say of themselves (model, rank, lora_preset, ...); empty for the reference's.
    """

    theta: Tensor
    step: float | None
    estimator_state: dict[str, Tensor]
    metadata: dict[str, Any]

    @property
    def theta_hat(self) -> Tensor:
        """θ as decoded, float32 [d]: step · round(clamp(θ / step, ±128)); θ itself when there is no step."""
        return self.theta if self.step is None else quantise(self.theta, self.step, "round")


def load_reference(path: str | Path) -> Reference:
    """Reads a stage-1 or stage-2 checkpoint, the reference's or ours.

    Names may be wrapped (`module.`, `base_model.`, a trailing `.default`); values may be of any float type.
    Raises VovError, naming file, key and cure, for anything else.
    """
    tensors, metadata = _read(path, _bare_name)
    if THETA not in tensors:
        raise VovError(f"{path}: {THETA}: is missing; give the checkpoint of stage 1 or stage 2 (a standard LoRA file "
                       "holds A and B, from which θ cannot be recovered)")
    theta = _vector(path, THETA, tensors.pop(THETA))
    state = {key: _finite(path, key, value) for key, value in tensors.items()}
    step = None
    if STEP in state:
        if state[STEP].numel() != 1 or not state[STEP].is_floating_point():
            raise VovError(f"{path}: {STEP}: has shape {list(state[STEP].shape)}, not one number; "
                           "the file is damaged, save it again")
        state[STEP] = state[STEP].reshape(())
        step = float(F.softplus(state[STEP]))
        if step < torch.finfo(torch.float32).tiny:
            raise VovError(f"{path}: {STEP}: gives a step of {step:g}; the fit went astray, run stage 2 again")
    return Reference(theta, step, state, metadata)


def save_reference(path: str | Path, theta: Tensor, step: float | None = None,
                   estimator_state: Mapping[str, Tensor] | None = None,
                   metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a checkpoint that the reference's tools and `load_reference` read, whole or not at all.

    Args:
        theta: [d], any float type; stored as float32.
        step: the quantiser step, stored as its inverse softplus (read back within 1e-6 of it, relatively);
            None for a stage-1 checkpoint.
        estimator_state: `unilora_bit_estimator.*`, as in `Reference`; its raw step, if any, wins over `step`.
        metadata: JSON values, kept beside the tensors where the reference's tools do not look.
    """
    tensors = {THETA: _vector(path, THETA, theta)}
    if step is not None:
        if not (math.isfinite(step) and step > 0):
            raise VovError(f"{path}: {STEP}: a step of {step} cannot be stored; it must be positive")
        tensors[STEP] = torch.tensor(step + math.log(-math.expm1(-step)), dtype=torch.float32)
    for key, value in (estimator_state or {}).items():
        if key != STEP and not key.startswith(DENSITY):
            raise VovError(f"{path}: {key}: is not part of a checkpoint; names begin with {DENSITY}")
        tensors[key] = _finite(path, key, value)
    _write(path, tensors, {"vov": json.dumps(dict(metadata or {}), ensure_ascii=False)})


def _bare_name(key: str) -> str | None:
    """The reference's name of a tensor without what wrappers put around it; None for tensors of no interest."""
    parts = [part for part in key.split(".") if part != "default"]
    while parts and not parts[0].startswith("unilora_"):
        parts.pop(0)
    name = ".".join(parts)
    return name if name in (THETA, STEP) or name.startswith(DENSITY) else None


# --- PEFT -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """A UniLoRA adapter folder of PEFT.

    theta: float32 [d]. targets: PEFT's `target_modules`, a regular expression or names and name endings.
    indices: the index buffers that `save_indices` leaves in the file, by layer name and "A" or "B"; else empty.
    """

    source: Path
    theta: Tensor
    rank: int
    seed: int
    targets: str | tuple[str, ...]
    base_model: str
    indices: dict[tuple[str, str], Tensor]
    metadata: dict[str, Any]

    def layers(self, model: nn.Module) -> list[str]:
        """Names of the linears of `model` that PEFT would adapt, in `named_modules()` order."""
        def chosen(name: str) -> bool:
            if isinstance(self.targets, str):
                return re.fullmatch(self.targets, name) is not None
            return any(name == target or name.endswith("." + target) for target in self.targets)

        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and chosen(name)]
        if not names:
            raise VovError(f"{self.source / CONFIG}: target_modules: match no layer of this model; "
                           f"give the model it was made for ({self.base_model or 'not named'})")
        return names

    def projection(self, adapter: Adapter) -> Projection:
        """The map from θ to the factors of `adapter`'s layers, checked against what the folder says of its indices."""
        if self.rank * sum(out + inn for out, inn in adapter.shapes) > MAX_SLOTS:
            raise VovError(f"{self.source / CONFIG}: r: {self.rank} is too large for this model; the file is damaged")
        projection = adapter.projection(self.rank, self.theta.numel(), self.seed)
        cure = "it was made with another NumPy or another model; export it again from the .vov file"
        if self.metadata.get("index_hash") not in (None, projection.hash.hex()):
            raise VovError(f"{self.source / WEIGHTS}: index_hash: differs from the indices of this model; {cure}")
        if not self.indices:
            return projection
        parts = iter(projection.index.split(projection.sizes))
        for name in adapter.names:
            for kind in ("A", "B"):
                saved = self.indices.get((name, kind))
                if saved is None or not torch.equal(saved.flatten().long(), next(parts).long()):
                    raise VovError(f"{self.source / WEIGHTS}: {name}.unilora_indices_{kind}: differs from the indices "
                                   f"of this model; {cure}")
        return projection


def write_peft(folder: str | Path, theta: Tensor, names: Sequence[str], projection: Projection,
               base_model: str = "") -> None:
    """Writes adapter_config.json and adapter_model.safetensors for PEFT >= 0.21.

    `PeftModel.from_pretrained(transformer, folder)` then computes what our adapter does, to the bit in float32.

    Args:
        theta: [d], as decoded; stored as float32.
        names: the adapted linears (`Adapter.names`); the configuration's regular expression matches these alone.
        projection: of these layers: rank, length, seed.
        base_model: hub id of the frozen model, which PEFT only records.
    """
    folder = Path(folder)
    theta = _vector(folder / WEIGHTS, THETA, theta)
    if theta.numel() != projection.length or len(names) != len(projection.shapes):
        raise VovError(f"{folder}: {THETA}: {theta.numel()} entries for {len(names)} layers do not fit a projection of "
                       f"{projection.length} to {len(projection.shapes)}; use the projection of the same adapter")
    _write(folder / WEIGHTS, {PEFT_THETA: theta},
           {"format": "pt", "vov": json.dumps({"index_hash": projection.hash.hex()})})
    write_json(folder / CONFIG, {
        "peft_type": "UNILORA", "base_model_name_or_path": base_model or None, "inference_mode": True,
        "r": projection.rank, "theta_d_length": projection.length, "proj_seed": projection.seed,
        "target_modules": _pattern(names), "unilora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "modules_to_save": None, "save_indices": False, "init_weights": True})


def read_peft(folder: str | Path) -> PeftAdapter:
    """Reads an adapter folder. Raises VovError for other methods than UniLoRA and options that θ cannot express."""
    folder = Path(folder)
    path = folder / CONFIG
    try:
        if path.stat().st_size > MAX_JSON:
            raise VovError(f"{path}: is larger than 16 MiB; this is no adapter configuration, check the path")
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise VovError(f"{path}: cannot be read ({error.strerror}); give the folder of a PEFT adapter") from error
    except (ValueError, RecursionError) as error:
        raise VovError(f"{path}: is not valid JSON; save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "UNILORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise VovError(f"{path}: peft_type: is {kind!r}; only UNILORA adapters hold a θ")
    for key, neutral in (("bias", "none"), ("modules_to_save", None), ("layers_to_transform", None),
                         ("layers_pattern", None), ("exclude_modules", None), ("fan_in_fan_out", False)):
        if config.get(key, neutral) not in (neutral, None, []):
            raise VovError(f"{path}: {key}: is {config[key]!r}, which θ cannot express; save an adapter without it")

    def whole(key: str, default: int, low: int, high: int) -> int:
        value = config.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise VovError(f"{path}: {key}: is {value!r}, not a whole number from {low} to {high}; correct it")
        return value

    rank, seed = whole("r", 4, 1, 4096), whole("proj_seed", 42, 0, 2**64 - 1)
    targets = config.get("target_modules")
    if isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets):
        targets = tuple(targets)
    elif not isinstance(targets, str) or targets == "all-linear" or not _compiles(targets):
        raise VovError(f"{path}: target_modules: is {targets!r:.60}; give a regular expression or a list of names")

    def wanted(key: str) -> str | None:
        return _bare_name(key) or (key if "unilora_indices_" in key else None)

    path = folder / WEIGHTS
    tensors, metadata = _read(path, wanted)
    if THETA not in tensors:
        raise VovError(f"{path}: {PEFT_THETA}: is missing; save the adapter again with PEFT >= 0.21")
    theta = _vector(path, THETA, tensors[THETA])
    if theta.numel() != whole("theta_d_length", 256, 1, 2**31):
        raise VovError(f"{path}: {PEFT_THETA}: has {theta.numel()} entries, but {CONFIG} says "
                       f"theta_d_length {config.get('theta_d_length', 256)}; save the adapter again")
    pattern = re.compile(r"(?:base_model\.model\.)?(.+)\.unilora_indices_([AB])(?:\.default)?")
    found = {key: pattern.fullmatch(key) for key in tensors if "unilora_indices_" in key}
    indices = {(match[1], match[2]): tensors[key] for key, match in found.items() if match}
    return PeftAdapter(folder, theta, rank, seed, targets, str(config.get("base_model_name_or_path") or ""), indices,
                       metadata)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _pattern(names: Sequence[str]) -> str:
    """A regular expression that fully matches `names` and nothing else; short when blocks × endings give them all."""
    parts = [re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name) for name in names]
    if all(parts):
        roots, blocks, endings = (list(dict.fromkeys(match[i] for match in parts)) for i in (1, 2, 3))
        if len(roots) * len(blocks) * len(endings) == len(set(names)):
            choice = ["(" + "|".join(map(re.escape, values)) + ")" for values in (roots, blocks, endings)]
            return r"\.".join(choice)
    return "|".join(map(re.escape, names))


# --- standard LoRA files --------------------------------------------------------------------------------------------

WAN_NAMES = {f"{ours}.{proj}": f"{theirs}.{short}" for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
             for proj, short in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))}
WAN_NAMES |= {"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"}  # diffusers' names of a block's linears → Wan's own


def write_lora(path: str | Path, names: Sequence[str], factors: Sequence[tuple[Tensor, Tensor]], tree: str,
               kind: str = "comfyui", metadata: Mapping[str, Any] | None = None) -> None:
    """Writes the A and B of every layer as a LoRA of scale 1, float32.

    Opens with `WanPipeline.load_lora_weights` or `QwenImagePipeline.load_lora_weights` (outputs equal to the bit in
    float32) and, as kind "comfyui", in ComfyUI as well. kind "diffusers" keeps diffusers' own names for Wan; for
    Qwen-Image, whose layers are called the same in both, the kinds are one.

    Args:
        names: dotted names of the linears in diffusers' transformer (`Adapter.names`).
        factors: (A [r, in], B [out, r]) per layer, as `Projection.factors` returns them.
        tree: "video" (Wan) or "image" (Qwen-Image).
        metadata: caption, model_id, ... as strings or numbers; the rank is added.
    """
    if tree not in ("video", "image") or kind not in ("comfyui", "diffusers"):
        raise VovError(f"{path}: tree {tree!r}, kind {kind!r}; choose video or image, and comfyui or diffusers")
    tensors, ranks = {}, set()
    for name, (a, b) in zip(names, factors, strict=True):
        renamed = tree == "video" and kind == "comfyui"
        key = _wan_name(path, name) if renamed else f"transformer.{name}"
        tensors[f"{key}.lora_A.weight"] = _finite(path, f"{key}.lora_A.weight", a)
        tensors[f"{key}.lora_B.weight"] = _finite(path, f"{key}.lora_B.weight", b)
        if renamed:  # diffusers trips over .alpha beside names of its own; without it the scale is 1 everywhere
            tensors[f"{key}.alpha"] = torch.tensor(float(a.shape[0]))
        ranks.add(a.shape[0])
    if not ranks:
        raise VovError(f"{path}: there are no layers to write; check LORA_PRESET and LAST_K")
    notes = {"rank": max(ranks), **(metadata or {})}
    _write(path, tensors, {"format": "pt"} | {key: str(value) for key, value in notes.items()})


def _wan_name(path: str | Path, name: str) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if not match or match[2] not in WAN_NAMES:
        raise VovError(f"{path}: {name}: has no ComfyUI name; export with kind diffusers")
    return f"diffusion_model.blocks.{match[1]}.{WAN_NAMES[match[2]]}"


# --- safetensors ----------------------------------------------------------------------------------------------------


def _read(path: str | Path, rename: Callable[[str], str | None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """({new name: tensor} of the tensors that `rename` does not map to None, our metadata)."""
    path = Path(path)
    try:
        with path.open("rb") as handle:
            head = handle.read(8)
    except OSError as error:
        raise VovError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    # The first 8 bytes of safetensors are a length below 2^32; those of a pickle of protocol 2 or later are not.
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and any(head[4:])):
        raise VovError(f"{path}: is a pickle, which can run code when opened; if you trust it, convert it: python -c "
                       "\"import torch, safetensors.torch as s; "
                       f"s.save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')\"")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 (not a dict)
                name = rename(key)
                if name is None:
                    continue
                value = file.get_tensor(key)
                # A state dict names a shared θ once per layer: copies are fine, contradictions are not.
                if name in tensors and not torch.equal(tensors[name], value):
                    raise VovError(f"{path}: {key}: is a second {name}, different from the first; keep one adapter")
                tensors[name] = value
    except VovError:
        raise
    except Exception as error:  # whatever the library makes of hostile bytes
        raise VovError(f"{path}: is not a readable safetensors file ({str(error).splitlines()[0]:.80}); "
                       "copy it again or check the path") from error
    try:
        ours = json.loads(metadata.get("vov", "{}"))
    except (ValueError, RecursionError):
        ours = None
    if not isinstance(ours, dict):
        raise VovError(f"{path}: metadata: is not valid JSON; the file is damaged, copy it again")
    return tensors, ours


def _write(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata)


def _vector(path: str | Path, key: str, value: Tensor) -> Tensor:
    if value.dim() != 1 or not value.numel() or not value.is_floating_point():
        raise VovError(f"{path}: {key}: is {str(value.dtype).removeprefix('torch.')} {list(value.shape)}, not a vector "
                       "of floats [d]; give the file of one adapter")
    return _finite(path, key, value)


def _finite(path: str | Path, key: str, value: Tensor) -> Tensor:
    """`value`, floats as float32. Raises VovError when one of them is not finite."""
    if not value.is_floating_point():
        return value
    value = value.detach().float()
    if not torch.isfinite(value).all():
        raise VovError(f"{path}: {key}: holds NaN or infinity; the fit went astray, use an earlier checkpoint")
    return value
