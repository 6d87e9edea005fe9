"""Tensors that are computed once and kept on disk under a hash of everything they depend on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from vov import VovError
from vov.runtime.files import atomic, remove_parts

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where embeddings and latents are kept: VOV_CACHE, else ~/.cache/vov."""
    return Path(os.environ.get("VOV_CACHE") or Path.home() / ".cache" / "vov")


def kept(kind: str, key: str) -> dict[str, Tensor] | None:
    """The tensors stored under `kind`/`key`, or None. A damaged entry is removed."""
    path = cache_folder() / kind / f"{key}.safetensors"
    try:
        return load_file(path) if path.is_file() else None
    except Exception:  # whatever is wrong with it, it is recomputed
        with suppress(OSError):  # a cache that cannot be written
            path.unlink(missing_ok=True)
        return None


def cached(kind: str, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors stored under `kind`/`key`, computed and stored when they are not there yet.

    A cache that cannot be written, or a full disk, costs time and a line, never the run.
    """
    found = kept(kind, key)
    if found is not None:
        return found
    tensors = {k: v.detach().cpu().contiguous() for k, v in compute().items()}
    try:
        remove_parts(cache_folder() / kind)
        with atomic(cache_folder() / kind / f"{key}.safetensors", "vov_cache") as temporary:
            temporary.write_bytes(save(tensors))
    except (VovError, OSError) as error:
        log.warning("not cached: %s", error)
    return tensors
