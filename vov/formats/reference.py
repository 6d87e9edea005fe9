"""The paper's checkpoints: θ, and after stage 2 step and density. Arithmetic is float32, whatever the file holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vov import VovError
from vov.adapter.quantiser import theta_hat
from vov.config import checked
from vov.formats.tensors import finite, read_tensors, vector, write_tensors
from vov.model.backbone import Backbone

THETA, STEP, DENSITY = "unilora_theta_d", "unilora_scale_quant", "unilora_bit_estimator."


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
        return self.theta if self.step is None else theta_hat(self.theta, self.step, "round")


def load_reference(path: str | Path) -> Reference:
    """Reads a stage-1 or stage-2 checkpoint, the reference's or ours.

    Names may be wrapped (`module.`, `base_model.`, a trailing `.default`); values may be of any float type.
    Raises VovError, naming file, key and cure, for anything else.
    """
    tensors, metadata = read_tensors(path, bare_name)
    if THETA not in tensors:
        raise VovError(f"{path}: {THETA}: is missing; give the checkpoint of stage 1 or stage 2 (a standard LoRA file "
                       "holds A and B, from which θ cannot be recovered)")
    theta = vector(path, THETA, tensors.pop(THETA))
    state = {key: finite(path, key, value) for key, value in tensors.items()}
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
    tensors = {THETA: vector(path, THETA, theta)}
    if step is not None:
        if not (math.isfinite(step) and step > 0):
            raise VovError(f"{path}: {STEP}: a step of {step} cannot be stored; it must be positive")
        tensors[STEP] = torch.tensor(step + math.log(-math.expm1(-step)), dtype=torch.float32)
    for key, value in (estimator_state or {}).items():
        if key != STEP and not key.startswith(DENSITY):
            raise VovError(f"{path}: {key}: is not part of a checkpoint; names begin with {DENSITY}")
        tensors[key] = finite(path, key, value)
    write_tensors(path, tensors, {"vov": json.dumps(dict(metadata or {}), ensure_ascii=False)})


def told_hash(metadata: Mapping[str, Any], source: str | Path) -> bytes | None:
    """The index hash that our metadata tell; None where they tell none. Raises VovError for one that is no hash."""
    text = metadata.get("index_hash")
    try:
        found = None if text is None else bytes.fromhex(text)
    except (TypeError, ValueError):
        found = b""
    if found is not None and len(found) != 8:
        raise VovError(f"{source}: metadata: index_hash: is {text!r:.40}, not 16 hexadecimal digits; the file is"
                       " damaged")
    return found


def told_settings(metadata: Mapping[str, Any], names: Iterable[str], cls: type, source: str | Path) -> dict[str, Any]:
    """Those of the settings `names` that our metadata tell, as fields of `cls`; VovError for one that cannot be."""
    config = metadata.get("config", {})
    if not isinstance(config, dict):
        raise VovError(f"{source}: metadata: config: is no table of settings; the file is damaged")
    return {name: checked(cls, name, config[name], f"{source}: metadata") for name in names if name in config}


def told_captions(metadata: Mapping[str, Any], source: str | Path) -> list[str]:
    """The captions that our metadata tell, [] where they tell none."""
    found = metadata.get("captions") or []
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise VovError(f"{source}: metadata: captions: are not texts; the file is damaged")
    return found


def refuse_stranger(metadata: Mapping[str, Any], backbone: Backbone, source: str | Path) -> None:
    """Raises VovError when our metadata tell that a checkpoint was fitted on another model than `backbone`."""
    text = metadata.get("fingerprint")
    try:
        known = text is None or backbone.recognises(bytes.fromhex(text))
    except (TypeError, ValueError):
        known = False
    if not known:
        raise VovError(f"{source}: was fitted on another model ({metadata.get('model', 'not named')}, fingerprint "
                       f"{text!s:.16}), and this one is {backbone.name} ({backbone.fingerprint().hex()}); give the "
                       "model it was fitted on")


def bare_name(key: str) -> str | None:
    """The reference's name of a tensor without what wrappers put around it; None for tensors of no interest."""
    parts = [part for part in key.split(".") if part != "default"]
    while parts and not parts[0].startswith("unilora_"):
        parts.pop(0)
    name = ".".join(parts)
    return name if name in (THETA, STEP) or name.startswith(DENSITY) else None
