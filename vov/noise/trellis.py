"""The best path through a trellis of atoms: the encoder's choice of all atoms of a step together.

An atom with M bits of its own is the largest of 2^M Gaussian scores, which is less than √(2·ln 2^M): with 17 bits the
square of what is gained is 0.83 of the bound that so many bits allow. In a trellis an atom costs a few bits, and still
has as many candidates, since the bits of the atoms before it name it too (`NoiseCode.labels`). Viterbi's algorithm
finds the path with the largest sum: 0.90 to 0.95 of the bound with labels of the same 17 bits (studies/trellis).
Trellis-coded quantisation is Marcellin and Fischer's (1990); that random trees come near the bound is Jelinek's (1969).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from vov.bitstream.noise_code import NoiseCode


class Path:
    """The best ways to every state of the trellis of one block and step.

    A state is the last bits + signed − branch bits of what was chosen; the first one is 0.
    """

    def __init__(self, code: NoiseCode, device: torch.device | str):
        self.branch, self.signed = code.branch, code.signed
        self.states = 1 << code.bits + code.signed - code.branch
        kind = torch.uint8 if code.branch <= 8 else torch.int32
        self.ways = torch.arange(1 << code.branch, dtype=kind, device=device)[:, None]
        self.best = torch.full((self.states,), -torch.inf, device=device)
        self.best[0] = 0
        self.came: list[Tensor] = []  # per atom and state: the bits that left the register, which tell where from

    def extend(self, score: Tensor) -> None:
        """One more atom, with the score of every candidate [2^bits]; a sign bit follows an index in a label."""
        score, best = score.view(self.states, -1), self.best[:, None]
        total = torch.empty(*score.shape, 1 + self.signed, device=score.device)
        torch.add(best, score, out=total[..., 0])
        if self.signed:
            torch.sub(best, score, out=total[..., 1])
        total = total.view(1 << self.branch, self.states)
        self.best = total.amax(0)
        self.came.append((self.ways * (total == self.best)).amax(0))  # several times faster than max with indices

    def symbols(self) -> np.ndarray:
        """The symbols of the best path: int32 [atoms]."""
        state, came = int(self.best.argmax()), torch.stack(self.came).cpu().numpy()
        found = np.empty(len(came), np.int32)
        for atom in range(len(came) - 1, -1, -1):
            label = int(came[atom, state]) * self.states + state
            found[atom] = label & (1 << self.branch) - 1
            state = label >> self.branch
        return found


def walk(code: NoiseCode, scored: Iterable[tuple[int, Tensor]]) -> np.ndarray:
    """Symbols int32 of (number of an atom within its block, its candidates' scores [2^bits]), block after block."""
    found: list[np.ndarray] = []
    path: Path | None = None
    for atom, score in scored:
        if not atom or path is None:
            found += [path.symbols()] if path else []
            path = Path(code, score.device)
        path.extend(score)
    return np.concatenate([*found, path.symbols()]) if path else np.zeros(0, np.int32)
