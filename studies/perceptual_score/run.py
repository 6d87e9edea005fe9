"""Coded noise chosen for a network's metric: the metric's gradient through the autoencoder, beside the pixels' own.

A score's direction at a guess x̂0 of the latents is the gradient of an error. `blend` takes that of the squared error.
Here a share of its length comes from the gradient of ST-LPIPS (Ghildyal and Liu, ECCV 2022) of the decoded guess:

    (1 − share)·unit(WᵀW·(x0 − x̂0)) − share·unit(∂ metric(decode(x̂0), original) / ∂x̂0)

The files are those of any encoder: they say nothing of how they were chosen. Measure them with
`FILES=… ORIGINALS=… TEXTURES=0 python -m studies.texture.run`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vov import VovError, media
from vov.config import cli, number_list, option
from vov.decoding.replay import Step
from vov.model.options import ModelOptions
from vov.noise import search
from vov.noise.aim import Aim, Wanted, unit


@dataclass(frozen=True)
class Study(ModelOptions):
    """What is coded."""

    clips: str = option("", "folders of frames, with commas between, at the size at which they are coded (required)")
    shares: str = option("0,0.25,0.5,1", "of the direction's length that the metric has")
    net: str = option("alex", "the metric's network", choices=("alex", "vgg"))
    scaling_bytes: int = option(1150, "bytes of noise", minimum=1)
    steps: int = option(40, "sampler steps", minimum=2)
    score: str = option("blend", "that the metric is added to", choices=("pixel", "blend"))
    out: str = option("runs/perceptual", "gets SHARE/NAME.vov")


class Seen(Aim):
    """An aim whose error a metric sees too.

    Set on the class: share; metric: frames [T, 3, H, W] in [0, 1] → []; backbone.
    """

    share, metric, backbone = 0.0, None, None

    def weighted(self, error: Tensor) -> Tensor:
        """The direction in which weighted error and metric fall, of the weighted error's length."""
        plain = super().weighted(error)
        if not self.share:
            return plain
        with torch.enable_grad():
            guess = (self.target - error).detach().requires_grad_()
            frames = (self.backbone.decode_pixels(guess)[0].transpose(0, 1) + 1) / 2
            (slope,) = torch.autograd.grad(type(self).metric(frames.clamp(0, 1)), guess)
        self.slope = -unit(slope)
        return ((1 - self.share) * unit(plain) + self.share * self.slope) * plain.norm()

    def direction(self, step: Step, x0: Tensor, reach: float) -> Wanted:
        """As `Aim.direction`, of which the metric has its share where no model lies between, too."""
        wanted = super().direction(step, x0, reach)
        if not self.share:
            return wanted
        return wanted._replace(direction=(1 - self.share) * unit(wanted.direction) + self.share * self.slope)


def main(settings: Study) -> None:
    """Writes the files and prints a line for each."""
    from vov import bitstream
    from vov.commands.options import VideoFit
    from vov.evaluation.tools import StLpips
    from vov.media.original import Original
    from vov.metrics import psnr
    from vov.model.wan import WanBackbone
    from vov.noise.items import add_noise, frozen_file
    from vov.noise.options import ScalingConfig

    if not settings.clips:
        raise VovError("CLIPS is not set; give folders of frames, with commas between")
    Seen.backbone = backbone = settings.load(WanBackbone)
    measure, plain = StLpips(settings.net).to(backbone.device), search.Aim
    code = ScalingConfig(scaling_bytes=settings.scaling_bytes, steps=settings.steps, score=settings.score)
    shares = number_list("SHARES", settings.shares)
    for path, share in itertools.product(map(Path, settings.clips.split(",")), shares):
        clip = media.read_clip(path)
        original = Original(clip.frames, clip.fps or 24.0, "", path.name)
        count, height, width = clip.frames.shape[:3]
        wanted = torch.from_numpy(clip.frames).to(backbone.device).permute(0, 3, 1, 2).float() / 255
        Seen.share, Seen.metric = share, staticmethod(lambda x, y=wanted: measure(x, y).mean())
        fit = VideoFit(config="", width=width, height=height, num_frames=count, shift=1.0)
        search.Aim = Seen
        try:
            stream, (frames,) = add_noise(frozen_file(backbone, [original], fit), backbone, [original], code)
        finally:
            search.Aim = plain
        file = Path(settings.out) / f"{share:g}" / f"{path.name}.vov"
        bitstream.write(file, stream)
        found = torch.from_numpy(frames).to(backbone.device).permute(0, 3, 1, 2).float() / 255
        print(f"{path.name:<16} share {share:<5g} {file.stat().st_size:>6} bytes {psnr(clip.frames, frames):6.2f} dB "
              f"ST-LPIPS-{settings.net} {float(measure(found, wanted).mean()):.4f}", flush=True)


if __name__ == "__main__":
    cli.run(Study, main, "CLIPS=a,b [VARIABLE=value …] python -m studies.perceptual_score.run")
