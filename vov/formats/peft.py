"""PEFT UniLoRA adapters: a folder that stock `PeftModel.from_pretrained` opens, and back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vov import VovError
from vov.adapter.adapt import AdapterSpec, project
from vov.adapter.unilora import Adapter, Projection
from vov.formats.reference import THETA, bare_name, told_hash
from vov.formats.tensors import read_tensors, vector, write_tensors
from vov.runtime.files import write_json

PEFT_THETA = f"base_model.{THETA}"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_JSON = 1 << 24  # bytes
PATIENCE = 5  # seconds for a regular expression


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
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if isinstance(self.targets, str):
            names = matching(self.targets, names, self.source / CONFIG)
        else:
            names = [name for name in names if any(f".{name}".endswith(f".{target}") for target in self.targets)]
        if not names:
            raise VovError(f"{self.source / CONFIG}: target_modules: match no layer of this model; "
                           f"give the model it was made for ({self.base_model or 'not named'})")
        return names

    def projection(self, adapter: Adapter) -> Projection:
        """The map from θ to the factors of `adapter`'s layers, checked against what the folder says of its indices."""
        cure = "it was made with another NumPy or another model; export it again from the .vov file"
        source = self.source / WEIGHTS
        projection = project(AdapterSpec(self.rank, self.theta.numel(), 0, "", self.seed,
                                         told_hash(self.metadata, source), str(source)), adapter.shapes)
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
    theta = vector(folder / WEIGHTS, THETA, theta)
    if theta.numel() != projection.length or len(names) != len(projection.shapes):
        raise VovError(f"{folder}: {THETA}: {theta.numel()} entries for {len(names)} layers do not fit a projection of "
                       f"{projection.length} to {len(projection.shapes)}; use the projection of the same adapter")
    write_tensors(folder / WEIGHTS, {PEFT_THETA: theta},
           {"format": "pt", "vov": json.dumps({"index_hash": projection.hash.hex()})})
    write_json(folder / CONFIG, {
        "peft_type": "UNILORA", "base_model_name_or_path": base_model or None, "inference_mode": True,
        "r": projection.rank, "theta_d_length": projection.length, "proj_seed": projection.seed,
        "target_modules": _pattern(names), "unilora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "modules_to_save": None, "save_indices": False, "init_weights": True})


def read_peft(folder: str | Path) -> PeftAdapter:
    """Reads an adapter folder. Raises VovError for other methods than UniLoRA and options that θ cannot express."""
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    rank, seed = (_whole(folder / CONFIG, config, key, *bounds) for key, bounds in (
        ("r", (4, 1, 4096)), ("proj_seed", (42, 0, 2**64 - 1))))
    targets = _targets(folder / CONFIG, config)

    def wanted(key: str) -> str | None:
        return bare_name(key) or (key if "unilora_indices_" in key else None)

    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path, wanted)
    if THETA not in tensors:
        raise VovError(f"{path}: {PEFT_THETA}: is missing; save the adapter again with PEFT >= 0.21")
    theta = vector(path, THETA, tensors[THETA])
    if theta.numel() != _whole(folder / CONFIG, config, "theta_d_length", 256, 1, 2**31):
        raise VovError(f"{path}: {PEFT_THETA}: has {theta.numel()} entries, but {CONFIG} says "
                       f"theta_d_length {config.get('theta_d_length', 256)}; save the adapter again")
    pattern = re.compile(r"(?:base_model\.model\.)?(.+)\.unilora_indices_([AB])(?:\.default)?")
    found = {key: pattern.fullmatch(key) for key in tensors if "unilora_indices_" in key}
    indices = {(match[1], match[2]): tensors[key] for key, match in found.items() if match}
    return PeftAdapter(folder, theta, rank, seed, targets, str(config.get("base_model_name_or_path") or ""), indices,
                       metadata)


def _read_config(path: Path) -> dict[str, Any]:
    """adapter_config.json of a UniLoRA adapter whose options θ can express."""
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
    return config


def _whole(path: Path, config: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise VovError(f"{path}: {key}: is {value!r}, not a whole number from {low} to {high}; correct it")
    return value


def _targets(path: Path, config: dict[str, Any]) -> str | tuple[str, ...]:
    """PEFT's `target_modules`: a regular expression, or names and name endings."""
    targets = config.get("target_modules")
    if isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets):
        return tuple(targets)
    if not isinstance(targets, str) or targets == "all-linear" or not _compiles(targets):
        raise VovError(f"{path}: target_modules: is {targets!r:.60}; give a regular expression or a list of names")
    return targets


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def matching(pattern: str, names: Sequence[str], source: Path) -> list[str]:
    """The names that a stranger's regular expression matches in full.

    It is tried in a process of its own: some expressions take for ever, and Python's cannot be stopped otherwise.
    Raises VovError for those.
    """
    program = ("import json, re, sys; pattern, names = json.load(sys.stdin); "
               "print(json.dumps([name for name in names if re.fullmatch(pattern, name)]))")
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", program], input=json.dumps([pattern, list(names)]),
                              capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise VovError(f"{source}: target_modules: {pattern!r:.60} takes too long to match; give a list of names "
                       "instead") from None
    if done.returncode:
        raise VovError(f"{source}: target_modules: {pattern!r:.60} cannot be matched; give a list of names instead")
    return json.loads(done.stdout)


def _pattern(names: Sequence[str]) -> str:
    """A regular expression that fully matches `names` and nothing else; short when blocks × endings give them all."""
    parts = [match for name in names if (match := re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name))]
    if len(parts) == len(names):
        roots, blocks, endings = (list(dict.fromkeys(match[i] for match in parts)) for i in (1, 2, 3))
        if len(roots) * len(blocks) * len(endings) == len(set(names)):
            choice = ["(" + "|".join(map(re.escape, values)) + ")" for values in (roots, blocks, endings)]
            return r"\.".join(choice)
    return "|".join(map(re.escape, names))
