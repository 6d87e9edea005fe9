"""How long choosing noise takes a step, and how much memory.

The latent is Wan's at 81 frames of 832×480 (16×21×60×104 values).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from vov.bitstream.noise_code import INDEPENDENT, SHIFTS, NoiseCode, block_count
from vov.config import cli, option
from vov.decoding.replay import Candidates, entries
from vov.noise.choose import plain_scores, scores


@dataclass(frozen=True)
class Scaling:
    """At which size."""

    tiny: bool = option(False, "a small latent, for a CPU")


def seconds(work, device: str, repeats: int) -> tuple[float, float]:
    """(median seconds, extra peak GiB) of `work`, after one warm-up."""
    work()
    times, peak = [], 0.0
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
            peak = max(peak, (torch.cuda.max_memory_allocated() - before) / 2**30)
        times.append(time.perf_counter() - start)
    return float(np.median(times)), peak


def main(settings: Scaling) -> None:
    """Prints a line for each kind of candidates."""
    tiny, device = settings.tiny, "cuda" if torch.cuda.is_available() else "cpu"
    shape = (16, 3, 8, 12) if tiny else (16, 21, 60, 104)
    size = int(np.prod(shape))
    print(f"latent {'×'.join(map(str, shape))}, {device}, torch {torch.__version__}")
    print(f"{'scheme':<44}{'s / step':>10}{'replay s':>10}{'extra GiB':>11}")
    rows = [("1 of 1024, whole latent (the paper's)", INDEPENDENT, 10, 0, 1),
            ("1 of 1024 in each block of 4096", INDEPENDENT, 10, 4096, 1),
            ("1 of 1024 in each block of 256", INDEPENDENT, 10, 256, 1),
            ("1 of all shifts, whole latent", SHIFTS, size.bit_length() - 1, 0, 1),
            ("16 of all shifts, whole latent", SHIFTS, size.bit_length() - 1, 0, 16)]
    for name, kind, bits, block, atoms in rows:
        plan = np.full((1, block_count(size, block)), atoms)
        code = NoiseCode(kind, bits, 1, block, 64, 0, 1, 0, 0, 0, plan)
        made = Candidates(code, 1, size, 0, device)
        wanted = torch.randn(made.blocks, made.block, device=device)

        def choose(made=made, code=code, wanted=wanted) -> np.ndarray:
            return torch.cat([scores(made, 0, which, where, wanted[where]).abs().argmax(1)
                              for where, which in made.batches(*entries(code.plan[0]))]).cpu().numpy()

        symbols = choose().astype(np.int32) * 2
        took, peak = seconds(choose, device, 2 if tiny else 5)
        replay, _ = seconds(lambda made=made, code=code, symbols=symbols: made.assemble(0, code.plan[0], symbols),
                            device, 2 if tiny else 5)
        print(f"{name:<44}{took:>10.4f}{replay:>10.4f}{peak:>11.3f}", flush=True)
        if kind == INDEPENDENT and (block == 0 or tiny):
            blocks = torch.arange(made.blocks, device=device)[:2]
            plain = plain_scores(made, 0, 0 * blocks, blocks, wanted[:2])
            error = float((scores(made, 0, 0 * blocks, blocks, wanted[:2]) - plain).abs().max() / plain.std())
            print(f"{'  largest difference from plain torch':<44}{error:>10.1e} standard deviations")


if __name__ == "__main__":
    cli.run(Scaling, main, "[TINY=1] python -m scripts.experiments.bench_scaling")
