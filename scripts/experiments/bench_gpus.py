"""How a random-noise fit scales over GPUs: one process of the group that `vov/runtime/launch.py` starts.

Every step has SAMPLES samples of fresh noise, whatever the number of processes, so times compare at equal work.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vov.config import cli, option


@dataclass(frozen=True)
class Bench:
    """What is measured."""

    model: str = option("wan2.1-1.3b", "shape of the model", choices=("wan2.1-1.3b", "wan2.1-14b",
                        "wan2.2-ti2v-5b", "tiny"))
    width: int = option(832, "pixels", minimum=16)
    height: int = option(480, "pixels", minimum=16)
    num_frames: int = option(81, "frames, 4n+1", minimum=1)
    samples: int = option(2, "samples of a step, shared by all processes", minimum=1)
    compile: str = option("auto", "as of a fit", choices=("auto", "blocks", "graph", "never"))
    warmup: int = option(2, "steps before the timed ones", minimum=1)
    repeats: int = option(5, "timed steps", minimum=1)
    out: str = option("", "also a JSON line here")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def main(settings: Bench) -> None:
    """The first process prints the median step, and whether all have the same θ."""
    import numpy as np
    import torch
    from video.options import VideoFit
    from vov.codec import Encoder, Source

    from scripts.experiments.shapes import random_wan
    from scripts.experiments.timing import Stopwatch
    from vov.fitting.distributed import world
    from vov.fitting.fit import Fit

    with world() as here, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)  # the same weights and captions everywhere
        backbone = random_wan(settings.model, settings.device)
        torch.manual_seed(1)
        shape = (settings.num_frames, settings.height, settings.width, 3)
        clip = Source(np.random.default_rng(0).integers(0, 256, shape, np.uint8), 24.0, "random")
        fit = VideoFit(config="", width=settings.width, height=settings.height, num_frames=settings.num_frames,
                       lambda_rate=0.003, preview_every=0, loss="latent", last_k=len(backbone.transformer.blocks),
                       batch_size=1, accum_step=-(-settings.samples // here.size), noise="random",
                       timesteps="uniform", compile=settings.compile)
        encoder = Encoder(backbone, [clip], fit, here)
        job = Fit(backbone, encoder.adapter, encoder.projection, encoder.targets, fit, Path(folder), world=here)
        seconds = []
        for step in range(settings.warmup + settings.repeats):
            here.barrier()
            start = time.perf_counter()
            job.advance(step)
            if backbone.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        here.agree("θ", job.theta)
        if here.first:
            watch = Stopwatch(settings.out, False, model=settings.model, shape=list(shape[:3]),
                              torch=torch.__version__)
            watch.say(f"{here.size} process(es), {job.passes.count} passes a step",
                      round(statistics.median(seconds[settings.warmup:]), 4), processes=here.size,
                      theta_sum=float(job.theta.detach().sum()))
        encoder.close()


if __name__ == "__main__":
    cli.run(Bench, main, "[NUM_GPUS=2] [VARIABLE=value …] bash scripts/bench_gpus.sh [--flag value …]")
