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
from safetensors.torch import save_file
from torch import Tensor

from vov import VovError
from vov.files import atomic

FORMAT = "vov-checkpoint-1"


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
    if rate is not None:
        tensors |= {f"unilora_{k}": v for k, v in rate.state_dict().items() if v.is_floating_point() and v.numel()}
    for i, p in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer.{i}.{key}"] = torch.as_tensor(value)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, {"vov": json.dumps({"format": FORMAT, "step": step, **metadata})})


def load(path: str | Path) -> Checkpoint:
    """Reads one of our checkpoints. Raises VovError when it is not one or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("vov", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise VovError(f"{path}: not a readable checkpoint ({error}); remove it or set RESUME=never") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise VovError(f"{path}: not a checkpoint of this program; to start from a reference checkpoint "
                       "use INIT_LORA_PATH")
    step = metadata.get("step")
    if type(step) is not int or step < 0 or "unilora_theta_d" not in tensors:
        raise VovError(f"{path}: holds no θ, or not its step; it is damaged, remove it or set RESUME=never")
    return Checkpoint(step, tensors, metadata)


def restore(checkpoint: Checkpoint, theta: Tensor, rate: torch.nn.Module | None,
            optimizer: torch.optim.Optimizer, extra: dict[str, Tensor] | None = None) -> None:
    """Puts a checkpoint into live objects, in place (a captured graph keeps its addresses).

    Raises VovError when a tensor is missing or of another shape.
    """
    try:
        _restore(checkpoint.tensors, theta, rate, optimizer, extra or {})
    except (KeyError, RuntimeError) as error:
        raise VovError(f"the checkpoint of step {checkpoint.step} is incomplete ({str(error).splitlines()[0]:.80}); "
                       "remove it or set RESUME=never") from error


def _restore(tensors: dict[str, Tensor], theta: Tensor, rate: torch.nn.Module | None,
             optimizer: torch.optim.Optimizer, extra: dict[str, Tensor]) -> None:
    with torch.no_grad():
        theta.copy_(tensors["unilora_theta_d"])
        for key, value in extra.items():
            value.copy_(tensors[f"fit.{key}"])
        if rate is not None:
            own = rate.state_dict()
            for key, value in own.items():
                if f"unilora_{key}" in tensors:
                    value.copy_(tensors[f"unilora_{key}"])
    for i, p in enumerate(_parameters(optimizer)):
        keys = [f"optimizer.{i}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")]
        if i and not set(keys) & set(tensors):
            continue  # a parameter that never had a gradient; θ, the first, always has
        for key, name in zip(("step", "exp_avg", "exp_avg_sq"), keys, strict=True):
            value = tensors[name].reshape(p.shape if key != "step" else ())
            device = p.device if key != "step" or optimizer.defaults.get("capturable") else "cpu"
            optimizer.state[p][key] = value.to(device)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
