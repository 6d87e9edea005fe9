"""Speed and memory of coded noise at the true model size, with random weights: sampler steps and whole files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from scripts.bench.shapes import ModelBench
from scripts.bench.timing import say_kernels
from vov.config import cli, option


@dataclass(frozen=True)
class Noise(ModelBench):
    """What is measured."""

    scores: str = option("likelihood,lookahead", "scores by which noise is chosen; none: none")
    lookahead_every: int = option(1, "as in video/encode.sh", minimum=1)
    clip_bytes: int = option(0, "size of a clip whose whole encode and decode are timed, 40 steps; 0: none", minimum=0)
    picture_bytes: int = option(2000, "size of the noise of a picture, whose whole encode and decode are timed",
                                minimum=1)
    noise_steps: int = option(40, "sampler steps of that picture", minimum=3)


def main(settings: Noise) -> None:
    """Prints one line per measurement."""
    backbone, frames = settings.build(), settings.frames()
    watch = settings.stopwatch(backbone.device, model=settings.model, shape=list(frames.shape[:3]),
                               attention=backbone.attention or "PyTorch's choice")
    for score in settings.listed("scores"):
        if backbone.tree == "image":
            picture(settings, score, backbone, frames, watch)
        else:
            steps(settings, score, backbone, frames, watch)
    if settings.clip_bytes and backbone.tree == "video":
        clip(settings, backbone, frames, watch)


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


def sequence(settings: Noise, **more):
    """The settings of video/encode.sh for this geometry."""
    from vov.sequence.settings import SequenceConfig

    return SequenceConfig(width=settings.width, height=settings.height, num_frames=settings.num_frames,
                          device=settings.device, lookahead_every=settings.lookahead_every, **more)


def steps(settings: Noise, score: str, backbone, frames, watch) -> None:
    """A sampler step that codes a clip's noise by one score; alone, and after a known frame where a model takes one."""
    import numpy as np
    import torch

    from vov.bitstream.sequence_code import noise_code
    from vov.noise.options import GRADIENT
    from vov.sequence.encode import SequenceEncoder
    from vov.sequence.ledger import scale_for
    from vov.sequence.plan import Span, spans

    config = sequence(settings, steps=5, bytes_per_frame=15.0, score=score)
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
        if settings.profile:
            say_kernels(name, stepping.run)
        if score in GRADIENT:
            with torch.no_grad():
                same = torch.equal(stepping.aim.plain(stepping.start.noise, 1.0),
                                   stepping.aim.velocity(stepping.start.noise, 1.0))
            print(f"{name}: velocity with a graph equals the decoder's to the bit: {same}", flush=True)
            stepping.aim.kept = []


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


def clip(settings: Noise, backbone, frames, watch) -> None:
    """A clip coded as noise from frames in memory to the file's bytes, and back; with encode.sh's score."""
    import numpy as np

    from vov import bitstream
    from vov.decoding.decode import Decoder
    from vov.sequence.encode import SequenceEncoder
    from vov.sequence.plan import spans

    config = sequence(settings, target_bytes=settings.clip_bytes)
    planned, made = spans([0], len(frames), len(frames)), []

    def encode() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encoder = SequenceEncoder(backbone, Still(frames), planned, [""], config, Path(folder))
            last = []
            code = encoder.run(lambda number, coded: last.append(coded.last))
            made[:] = [bitstream.to_bytes(encoder.bitstream(code, *encoder.size)), last[0]]

    def decode() -> None:
        with Decoder(bitstream.from_bytes(made[0]), backbone) as decoder:
            *_, last = decoder.frames()
        made.append(bool(np.array_equal(last, made[1])))

    watch("noise-coded clip, frames to file", encode, 1)
    watch("noise-coded clip, file to frames", decode, 1)
    print(f"noise-coded clip: {len(made[0]):,} bytes; last frame as the encoder saw it: {made[2]}", flush=True)


def picture(settings: Noise, score: str, backbone, frames, watch) -> None:
    """A picture coded as noise, as image/encode.sh does it: the search alone, and the sampler that replays it.

    A search takes several passes, of untrained weights perhaps more than of real ones: a step is said apart.
    """
    from vov.noise.bare import bare

    from vov.commands.options import ImageFit
    from vov.decoding.decode import Decoder
    from vov.fitting.rate import from_symbols
    from vov.media.original import Original
    from vov.noise.options import ScalingConfig

    source, found, taken = Original(frames, 0.0, ""), [], []
    code = ScalingConfig(scaling_bytes=settings.picture_bytes, steps=settings.noise_steps, score=score)
    stream = bare(backbone, [source], ImageFit(config="", width=settings.width, height=settings.height))
    name = f"noise, {score}, picture of {settings.picture_bytes:,} bytes in {settings.noise_steps} steps"
    seconds = watch(f"{name}, encode", lambda: found.append(scale(
        stream, backbone, [source], code, lambda step, x: taken.append(step))[0]), 1)
    watch.say(f"{name}, one of the {len(taken)} steps of all passes", round(seconds / len(taken), 4))
    with Decoder.for_file(backbone, found[-1].header) as decoder:
        decoder.read_noise(found[-1].noise, 1, "the file")
        theta, condition = from_symbols(stream.symbols, stream.header.step), backbone.embed([""])[0]
        watch(f"{name}, decode", lambda: decoder.frames(theta, condition), 1)


if __name__ == "__main__":
    cli.run(Noise, main, "[VARIABLE=value …] bash scripts/bench.sh noise [--flag value …]")
