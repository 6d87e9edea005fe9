"""What passive OpenMP waiting costs: one fit step of nano-video with and without it, in turn.

    python -m scripts.experiments.bench_waiting [rounds]

Each round starts one process for each policy, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

POLICIES = {"default": None, "passive": "PASSIVE"}
WARM, STEPS = 3, 20


def steps() -> list[float]:
    """Seconds of forward and backward passes through nano-video's transformer at its own size."""
    import torch

    from video.backbone import WanBackbone

    backbone = WanBackbone.load("nano-video", "", "cpu")
    x = torch.randn(backbone.latent_shape(192, 112, 17)).requires_grad_()
    text = {"text": torch.randn(1, 512, backbone.transformer.config.text_dim)}
    seconds = []
    for _ in range(WARM + STEPS):
        begun = time.perf_counter()
        backbone.velocity(x, 0.5, text).square().mean().backward()
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM:]


def main(rounds: int) -> None:
    """Prints the median of each round, then the ratios."""
    found: dict[str, list[float]] = {name: [] for name in POLICIES}
    for number in range(rounds):
        for name in [*POLICIES][:: 1 if number % 2 == 0 else -1]:
            environ = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
            if POLICIES[name]:
                environ["OMP_WAIT_POLICY"] = POLICIES[name]
            done = subprocess.run([sys.executable, "-m", "scripts.experiments.bench_waiting", "steps"], env=environ,
                                  capture_output=True, text=True, check=True)
            seconds = [float(word) for word in done.stdout.split()]
            found[name] += seconds
            print(f"round {number}  {name:<8} median {statistics.median(seconds):.4f} s, least {min(seconds):.4f} s, "
                  f"load {os.getloadavg()[0]:.1f}", flush=True)
    median, least = ({name: of(seconds) for name, seconds in found.items()} for of in (statistics.median, min))
    print(f"passive / default: medians {median['passive'] / median['default']:.3f}, "
          f"least {least['passive'] / least['default']:.3f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["steps"]:
        print(*steps())
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 5)
