"""What our OpenMP waiting costs: forward and backward passes of nano-video with and without it, in turn.

Each round starts one process for each policy, so that what else the machine does meets both alike. The passes are
short (a small clip) and many: the fastest are those that nothing disturbed, even where the machine is seldom idle.
Three rounds take a minute and a half.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from vov.config import cli, option

POLICIES = {"default": {}, "ours": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}}  # scripts/common.sh
WARM, SECONDS = 5, 8.0


@dataclass(frozen=True)
class Waiting:
    """How often."""

    rounds: int = option(3, "rounds of one process for each policy", minimum=1)
    steps: bool = option(False, "the process of one policy: only print the seconds of its passes")


def steps() -> list[float]:
    """Seconds of forward and backward passes through nano-video's transformer, 9 frames of 96×64."""
    import torch

    from vov.model.wan import WanBackbone

    backbone = WanBackbone.load("nano-video", "", "cpu")
    x = torch.randn(backbone.latent_shape(96, 64, 9)).requires_grad_()
    text = {"text": torch.randn(1, 512, backbone.transformer.config.text_dim)}
    seconds = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds) < 2 * WARM:
        begun = time.perf_counter()
        backbone.velocity(x, 0.5, text).square().mean().backward()
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM:]


def fastest(seconds: list[float]) -> float:
    """Mean of the fastest hundredth."""
    return statistics.mean(sorted(seconds)[:max(1, len(seconds) // 100)])


def main(settings: Waiting) -> None:
    """Prints the median of each round, then the ratios."""
    if settings.steps:
        print(*steps())
        return
    found: dict[str, list[float]] = {name: [] for name in POLICIES}
    for number in range(settings.rounds):
        for name in [*POLICIES][:: 1 if number % 2 == 0 else -1]:
            environ = {key: value for key, value in os.environ.items() if key not in POLICIES["ours"]} | POLICIES[name]
            command = [sys.executable, "-m", "scripts.experiments.bench_waiting", "--steps", "1"]
            done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
            seconds = [float(word) for word in done.stdout.split()]
            found[name] += seconds
            print(f"round {number}  {name:<8} {len(seconds)} passes, median {statistics.median(seconds):.4f} s, "
                  f"fastest hundredth {fastest(seconds):.4f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    medians, best = (of(found["ours"]) / of(found["default"]) for of in (statistics.median, fastest))
    print(f"ours / default: medians {medians:.3f}, fastest hundredths {best:.3f}")


if __name__ == "__main__":
    cli.run(Waiting, main, "[ROUNDS=3] python -m scripts.experiments.bench_waiting")
