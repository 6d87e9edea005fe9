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
    """A sampler step that codes a clip's noise by one score; alone, and after a known frame where a model takes one.

    The VAE has done its part.
    """
    import numpy as np

    from vov.bitstream.sequence_code import noise_code
    from vov.noise.options import GRADIENT
    from vov.noise.search import Task
    from vov.sequence.encode import SequenceEncoder
    from vov.sequence.ledger import scale_for
    from vov.sequence.plan import spans

    config = sequence(settings, steps=5, bytes_per_frame=15.0, score=score)
    with tempfile.TemporaryDirectory() as folder:
        encoder = SequenceEncoder(backbone, Still(frames), spans([0], len(frames), len(frames)), [""], config,
                                  Path(folder))
    search, target = encoder.chunks.search, backbone.latents(frames)
    profile = np.full(encoder.noise["steps"], 255, np.int32)
    for chained in (False, True) if backbone.clean_first_frame else (False,):
        code = noise_code(encoder.noise, encoder.bits[chained], profile,
                          scale_for(profile, encoder.packings[chained], 15 * len(frames)))
        start = search.sampling.start(0, frames[0] if chained else None)
        task = Task(start, encoder.conditions[0], target[:, :, 1:] if chained else target)
        choose = lambda task=task, code=code: search.choose(task, code)  # noqa: E731
        name = f"noise, {score}{', after a known frame' if chained else ''}"
        choose()
        watch(f"{name}: {code.steps} steps with {int(code.plan.sum())} atoms", choose, 2)
        if settings.profile:
            say_kernels(name, choose)
        if score in GRADIENT:
            print(f"{name}: velocity with a graph equals the decoder's to the bit: {same(search, task)}", flush=True)


def same(search, task) -> bool:
    """Whether a score's backward pass leaves the velocity as the decoder will have it."""
    import torch

    from vov.noise.aim import Aim

    plain = search.sampling.velocity(task.start, task.condition)
    aim = Aim(plain, task.target, search.score, None, chained=task.start.known is not None)
    with torch.no_grad():
        return torch.equal(plain(task.start.noise, 1.0), aim.velocity(task.start.noise, 1.0))


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
        with Decoder(bitstream.from_bytes(made[0]), backbone, texture=0) as decoder:  # as the encoder sees it
            *_, last = decoder.frames()
        made.append(bool(np.array_equal(last, made[1])))

    watch("noise-coded clip, frames to file", encode, 1)
    watch("noise-coded clip, file to frames", decode, 1)
    print(f"noise-coded clip: {len(made[0]):,} bytes; last frame as the encoder saw it: {made[2]}", flush=True)


def picture(settings: Noise, score: str, backbone, frames, watch) -> None:
    """A picture coded as noise, as image/encode.sh does it: the search alone, and the sampler that replays it.

    A search takes several passes, of untrained weights perhaps more than of real ones: a step is said apart.
    """
    from vov.commands.options import ImageFit
    from vov.decoding.decode import Decoder
    from vov.media.original import Original
    from vov.noise.items import NoiseRun, add_noise, frozen_file
    from vov.noise.options import ScalingConfig

    original, found, taken = Original(frames, 0.0, ""), [], []
    code = ScalingConfig(scaling_bytes=settings.picture_bytes, steps=settings.noise_steps, score=score)
    stream = frozen_file(backbone, [original], ImageFit(config="", width=settings.width, height=settings.height))
    run = NoiseRun(progress=lambda: taken.append(1))
    name = f"noise, {score}, picture of {settings.picture_bytes:,} bytes in {settings.noise_steps} steps"
    seconds = watch(f"{name}, encode", lambda: found.append(add_noise(stream, backbone, [original], code, run)[0]), 1)
    watch.say(f"{name}, one of the {len(taken)} steps of all passes", round(seconds / len(taken), 4))
    with Decoder(found[-1], backbone) as decoder:
        watch(f"{name}, decode", lambda: list(decoder.frames()), 1)


if __name__ == "__main__":
    cli.run(Noise, main, "[VARIABLE=value …] bash scripts/bench.sh noise [--flag value …]")
