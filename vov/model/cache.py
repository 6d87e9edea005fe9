"""Tensors that are computed once and kept on disk under a hash of everything they depend on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from vov.files import atomic


def cache_folder() -> Path:
    """Where embeddings and latents are kept: VOV_CACHE, else ~/.cache/vov."""
    return Path(os.environ.get("VOV_CACHE") or Path.home() / ".cache" / "vov")


def cached(kind: str, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors stored under `kind`/`key`, computed and stored when they are not there yet."""
    path = cache_folder() / kind / f"{key}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except Exception:  # a damaged cache entry is recomputed, whatever is wrong with it
            path.unlink(missing_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in compute().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary)
    return tensors
