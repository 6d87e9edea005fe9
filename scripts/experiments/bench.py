"""Speed and memory of fitting and decoding at the true model size, with random weights: no download needed."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vov import cli
from vov.config import option


@dataclass(frozen=True)
class Bench:
    """What is measured."""

    model: str = option("wan2.1-1.3b", "shape of the model", choices=("wan2.1-1.3b", "wan2.1-14b", "tiny"))
    modes: str = option("full/never,selective/blocks", "CHECKPOINTING/COMPILE pairs to compare")
    width: int = option(832, "pixels", minimum=16)
    height: int = option(480, "pixels", minimum=16)
    num_frames: int = option(81, "frames, 4n+1", minimum=1)
    repeats: int = option(5, "timed steps of each kind", minimum=1)
    batch_size: int = option(1, "samples of a step", minimum=1)
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def main(settings: Bench) -> None:
    """Prints one line per measurement."""
    import numpy as np
    import torch

    from scripts.experiments.shapes import random_wan
    from video.options import VideoFit
    from vov.codec import Decoder, Encoder, Source, make_header
    from vov.fitting.fit import Fit

    cuda = torch.cuda.is_available() and settings.device != "cpu"
    print(f"{settings.model}, {settings.num_frames}×{settings.height}×{settings.width}, torch {torch.__version__}, "
          f"{torch.cuda.get_device_name() if cuda else 'CPU'}")

    def measure(name: str, work, repeats: int = settings.repeats) -> None:
        seconds = []
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:7.1f} GiB" if cuda else ""
        print(f"{name:<44}{statistics.median(seconds):9.3f} s {peak}", flush=True)

    shape = (settings.num_frames, settings.height, settings.width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    clip = Source(frames, 24.0, "random")
    for mode in settings.modes.split(","):
        checkpointing, compile = mode.split("/")
        backbone = random_wan(settings.model, settings.device)  # anew: checkpointing and compilation change the blocks
        fit = VideoFit(config="", width=settings.width, height=settings.height, num_frames=settings.num_frames,
                       checkpointing=checkpointing, compile=compile, lambda_rate=0.003, preview_every=0, loss="latent",
                       last_k=len(backbone.transformer.blocks), batch_size=settings.batch_size, noise="random",
                       timesteps="uniform", decode_steps=1)
        encoder = Encoder(backbone, [clip], fit)
        with tempfile.TemporaryDirectory() as folder:
            job = Fit(backbone, encoder.adapter, encoder.projection, encoder.items, fit, Path(folder))
            step = iter(range(10**6))
            measure(f"{mode}: first step (compilation)", lambda job=job, step=step: job._advance(next(step)), 1)
            measure(f"{mode}: stage-2 step, batch {settings.batch_size}",
                    lambda job=job, step=step: job._advance(next(step)))
        decoder = Decoder(backbone, make_header(backbone, encoder.projection, fit, [clip]), encoder.adapter,
                          encoder.projection)
        inputs = job.theta.detach(), encoder.conditions[0]
        measure(f"{mode}: first sampler step", lambda d=decoder, inputs=inputs: d.latents(*inputs), 1)
        measure(f"{mode}: sampler step", lambda d=decoder, inputs=inputs: d.latents(*inputs))
        encoder.close()
    pixels = torch.zeros(1, 3, *frames.shape[:3], device=backbone.device)
    latents = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
    with torch.no_grad():
        measure("VAE encode, float32", lambda: backbone.encode_pixels(pixels), 2)
    measure("VAE decode, float32", lambda: backbone.decode(torch.zeros(latents, device=backbone.device)), 2)


if __name__ == "__main__":
    cli.run(Bench, main, "[VARIABLE=value …] bash scripts/bench.sh [--flag value …]")
