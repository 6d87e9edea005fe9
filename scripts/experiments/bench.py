"""Speed and memory of fitting, coding and decoding at the true model size, with random weights: no download needed.

A step's floor is what its arithmetic takes at the rates that matrix products and attention alone were seen to reach on
the same device; its share of the ceiling is floor / time.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from scripts.experiments.kernels import kernel_seconds
from vov.config import cli, option

PASSES = {"none": (2, 1), "selective": (3, 1), "full": (3, 2)}  # of a fit step: linears, attention forwards


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
    lookahead_every: int = option(1, "as in video/encode.sh, for those scores and that clip", minimum=1)
    clip_bytes: int = option(0, "size of a noise-coded clip whose whole encode and decode are timed, 40 steps; 0: none",
                             minimum=0)
    decode_steps: str = option("1", "sampler steps of whole decodes, file to mp4; none: none")
    vae: bool = option(True, "the VAE alone, too")
    attention: str = option("auto", "as in the commands", choices=("auto", "cudnn", "flash"))
    profile: bool = option(False, "also where the time of a step goes, by kind of kernel")
    repeats: int = option(5, "timed steps of each kind", minimum=1)
    batch_size: int = option(1, "samples of a step", minimum=1)
    out: str = option("", "also one JSON line per measurement here")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))

    def list(self, name: str) -> list[str]:
        """A comma-separated setting."""
        return [] if getattr(self, name) == "none" else getattr(self, name).split(",")

    def kernels(self, name: str, work) -> None:
        """Where a step's time goes, when PROFILE asks for it."""
        if self.profile:
            kinds, longest = kernel_seconds(work)
            print(f"{name}: " + ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in kinds.items()))
            for kernel, seconds, calls in longest:
                print(f"    {seconds:7.3f} s  {calls:5} times  {kernel[:110]}", flush=True)


def main(settings: Bench) -> None:
    """Prints one line per measurement."""
    import numpy as np
    import torch
    from vov.codec import Source

    from scripts.experiments.shapes import random_wan
    from scripts.experiments.timing import Ceilings, Stopwatch, Work

    def make():
        made = random_wan(settings.model, settings.device)
        made.choose_attention(settings.attention)
        return made

    backbone = make()
    cuda = backbone.device.type == "cuda"
    facts = {"model": settings.model, "shape": [settings.num_frames, settings.height, settings.width],
             "torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "CPU",
             "attention": backbone.attention or "PyTorch's choice"}
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    watch = Stopwatch(settings.out, cuda, **facts)
    latent = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
    shape, work = backbone.transformer.config, Work.of(backbone.transformer, latent)
    tokens = latent[2] * latent[3] * latent[4] // 4
    ceilings = Ceilings.measure(watch, shape.num_attention_heads, tokens, shape.attention_head_dim, backbone.device,
                                backbone.dtype)
    frames = np.random.default_rng(0).integers(
        0, 256, (settings.num_frames, settings.height, settings.width, 3), np.uint8)
    clip = Source(frames, 24.0, "random")
    for mode in settings.list("modes"):
        fitting(settings, mode, backbone, clip, watch, work, ceilings)
        backbone = None  # anew: checkpointing and compilation have changed its blocks
        gc.collect()
        backbone = make()
    noise_steps(settings, backbone, frames, watch)
    if settings.clip_bytes:
        whole_noise(settings, backbone, frames, watch)
    if settings.list("decode_steps"):
        whole_decodes(settings, backbone, clip, watch)
    if settings.vae:
        pixels = torch.rand(1, 3, *frames.shape[:3], device=backbone.device) * 2 - 1  # zeros can run faster
        with torch.no_grad():
            watch("VAE encode, float32", lambda: backbone.encode_pixels(pixels), 2)
        watch("VAE decode, float32", lambda: backbone.decode(torch.randn(latent, device=backbone.device)), 2)


