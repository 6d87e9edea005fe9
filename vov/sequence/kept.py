"""What a run has finished, on disk, for the run that goes on after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vov.runtime.files import atomic


def save(path: Path, key: str, **arrays: np.ndarray) -> None:
    """Arrays under a key that names all they depend on; whole or not at all."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), **arrays)


def load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays of `save`, if they were saved under this key."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except Exception:  # a file that was damaged is made again, whatever is wrong with it
        return None
    return arrays if str(arrays.get("key")) == key else None
