"""Speed and memory of the image tree at Qwen-Image's true size (20B), with random weights: no download needed.

plain: bfloat16, attention outputs kept, blocks compiled. fp8: weights at half the size. saving: fp8 and blocks
streamed from the host, everything recomputed, with the GPU limited to LIMIT_GIB.
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vov.config import cli, option

MODES = {  # quantize, offload
    "plain": ("none", "none"), "fp8": ("fp8", "none"), "streamed": ("none", "blocks"), "saving": ("fp8", "blocks"),
}
TOKENS, TEXT_DIM = 64, 3584  # of a caption of two sentences, and of Qwen2.5-VL


@dataclass(frozen=True)
class Bench:
    """What is measured."""

    modes: str = option("plain,saving", f"comma-separated: {', '.join(MODES)}")
    tiny: bool = option(False, "two small layers instead of sixty large ones: does it run?")
    width: int = option(512, "pixels", minimum=16)
    height: int = option(512, "pixels", minimum=16)
    batch_sizes: str = option("1,16", "samples of one step")
    steps: str = option("1,4,50", "sampler steps of a whole decode")
    scores: str = option("likelihood,blend", "scores of coded noise, for a picture of 2,000 bytes; none: none")
    noise_steps: int = option(40, "sampler steps of that picture", minimum=3)
    repeats: int = option(4, "timed steps, after one that compiles", minimum=1)
    limit_gib: float = option(24.0, "GPU memory that the saving mode may use; 0: all", minimum=0)
    out: str = option("", "also one JSON line per measurement here")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def build(settings: Bench, quantize: str, offload: str):
    """A backbone of random weights; its captions are noise, so no text encoder is needed."""
    import torch
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    from vov.model.lookup import pick_device, pick_dtype
    from vov.model.memory import settle
    from vov.model.qwen import QwenBackbone

    class Random(QwenBackbone):
        def embed(self, captions):
            size = 16 if settings.tiny else TEXT_DIM
            return [{"text": torch.randn(1, TOKENS, size, device=self.device, dtype=self.dtype)} for _ in captions]

    small = {"in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 16,
             "num_attention_heads": 3, "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)}
    place = pick_device(settings.device)
    dtype = pick_dtype("auto", place)
    torch.set_default_device(place)
    torch.set_default_dtype(dtype)
    transformer = QwenImageTransformer2DModel(**(small if settings.tiny else {}))
    torch.set_default_dtype(torch.float32)
    vae = AutoencoderKLQwenImage(**({"base_dim": 8, "num_res_blocks": 1} if settings.tiny else {}))
    torch.set_default_device("cpu")
    transformer = settle(transformer.requires_grad_(False), QwenBackbone.blocks, place, dtype, quantize, offload)
    return Random(Path("random"), "random", transformer, vae, place, dtype, quantize)


def measure_mode(mode: str, settings: Bench, watch) -> None:
    """All measurements of one mode."""
    import numpy as np
    import torch
    from image.options import ImageFit
    from vov.codec import Decoder, Encoder, Source, make_header

    from vov.fitting.fit import Fit

    def measure(what: str, work, repeats: int = settings.repeats) -> None:
        watch(f"{mode}: {what}", work, repeats)

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)  # building needs more than the saving mode may use
    start = time.perf_counter()
    backbone = build(settings, *MODES[mode])
    cuda, parameters = backbone.device.type == "cuda", sum(p.numel() for p in backbone.transformer.parameters())
    watch.say(f"{mode}: built, {parameters / 1e9:.2f}B parameters", round(time.perf_counter() - start, 1))
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        limit = settings.limit_gib * 2**30 / torch.cuda.get_device_properties(0).total_memory if mode == "saving" else 0
        torch.cuda.set_per_process_memory_fraction(min(limit, 1.0) or 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (1, settings.height, settings.width, 3), np.uint8)
    picture, blocks = Source(pixels, 0.0, "noise"), backbone.transformer.transformer_blocks
    fit = ImageFit(config="", width=settings.width, height=settings.height, last_k=len(blocks), noise="random",
                   timesteps="uniform", loss="latent", accum_step=1)
    for score in settings.scores.split(","):
        if score != "none":  # before anything is compiled: the decoder compiles nothing
            coded_noise(score, settings.noise_steps, backbone, picture, fit, watch, mode)
    encoder = Encoder(backbone, [picture], fit)
    for batch in map(int, settings.batch_sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            job = Fit(backbone, encoder.adapter, encoder.projection, encoder.targets,
                      dataclasses.replace(fit, batch_size=batch), Path(folder))
            steps = iter(range(10**6))
            measure(f"first training step, batch {batch}", lambda job=job, s=steps: job.advance(next(s)), 1)
            measure(f"training step, batch {batch}", lambda job=job, s=steps: job.advance(next(s)))
    for steps in map(int, settings.steps.split(",")):
        header = make_header(backbone, encoder.projection, dataclasses.replace(fit, decode_steps=steps), [picture])
        decoder = Decoder(backbone, header, encoder.adapter, encoder.projection)
        inputs = job.theta.detach(), encoder.conditions[0]
        if steps == 1:
            measure("first sampler step", lambda d=decoder, i=inputs: d.latents(*i), 1)
            measure("sampler step", lambda d=decoder, i=inputs: d.latents(*i))
        measure(f"decode in {steps} steps, VAE included", lambda d=decoder, i=inputs: d.frames(*i),
                2 if steps < 10 else 1)
    measure("VAE encode, float32", lambda: backbone.encode_pixels(torch.rand(
        1, 3, 1, settings.height, settings.width, device=backbone.device) * 2 - 1), 2)
    encoder.close()


def coded_noise(score: str, steps: int, backbone, picture, fit, watch, mode: str) -> None:
    """A picture coded as noise, as image/encode.sh does it: the search alone, and the sampler that replays it.

    A search takes several passes, of untrained weights perhaps more than of real ones: a step is said apart.
    """
    from vov.codec import Decoder
    from vov.noise.bare import bare

    from vov.fitting.rate import from_symbols
    from vov.noise.options import ScalingConfig
    from vov.noise.search import scale

    settings, found, taken = ScalingConfig(scaling_bytes=2000, steps=steps, score=score), [], []
    stream = bare(backbone, [picture], fit)
    name = f"{mode}: noise by {score}, picture of 2,000 bytes in {steps} steps"
    seconds = watch(f"{name}, encode", lambda: found.append(scale(
        stream, backbone, [picture], settings, lambda step, x: taken.append(step))[0]), 1)
    watch.say(f"{name}, one of the {len(taken)} steps of all passes", round(seconds / len(taken), 4))
    with Decoder.for_file(backbone, found[-1].header) as decoder:
        decoder.read_noise(found[-1].noise, 1, "the file")
        theta, condition = from_symbols(stream.symbols, stream.header.step), backbone.embed([""])[0]
        watch(f"{name}, decode", lambda: decoder.frames(theta, condition), 1)


def main(settings: Bench) -> None:
    """Prints one line per measurement."""
    import torch

    from scripts.experiments.timing import Stopwatch

    cuda = torch.cuda.is_available() and settings.device != "cpu"
    facts = {"model": f"Qwen-Image{' (tiny)' * settings.tiny}", "shape": [1, settings.height, settings.width],
             "torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "CPU"}
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    watch = Stopwatch(settings.out, cuda, **facts)
    for mode in settings.modes.split(","):
        measure_mode(mode, settings, watch)
        gc.collect()


if __name__ == "__main__":
    cli.run(Bench, main, "[VARIABLE=value …] python -m scripts.experiments.bench_qwen [--flag value …]")
