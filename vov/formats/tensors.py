"""Safetensors of strangers: read with bounds and one-line errors, written whole or not at all. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import Tensor

from vov import VovError
from vov.runtime.files import atomic


def read_tensors(path: str | Path, rename: Callable[[str], str | None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
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


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(safetensors.save(tensors, metadata))


def vector(path: str | Path, key: str, value: Tensor) -> Tensor:
    if value.dim() != 1 or not value.numel() or not value.is_floating_point():
        raise VovError(f"{path}: {key}: is {str(value.dtype).removeprefix('torch.')} {list(value.shape)}, not a vector "
                       "of floats [d]; give the file of one adapter")
    return finite(path, key, value)


def finite(path: str | Path, key: str, value: Tensor) -> Tensor:
    """`value`, floats as float32. Raises VovError when one of them is not finite."""
    if not value.is_floating_point():
        return value
    value = value.detach().float()
    if not torch.isfinite(value).all():
        raise VovError(f"{path}: {key}: holds NaN or infinity; the fit went astray, use an earlier checkpoint")
    return value
