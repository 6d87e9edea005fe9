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

    model: str = option("wan2.1-1.3b", "shape of the model", choices=("wan2.1-1.3b", "wan2.1-14b",
                        "wan2.2-ti2v-5b", "tiny"))
    modes: str = option("full/never,selective/blocks", "CHECKPOINTING/COMPILE pairs to compare; none: none")
    width: int = option(832, "pixels", minimum=16)
    height: int = option(480, "pixels", minimum=16)
    num_frames: int = option(81, "frames, 4n+1", minimum=1)
    scores: str = option("likelihood,lookahead", "scores of coded noise to measure; none: none")
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
    for mode in settings.modes.split(",") if settings.modes != "none" else ():
        checkpointing, compile = mode.split("/")
        backbone = random_wan(settings.model, settings.device)  # anew: checkpointing and compilation change the blocks
        fit = VideoFit(config="", width=settings.width, height=settings.height, num_frames=settings.num_frames,
                       checkpointing=checkpointing, compile=compile, lambda_rate=0.003, preview_every=0, loss="latent",
                       last_k=len(backbone.transformer.blocks), batch_size=settings.batch_size, noise="random",
                       timesteps="uniform", decode_steps=1)
        encoder = Encoder(backbone, [clip], fit)
        with tempfile.TemporaryDirectory() as folder:
            job = Fit(backbone, encoder.adapter, encoder.projection, encoder.targets, fit, Path(folder))
            step = iter(range(10**6))
            measure(f"{mode}: first step (compilation)", lambda job=job, step=step: job.advance(next(step)), 1)
            measure(f"{mode}: stage-2 step, batch {settings.batch_size}",
                    lambda job=job, step=step: job.advance(next(step)))
        decoder = Decoder(backbone, make_header(backbone, encoder.projection, fit, [clip]), encoder.adapter,
                          encoder.projection)
        inputs = job.theta.detach(), encoder.conditions[0]
        measure(f"{mode}: first sampler step", lambda d=decoder, inputs=inputs: d.latents(*inputs), 1)
        measure(f"{mode}: sampler step", lambda d=decoder, inputs=inputs: d.latents(*inputs))
        encoder.close()
    if settings.modes == "none":
        backbone = random_wan(settings.model, settings.device)
    noise_steps(settings, backbone, frames, measure)
    pixels = torch.zeros(1, 3, *frames.shape[:3], device=backbone.device)
    latents = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
    with torch.no_grad():
        measure("VAE encode, float32", lambda: backbone.encode_pixels(pixels), 2)
    measure("VAE decode, float32", lambda: backbone.decode(torch.zeros(latents, device=backbone.device)), 2)


class Still:
    """Frames in memory as a `FrameSource` gives them."""

    def __init__(self, frames):
        self.frames, self.fps, self.info = frames, 24.0, None

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, first: int, count: int):
        """`count` frames from number `first` on."""
        return iter(self.frames[first:first + count])


def noise_steps(settings: Bench, backbone, frames, measure) -> None:
    """A sampler step that codes noise, by score; alone, and after a known frame where the model takes one."""
    import numpy as np

    from vov.bitstream.sequence_code import noise_code
    from vov.sequence.encode import SequenceEncoder
    from vov.sequence.ledger import scale_for
    from vov.sequence.plan import Span, spans
    from vov.sequence.settings import SequenceConfig

    steps = 4
    for score in settings.scores.split(",") if settings.scores != "none" else ():
        config = SequenceConfig(width=settings.width, height=settings.height, num_frames=settings.num_frames,
                                steps=steps, bytes_per_frame=15.0, score=score, device=settings.device)
        with tempfile.TemporaryDirectory() as folder:
            encoder = SequenceEncoder(backbone, Still(frames), spans([0], len(frames), len(frames)), [""], config,
                                      Path(folder))
        profile = np.full(encoder.noise["steps"], 255, np.int32)
        for chained in (False, True) if backbone.clean_first_frame else (False,):
            code = noise_code(encoder.noise, encoder.bits[chained], profile,
                              scale_for(profile, encoder.bits[chained], 15 * len(frames)))
            span, known = Span(0, len(frames), chained, 0), frames[0] if chained else None
            work = lambda e=encoder, c=code, s=span, k=known: e.search(0, c, frames, k, s, None)  # noqa: E731
            name = f"noise, {score}{', after a known frame' if chained else ''}"
            measure(f"{name}: {steps} steps with {int(code.plan.sum())} atoms, VAE encode", work, 2)


if __name__ == "__main__":
    cli.run(Bench, main, "[VARIABLE=value …] bash scripts/bench.sh [--flag value …]")
