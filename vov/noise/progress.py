"""A search that was stopped: what it had found, so that the same command goes on at that very step.

A search is a fixed row of samplings (pilots, then every item), each a fixed row of steps; both are counted.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import Tensor

from vov.noise.choose import Chooser
from vov.runtime.files import atomic


class Progress:
    """Finished samplings and the state of the one at hand.

    Args:
        path: of the file that `save` writes and that is read here; None: nothing is kept.
        identity: of the search; a file of another search is not read.
        device: where states are put.
    """

    def __init__(self, path: Path | None = None, identity: str = "", device: torch.device | str = "cpu"):
        self.path, self.identity, self.device = path, identity, device
        self.done: list[dict[str, Tensor]] = []
        self.current: dict[str, Tensor] = {}
        self.number = 0
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})["vov"])
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if told["identity"] != self.identity:
                return
            parts = [{name.partition(".")[2]: value for name, value in held.items() if name.startswith(f"{n}.")}
                     for n in range(told["samplings"])]
        except Exception:  # whatever is wrong with it, the search begins anew
            return
        *self.done, self.current = parts

    def begin(self, chooser: Chooser, start: Tensor) -> tuple[int, Tensor, bool]:
        """(steps done, state, whether that is all) of the next sampling; gives `chooser` what it had found."""
        number, self.number = self.number, self.number + 1
        held = self.done[number] if number < len(self.done) else self.current
        if not held:
            return 0, start, False
        sizes = held["sizes"].tolist()
        chooser.found = [part.numpy() for part in held["found"].split(sizes)]
        chooser.energy, chooser.worth = held["energy"].numpy().copy(), held["worth"].numpy().copy()
        return int(held["step"]), held["x"].to(self.device), number < len(self.done)

    def note(self, step: int, chooser: Chooser, x: Tensor) -> None:
        """The state after `step` steps of the sampling at hand."""
        found = np.concatenate([*chooser.found, np.zeros(0, np.int32)])
        self.current = {"step": torch.tensor(step), "x": x.detach(), "found": torch.from_numpy(found),
                        "sizes": torch.tensor([len(part) for part in chooser.found]),
                        "energy": torch.from_numpy(chooser.energy), "worth": torch.from_numpy(chooser.worth)}

    def end(self) -> None:
        """The sampling at hand is finished."""
        if self.number > len(self.done):
            self.done.append(self.current)
        self.current = {}

    def save(self) -> None:
        """Writes all of it, whole or not at all."""
        if self.path is None:
            return
        parts = [*self.done, self.current]
        tensors = {f"{n}.{name}": value.detach().cpu().contiguous().clone() for n, part in enumerate(parts)
                   for name, value in part.items()}
        with atomic(self.path, "OUTPUT") as temporary:
            about = {"identity": self.identity, "samplings": len(parts)}
            temporary.write_bytes(safetensors.save(tensors, {"vov": json.dumps(about)}))

    def remove(self) -> None:
        """The search is over and its result is on disk."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