def fitting(settings: Bench, mode: str, backbone, clip, watch, work, ceilings) -> None:
    """Steps of a fit and of the sampler under one pair CHECKPOINTING/COMPILE."""
    from video.options import VideoFit
    from vov.codec import Decoder, Encoder, make_header

    from vov.fitting.fit import Fit

    checkpointing, compile = mode.split("/")
    fit = VideoFit(config="", width=settings.width, height=settings.height, num_frames=settings.num_frames,
                   checkpointing=checkpointing, compile=compile, lambda_rate=0.003, preview_every=0, loss="latent",
                   last_k=len(backbone.transformer.blocks), batch_size=settings.batch_size, noise="random",
                   timesteps="uniform", decode_steps=1)
    encoder = Encoder(backbone, [clip], fit)
    linear, forwards = PASSES[checkpointing]
    size = settings.batch_size
    with tempfile.TemporaryDirectory() as folder:
        job = Fit(backbone, encoder.adapter, encoder.projection, encoder.targets, fit, Path(folder))
        steps = itertools.count()
        watch(f"{mode}: first step (compilation)", lambda: job.advance(next(steps)), 1)
        watch(f"{mode}: stage-2 step, batch {size}", lambda: job.advance(next(steps)), settings.repeats,
              floor=size * ceilings.floor(work, linear, forwards, 1),
              tera=size * (linear * work.linear + (forwards + 2.5) * work.attention) / 1e12)
        settings.kernels(f"{mode}: stage-2 step", lambda: job.advance(next(steps)))
    theta, condition = job.theta.detach(), encoder.conditions[0]
    decoder = Decoder(backbone, make_header(backbone, encoder.projection, fit, [clip]), encoder.adapter,
                      encoder.projection)
    watch(f"{mode}: first sampler step", lambda: decoder.latents(theta, condition), 1)
    watch(f"{mode}: sampler step", lambda: decoder.latents(theta, condition), settings.repeats,
          floor=ceilings.floor(work, 1, 1, 0), tera=(work.linear + work.attention) / 1e12)
    settings.kernels(f"{mode}: sampler step", lambda: decoder.latents(theta, condition))
    encoder.close()


def whole_decodes(settings: Bench, backbone, clip, watch) -> None:
    """Files from disk to mp4 as the command decodes them: nothing is compiled; the model is loaded and warm.

    A random model makes noise, which no video is like and x264 takes a quarter of a minute for. So what is written is
    as many frames of a moving picture instead.
    """
    import torch
    from video.options import VideoFit
    from vov.codec import Encoder, decode_file

    from vov.fitting.fit import Fitted
    from vov.media.writer import write_video

    fit = VideoFit(config="", width=settings.width, height=settings.height, num_frames=settings.num_frames,
                   last_k=len(backbone.transformer.blocks), decode_steps=1)
    encoder = Encoder(backbone, [clip], fit)
    theta, shown = torch.randn(fit.theta_length) / 50, moving(clip.frames.shape)
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.vov" for count in settings.list("decode_steps")}
        for count, path in paths.items():
            encoder.write(path, dataclasses.replace(fit, decode_steps=int(count)), Fitted(theta, 0.01, path))
        encoder.close()
        for count, path in paths.items():
            decode_file(path, backbone)  # captions into the cache, kernels onto the GPU
            repeats = 2 if int(count) < 10 else 1
            decoding = watch(f"{count}-step decode, file to frames", lambda path=path: decode_file(path, backbone),
                             repeats)
            writing = watch("frames to mp4", lambda path=path: write_video(path.with_suffix(".mp4"), shown, 24.0), 2)
            watch.say(f"{count}-step decode, file to mp4", round(decoding + writing, 4))


