"""A search that was stopped: what it had chosen, so that the same command goes on at that very step.

A search is a fixed row of samplings (pilots, then every item), each a fixed row of steps; both are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vov.noise.choose import Chooser
from vov.runtime.state import read_state, write_state


@dataclass(frozen=True, eq=False)
class SamplingState:
    """A sampling after `done` steps: its state x, and what its `Chooser` had chosen; finished: it was the last step."""

    done: int
    x: Tensor
    chosen: list[np.ndarray]
    energy: np.ndarray
    worth: np.ndarray
    finished: bool = False


class ResumableSearch:
    """Finished samplings and the state of the one at hand.

    Args:
        path: of the file that `save` writes and that is read here; None: nothing is kept on disk.
        identity: of the search; a file of another search is not read.
        device: where states are put.
    """

    def __init__(self, path: Path | None = None, identity: str = "", device: torch.device | str = "cpu"):
        self.path, self.identity, self.device = path, identity, device
        self.finished: list[SamplingState] = []
        self.current: SamplingState | None = None
        self.number = 0
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            arrays, about = read_state(path)
            if about["identity"] != self.identity:
                return
            states = [self._state({name.partition(".")[2]: value for name, value in arrays.items()
                                   if name.startswith(f"{number}.")}) for number in range(about["samplings"])]
            finished = about["finished"]
        except Exception:  # whatever is wrong with it, the search begins anew
            return
        self.finished, rest = states[:finished], states[finished:]
        self.current = rest[0] if rest else None

    def _state(self, arrays: dict[str, np.ndarray]) -> SamplingState:
        chosen = np.split(arrays["chosen"], np.cumsum(arrays["sizes"])[:-1])
        return SamplingState(int(arrays["done"]), torch.from_numpy(arrays["x"]).to(self.device), chosen,
                             arrays["energy"], arrays["worth"])

    def begin(self) -> SamplingState | None:
        """Where the next sampling goes on; None: it begins."""
        number, self.number = self.number, self.number + 1
        if number < len(self.finished):
            state = self.finished[number]
            return SamplingState(state.done, state.x, state.chosen, state.energy, state.worth, True)
        return self.current

    def note(self, done: int, chooser: Chooser, x: Tensor) -> None:
        """The state after `done` steps of the sampling at hand."""
        self.current = SamplingState(done, x.detach(), list(chooser.chosen), chooser.energy, chooser.worth)

    def end(self) -> None:
        """The sampling at hand is finished."""
        if self.number > len(self.finished) and self.current is not None:
            self.finished.append(self.current)
        self.current = None

    def save(self) -> None:
        """Writes all of it, whole or not at all."""
        if self.path is None:
            return
        states = [*self.finished, *([self.current] if self.current else [])]
        arrays = {f"{number}.{name}": value for number, state in enumerate(states) for name, value in {
            "done": np.array(state.done), "x": state.x.cpu().numpy(), "energy": state.energy, "worth": state.worth,
            "chosen": np.concatenate([*state.chosen, np.zeros(0, np.int32)]),
            "sizes": np.array([len(part) for part in state.chosen])}.items()}
        write_state(self.path, arrays, {"identity": self.identity, "samplings": len(states),
                                        "finished": len(self.finished)}, "output")

    def remove(self) -> None:
        """The search is over and its result is on disk."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
