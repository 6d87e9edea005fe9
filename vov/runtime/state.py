"""State of a stopped run on disk: arrays and notes under an identity. Fits, searches and sequences keep theirs here.

A file is a safetensors file; what is said about it is JSON in its metadata under the key "vov". It appears whole or
not at all, and nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vov.runtime.files import atomic

KEY = "vov"


def write_state(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any],
                variable: str = "out_dir") -> None:
    """Writes arrays and JSON values; variable: the setting that a user would change to write elsewhere."""
    from safetensors.numpy import save

    data = save({name: np.asarray(value, order="C") for name, value in arrays.items()}, {KEY: json.dumps(dict(about))})
    with atomic(path, variable) as temporary:  # safetensors' own save_file leaves a .tmp file when it is killed
        temporary.write_bytes(data)


def read_state(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, notes) of `write_state`. Raises whatever is wrong with a damaged file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        about = json.loads((file.metadata() or {}).get(KEY, "{}"))
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not isinstance(about, dict):
        raise ValueError("its notes are no table")
    return arrays, about


class StateStore:
    """States of one run in a folder, each under a name and an identity that names all it depends on."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def save(self, name: str, identity: str, **arrays: np.ndarray) -> None:
        """Keeps arrays until `load` asks for them."""
        write_state(self._path(name), arrays, {"identity": identity})

    def load(self, name: str, identity: str) -> dict[str, np.ndarray] | None:
        """The arrays, if they were saved under this identity; a damaged file counts as none."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            arrays, about = read_state(path)
        except Exception:  # whatever is wrong with it: the work is done again
            return None
        return arrays if about.get("identity") == identity else None