def moving(shape):
    """A picture with edges and a little grain that moves by two pixels a frame: uint8, shape [T, H, W, 3]."""
    import numpy as np

    frames, height, width, _ = shape
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 1, (width + 2 * frames) // 16 + 1, 3))
    still = np.kron(coarse, np.ones((16, 16, 1))) + rng.normal(0, 3, ((height // 16 + 1) * 16,
                                                                       ((width + 2 * frames) // 16 + 1) * 16, 3))
    still = still.clip(0, 255).astype(np.uint8)
    return np.stack([still[:height, 2 * t:2 * t + width] for t in range(frames)])


class Still:
    """Frames in memory as a `FrameSource` gives them."""

    def __init__(self, frames):
        self.frames, self.fps = frames, 24.0
        self.info = SimpleNamespace(width=frames.shape[2], height=frames.shape[1])

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, first: int, count: int):
        """`count` frames from number `first` on."""
        return iter(self.frames[first:first + count])


def noise_steps(settings: Bench, backbone, frames, watch) -> None:
    """A sampler step that codes noise, by score; alone, and after a known frame where the model takes one."""
    import numpy as np
    import torch

    from vov.bitstream.sequence_code import noise_code
    from vov.noise.options import GRADIENT
    from vov.sequence.encode import SequenceEncoder
    from vov.sequence.ledger import scale_for
    from vov.sequence.plan import Span, spans
    from vov.sequence.settings import SequenceConfig

    for score in settings.list("scores"):
        config = SequenceConfig(width=settings.width, height=settings.height, num_frames=settings.num_frames,
                                steps=5, bytes_per_frame=15.0, score=score, device=settings.device,
                                lookahead_every=settings.lookahead_every)
        with tempfile.TemporaryDirectory() as folder:
            encoder = SequenceEncoder(backbone, Still(frames), spans([0], len(frames), len(frames)), [""], config,
                                      Path(folder))
        profile = np.full(encoder.noise["steps"], 255, np.int32)
        for chained in (False, True) if backbone.clean_first_frame else (False,):
            code = noise_code(encoder.noise, encoder.bits[chained], profile,
                              scale_for(profile, encoder.packings[chained], 15 * len(frames)))
            stepping = CodedSteps(encoder, Span(0, len(frames), chained, 0), frames[0] if chained else None, code,
                                  encoder.backbone.latents(frames))
            name = f"noise, {score}{', after a known frame' if chained else ''}"
            stepping.run()
            watch(f"{name}: 4 steps with {int(code.plan[:4].sum())} atoms", stepping.run, 2)
            settings.kernels(name, stepping.run)
            if score in GRADIENT:
                with torch.no_grad():
                    same = torch.equal(stepping.aim.plain(stepping.start.noise, 1.0),
                                       stepping.aim.velocity(stepping.start.noise, 1.0))
                print(f"{name}: velocity with a graph equals the decoder's to the bit: {same}", flush=True)
                stepping.aim.kept = []


def whole_noise(settings: Bench, backbone, frames, watch) -> None:
    """A clip coded as noise from frames in memory to the file's bytes, and back; with encode.sh's score."""
    import numpy as np
    from vov.decoding.sequence import SequenceDecoder

    from vov import bitstream
    from vov.sequence.encode import SequenceEncoder
    from vov.sequence.plan import spans
    from vov.sequence.settings import SequenceConfig

    config = SequenceConfig(width=settings.width, height=settings.height, num_frames=settings.num_frames,
                            target_bytes=settings.clip_bytes, device=settings.device,
                            lookahead_every=settings.lookahead_every)
    planned, made = spans([0], len(frames), len(frames)), []

    def encode() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encoder = SequenceEncoder(backbone, Still(frames), planned, [""], config, Path(folder))
            last = []
            code = encoder.run(lambda number, coded: last.append(coded.last))
            made[:] = [bitstream.to_bytes(encoder.bitstream(code, *encoder.size)), last[0]]

    def decode() -> None:
        with SequenceDecoder(backbone, bitstream.from_bytes(made[0])) as decoder:
            *_, last = decoder.frames()
        made.append(bool(np.array_equal(last, made[1])))

    watch("noise-coded clip, frames to file", encode, 1)
    watch("noise-coded clip, file to frames", decode, 1)
    print(f"noise-coded clip: {len(made[0]):,} bytes; last frame as the encoder saw it: {made[2]}", flush=True)


class CodedSteps:
    """Four sampler steps that choose noise, as `SequenceEncoder.search` takes them; the VAE has done its part."""

    def __init__(self, encoder, span, known, code, target):
        from vov.noise.aim import Aim

        self.encoder, self.code, self.start = encoder, code, encoder.model.start(0, known)
        target = target if known is None else target[:, :, 1:]
        self.aim = Aim(encoder.model.velocity(self.start, encoder.conditions[span.scene]), target,
                       encoder.settings.score, None, chained=known is not None, every=encoder.settings.lookahead_every)

    def run(self) -> None:
        """Takes them."""
        import torch

        from vov.model.flow import euler
        from vov.noise.choose import Chooser

        sigmas = self.encoder.sigmas
        with torch.no_grad():
            chooser = Chooser(self.code, sigmas, 0, 0, self.aim.direction)
            euler(self.aim.velocity, self.start.noise, sigmas[:5], chooser)
            self.aim.kept = []


if __name__ == "__main__":
    cli.run(Bench, main, "[VARIABLE=value …] bash scripts/bench.sh [--flag value …]")
