"""How near the bound atoms come, alone and on a trellis, with Gaussian scores: the table of the study."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from vov.bitstream.noise_code import TRELLIS, NoiseCode
from vov.config import cli, option
from vov.noise.trellis import walk

INDEX_BITS = 16  # a label has a sign bit more


@dataclass(frozen=True)
class Bound:
    """How exactly."""

    repeats: int = option(20, "draws that each figure is the mean of", minimum=1)


def share(bits: int, branch: int, random: torch.Generator) -> float:
    """(what `bits` bits reach)² as a share of 2·ln 2·bits; branch 0: atoms of whole labels."""
    count = bits // (branch or INDEX_BITS + 1)
    scores = (torch.randn(1 << INDEX_BITS, generator=random) for _ in range(count))
    if not branch:
        total = sum(float(score.abs().max()) for score in scores)
        return (total**2 / count) / (2 * math.log(2) * count * (INDEX_BITS + 1))
    kept = list(scores)
    code = NoiseCode(TRELLIS, INDEX_BITS, 1, 0, 64, 0, 1, 0, 0, 0, np.array([[count]]), branch=branch)
    labels = code.labels(walk(code, enumerate(kept)), np.arange(count))
    total = sum(float(score[label >> 1]) * (1 - 2 * (label & 1)) for score, label in zip(kept, labels, strict=True))
    return (total**2 / count) / (2 * math.log(2) * count * branch)


def main(settings: Bound) -> None:
    """Prints a line for each number of bits of a step."""
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(0)
    for spent in (85, 170, 340, 1020):
        found = [np.mean([share(spent, branch, generator) for _ in range(settings.repeats)]) for branch in (0, 2, 4, 8)]
        print(spent, *(f"{value:.3f}" for value in found))


if __name__ == "__main__":
    cli.run(Bound, main, "[REPEATS=20] python -m studies.trellis.run")
