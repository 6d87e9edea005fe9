"""Checkpoints of a fit: one safetensors file with θ, the rate model, the optimiser, the step and the configuration.

Tensor names are the reference's (`unilora_theta_d`, `unilora_scale_quant`, `unilora_bit_estimator.*`), so its tools
read our checkpoints; the optimiser is beside them under `optimizer.`. No random state is kept: every random number
of a fit is a function of (seed, step, sample).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import Tensor

from vov import VovError
from vov.runtime.files import atomic

FORMAT = "vov-checkpoint-1"
CURE = "the file is damaged: remove it to start over"


@dataclass(frozen=True)
class Checkpoint:
    """A fit as it was after `step` optimiser steps."""

    step: int
    tensors: dict[str, Tensor]
    metadata: dict


def save(path: str | Path, step: int, theta: Tensor, rate: torch.nn.Module | None,
         optimizer: torch.optim.Optimizer, metadata: dict, extra: dict[str, Tensor] | None = None) -> None:
    """Writes a checkpoint, whole or not at all.

    metadata: JSON: model, configuration, config hash. extra: further state of the fit, kept as `fit.<name>`.
    """
    tensors = {"unilora_theta_d": theta} | {f"fit.{k}": v for k, v in (extra or {}).items()}
    tensors |= _kept(rate)
    for i, p in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer.{i}.{key}"] = torch.as_tensor(value)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    about = {**metadata, "format": FORMAT, "step": step}
    with atomic(path) as temporary:  # safetensors' own save_file leaves a .tmp file of its own when it is killed
        temporary.write_bytes(safetensors.save(tensors, {"vov": json.dumps(about)}))


def load(path: str | Path) -> Checkpoint:
    """Reads one of our checkpoints. Raises VovError when it is not one or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("vov", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise VovError(f"{path}: not a readable checkpoint ({(str(error).splitlines() or ['?'])[0]:.80}); {CURE}"
                       ) from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise VovError(f"{path}: not a checkpoint of this program; to start from a reference checkpoint "
                       "use `init_lora_path`")
    step = metadata.get("step")
    if type(step) is not int or step < 0:
        raise VovError(f"{path}: metadata: step: is {step!r:.40}, no number of steps; {CURE}")
    return Checkpoint(step, tensors, metadata)


def restore(checkpoint: Checkpoint, theta: Tensor, rate: torch.nn.Module | None, optimizer: torch.optim.Optimizer,
            extra: dict[str, Tensor] | None = None, source: str | Path = "the checkpoint") -> None:
    """Puts a checkpoint into live objects, in place (a captured graph keeps its addresses).

    Raises VovError, before anything is changed, when a tensor is missing, has another shape or type, or is not finite.
    """
    places = {"unilora_theta_d": theta} | {f"fit.{key}": value for key, value in (extra or {}).items()} | _kept(rate)
    states = _states(checkpoint, optimizer)
    for name, place in (places | {name: place for state in states.values() for name, place in state.values()}).items():
        _check(checkpoint.tensors.get(name), place, f"{source}: {name}")
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(checkpoint.tensors[name])
    for p, state in states.items():
        for key, (name, _) in state.items():
            device = p.device if key != "step" or optimizer.defaults.get("capturable") else "cpu"
            optimizer.state[p][key] = checkpoint.tensors[name].to(device)


def _states(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, tuple[str, Tensor]]]:
    """{parameter: {key: (name in the checkpoint, a tensor of its shape and type)}} of the optimiser.

    A parameter that never had a gradient has no state; the first, θ, has one from the first step on.
    """
    found = {}
    for i, p in enumerate(_parameters(optimizer)):
        names = {key: f"optimizer.{i}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
        if checkpoint.tensors.keys() & set(names.values()) or (checkpoint.step and i == 0):
            found[p] = {key: (name, torch.zeros(()) if key == "step" else p) for key, name in names.items()}
    return found


def _check(found: Tensor | None, place: Tensor, what: str) -> None:
    """Raises VovError when a tensor of a checkpoint is missing, or cannot be put into `place`."""
    if found is None or found.shape != place.shape or found.dtype != place.dtype:
        told = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
        raise VovError(f"{what}: {told}, not {place.dtype} {list(place.shape)}; {CURE}")
    if not torch.isfinite(found).all():
        raise VovError(f"{what}: holds NaN or infinity; {CURE}")


def _kept(rate: torch.nn.Module | None) -> dict[str, Tensor]:
    """What a checkpoint holds of the rate model, by name."""
    state = rate.state_dict() if rate is not None else {}
    return {f"unilora_{key}": value for key, value in state.items() if value.is_floating_point() and value.numel()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
