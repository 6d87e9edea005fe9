"""Speed of an embedded video model on this machine: medians, to be taken on one that does nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from vov.config import cli, option, override
from vov.model.options import ModelOptions


@dataclass(frozen=True)
class Bench(ModelOptions):
    """What is measured."""

    model_id: str = override(ModelOptions, "model_id", "nano-video")
    width: int = option(192, "pixels", minimum=16)
    height: int = option(112, "pixels", minimum=16)
    num_frames: int = option(17, "frames, 4n+1", minimum=1)
    repeats: int = option(9, "timed runs of each, after one that is not", minimum=1)


def main(settings: Bench) -> None:
    """Prints a line for each."""
    import torch

    from scripts.experiments.timing import Stopwatch
    from vov.model.wan import WanBackbone

    backbone = settings.load(WanBackbone)
    backbone.check_geometry(settings.width, settings.height, settings.num_frames)
    watch = Stopwatch("", backbone.device.type == "cuda")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {settings.num_frames} frames of "
          f"{settings.width}×{settings.height}")
    shape = backbone.latent_shape(settings.width, settings.height, settings.num_frames)
    condition = backbone.collate(backbone.embed([""]))
    pixels = torch.rand(1, 3, settings.num_frames, settings.height, settings.width, device=backbone.device) * 2 - 1
    latents = torch.randn(shape, device=backbone.device)

    def forward():
        with torch.no_grad():
            backbone.velocity(latents, 0.5, condition)

    def both():
        x = latents.clone().requires_grad_()
        backbone.velocity(x, 0.5, condition).square().mean().backward()

    for name, work in (("forward", forward), ("forward and backward", both),
                       ("VAE encode", lambda: backbone.encode_pixels(pixels)),
                       ("VAE decode", lambda: backbone.decode(latents))):
        work()
        watch(name, work, settings.repeats)


if __name__ == "__main__":
    cli.run(Bench, main, "python -m scripts.experiments.bench_nano [--flag value …]")
