"""Speed and memory of fitting and decoding at the true model size, with random weights: no download needed.

A step's floor is what its arithmetic takes at the rates that matrix products and attention alone were seen to reach on
the same device; its share of the ceiling is floor / time. Floors are known for Wan's shapes.

In several processes (`NUM_GPUS=2 bash scripts/bench.sh fit`) one step is measured alone, first in one process, then in
all: it has SAMPLES samples of fresh noise, whatever the number of processes, so times compare at equal work.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.shapes import ModelBench
from scripts.bench.timing import say_kernels
from vov import VovError
from vov.config import cli, option

PASSES = {"none": (2, 1), "selective": (3, 1), "full": (3, 2)}  # of a fit step: linears, attention forwards
Bound = Callable[..., dict[str, float]]


@dataclass(frozen=True)
class Fit(ModelBench):
    """What is measured."""

    modes: str = option("full/never,selective/blocks", "CHECKPOINTING/COMPILE pairs to compare; none: none")
    batch_sizes: str = option("1", "samples of a step, each in turn")
    decode_steps: str = option("1", "sampler steps of whole decodes, file to frames; none: none")
    vae: bool = option(True, "the VAE alone, too")
    shared: bool = option(False, "only a step of SAMPLES samples that all processes share")
    samples: int = option(2, "samples of that step", minimum=1)
    warmup: int = option(2, "steps before those that are timed there", minimum=1)


def main(settings: Fit) -> None:
    """Prints one line per measurement."""
    from vov.fitting.distributed import world
    from vov.media.original import Original

    for mode in settings.listed("modes"):
        if "/" not in mode or mode.partition("/")[0] not in PASSES:
            raise VovError(f"MODES={settings.modes}: {mode} is no pair CHECKPOINTING/COMPILE; CHECKPOINTING is one of "
                           f"{', '.join(PASSES)}")
    with world() as here:
        if settings.shared or here.size > 1:
            share(settings, here)
            return
    backbone = settings.build()
    clip = Original(settings.frames(), 24.0, "random")
    watch = settings.stopwatch(backbone.device, model=settings.model, shape=list(clip.frames.shape[:3]),
                               attention=backbone.attention or "PyTorch's choice")
    bound = bounds(settings, backbone, watch)
    for mode in settings.listed("modes"):
        fitting(settings, mode, backbone, clip, watch, bound)
        backbone = None  # anew: checkpointing and compilation have changed its blocks
        gc.collect()
        backbone = settings.build()
    if settings.listed("decode_steps"):
        whole_decodes(settings, backbone, clip, watch)
    if settings.vae:
        autoencoder(settings, backbone, len(clip.frames), watch)


def bounds(settings: Fit, backbone, watch) -> Bound:
    """(linears, attention forwards, backwards, samples) → what a stopwatch is told of the floor; {} where not known."""
    from scripts.bench.timing import Ceilings, Work

    if backbone.tree == "image":
        return lambda linear, forward, backward=0, samples=1: {}
    latent = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
    shape, work = backbone.transformer.config, Work.of(backbone.transformer, latent)
    tokens = latent[2] * latent[3] * latent[4] // 4
    ceilings = Ceilings.measure(watch, shape.num_attention_heads, tokens, shape.attention_head_dim, backbone.device,
                                backbone.dtype)
    return lambda linear, forward, backward=0, samples=1: ceilings.bound(
        work, samples * linear, samples * forward, samples * backward)


def config(settings: Fit, backbone, **changes):
    """The configuration of a fit of this geometry with a rate term: all blocks, fresh noise, decoded in one step."""
    if backbone.tree == "image":
        from vov.commands.options import ImageFit as Kind
    else:
        from vov.commands.options import VideoFit as Kind
        changes |= {"num_frames": settings.num_frames}
    blocks = len(backbone.transformer.get_submodule(backbone.blocks))
    return Kind(config="", width=settings.width, height=settings.height, last_k=blocks, lambda_rate=0.003,
                preview_every=0, loss="latent", noise="random", timesteps="uniform", decode_steps=1, accum_step=1,
                **changes)


def fitting(settings: Fit, mode: str, backbone, clip, watch, bound: Bound) -> None:
    """Steps of a fit and of the sampler under one pair CHECKPOINTING/COMPILE."""
    from vov.decoding.sampling import Sampling
    from vov.fitting.encoder import Encoder
    from vov.fitting.fit import Fit as Job

    checkpointing, compile = mode.split("/")
    fit = config(settings, backbone, checkpointing=checkpointing, compile=compile)
    encoder = Encoder(backbone, [clip], fit)
    linear, forwards = PASSES[checkpointing]
    for size in map(int, settings.listed("batch_sizes")):
        with tempfile.TemporaryDirectory() as folder:
            job = Job(encoder.model, encoder.items, dataclasses.replace(fit, batch_size=size), Path(folder))
            steps = itertools.count()
            advance = lambda job=job, steps=steps: job.advance(next(steps))  # noqa: E731
            watch(f"{mode}: first step, batch {size} (compilation)", advance, 1)
            watch(f"{mode}: stage-2 step, batch {size}", advance, settings.repeats,
                  **bound(linear, forwards, 1, size))
            if settings.profile:
                say_kernels(f"{mode}: stage-2 step", advance)
    sampling = Sampling(backbone, encoder.header(fit))
    start = sampling.start(0)

    def sample() -> None:
        encoder.model.bind(job.theta.detach())
        sampling.latents(start, sampling.velocity(start, encoder.conditions[0]))

    watch(f"{mode}: first sampler step", sample, 1)
    watch(f"{mode}: sampler step", sample, settings.repeats, **bound(1, 1))
    if settings.profile:
        say_kernels(f"{mode}: sampler step", sample)
    encoder.close()


def whole_decodes(settings: Fit, backbone, clip, watch) -> None:
    """Files from disk to frames as the command decodes them: nothing is compiled; the model is loaded and warm."""
    import torch

    from vov.decoding.decode import decode
    from vov.fitting.encoder import Encoder
    from vov.fitting.fit import Fitted

    fit = config(settings, backbone)
    encoder = Encoder(backbone, [clip], fit)
    theta = torch.randn(fit.theta_length) / 50
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.vov" for count in settings.listed("decode_steps")}
        for count, path in paths.items():
            encoder.write(path, dataclasses.replace(fit, decode_steps=int(count)), Fitted(theta, 0.01, path))
        encoder.close()
        for count, path in paths.items():
            decode(path, backbone)  # captions into the cache, kernels onto the GPU
            watch(f"{count}-step decode, file to frames", lambda path=path: decode(path, backbone),
                  2 if int(count) < 10 else 1)


def autoencoder(settings: Fit, backbone, count: int, watch) -> None:
    """The VAE alone, as the commands use it."""
    import torch

    latent = backbone.latent_shape(settings.width, settings.height, count)
    # zeros could be faster than frames
    pixels = torch.rand(1, 3, count, settings.height, settings.width, device=backbone.device) * 2 - 1
    with torch.no_grad():
        watch("VAE encode, float32", lambda: backbone.encode_pixels(pixels), 2)
    watch("VAE decode, float32", lambda: backbone.decode(torch.randn(latent, device=backbone.device)), 2)


def share(settings: Fit, here) -> None:
    """A step of SAMPLES samples in all processes; the first one prints its median, and all must have the same θ."""
    import torch

    from vov.fitting.encoder import Encoder
    from vov.fitting.fit import Fit as Job
    from vov.fitting.fit import FitContext
    from vov.media.original import Original

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)  # the same weights everywhere
        backbone = settings.build()
        clip = Original(settings.frames(), 24.0, "random")
        fit = config(settings, backbone)
        fit = dataclasses.replace(fit, batch_size=1, accum_step=-(-settings.samples // here.size))
        encoder = Encoder(backbone, [clip], fit, here)
        job = Job(encoder.model, encoder.items, fit, Path(folder), FitContext(world=here))
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
            watch = settings.stopwatch(backbone.device, model=settings.model, shape=list(clip.frames.shape[:3]))
            watch.say(f"{here.size} process(es), {job.passes.count} passes a step",
                      round(statistics.median(seconds[settings.warmup:]), 4), processes=here.size,
                      theta_sum=float(job.theta.detach().sum()))
        encoder.close()


if __name__ == "__main__":
    cli.run(Fit, main, "[NUM_GPUS=2] [VARIABLE=value …] bash scripts/bench.sh fit [--flag value …]")
