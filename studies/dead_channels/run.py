"""Channels of an embedded autoencoder that carry nothing: which they are, and what it would be worth to revive them.

A channel is dead when its latents hardly change. Each one's worth is the PSNR that is lost when it is held at its mean.
To revive the dead ones, the rows of the encoder's last convolution that belong to them are drawn anew, the columns of
the decoder's first set to zero, and both trained alone, at a squared error of pixels; everything else stays, so that
the other channels mean what they meant. The model on disk is not touched: its transformer has never seen these channels
move.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vov import VovError, media, metrics
from vov.config import cli, option, override
from vov.model.options import ModelOptions

DEAD = 0.01  # of the latents' mean standard deviation


@dataclass(frozen=True)
class Study(ModelOptions):
    """On which pictures."""

    model_id: str = override(ModelOptions, "model_id", "nano-image")
    tree: str = option("image", "which autoencoder", choices=("image", "video"))
    test: str = option("", "pictures to measure on, with commas between (required)")
    train: str = option("", "pictures to train on, with commas between; none: only measure")
    side: int = option(256, "pixels of the centre that is measured", minimum=32)
    crop: int = option(128, "pixels of a training sample", minimum=32)
    steps: int = option(300, "training steps", minimum=1)
    batch: int = option(4, "samples of a step", minimum=1)
    lr: float = option(1e-3, "Adam's learning rate", minimum=0)


def read(paths: str, side: int) -> list[Tensor]:
    """The centre of every picture, [1, 3, 1, side, side] in [−1, 1]."""
    frames = (media.fit_geometry(media.read_image(path)[None], side, side, "crop") for path in paths.split(",") if path)
    return [torch.from_numpy(frame).permute(3, 0, 1, 2)[None].float() / 127.5 - 1 for frame in frames]


def main(settings: Study) -> None:
    """Prints the dead channels, the worth of the least, and PSNR before and after."""
    if settings.tree == "image":
        from vov.model.qwen import QwenBackbone as Kind
    else:
        from vov.model.wan import WanBackbone as Kind
    if not settings.test:
        raise VovError("TEST is not set; give pictures, with commas between")
    vae = settings.load(Kind).vae
    tests, size = read(settings.test, settings.side), vae.config.z_dim

    @torch.no_grad()
    def quality(held: int | None = None) -> float:
        """Mean PSNR in dB; held: a channel that is put at its mean."""
        found = []
        for picture in tests:
            latents = vae.encode(picture).latent_dist.mode()
            if held is not None:
                latents[:, held] = latents[:, held].mean()
            found.append(metrics.psnr(*(((x[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
                                        for x in (picture, vae.decode(latents).sample))))
        return sum(found) / len(found)

    with torch.no_grad():
        spread = torch.stack([vae.encode(x).latent_dist.mode()[0].flatten(1).std(1) for x in tests]).mean(0)
    dead = (spread < DEAD * spread.mean()).nonzero().flatten().tolist()
    before = quality()
    least = int(torch.where(spread < DEAD * spread.mean(), torch.inf, spread).argmin())
    print(f"{len(dead)} of {size} channels are dead: {dead}; {before:.2f} dB; without the dead ones "
          f"{[round(quality(channel) - before, 3) for channel in dead]} dB, without channel {least}, the least of the "
          f"others, {quality(least) - before:+.2f} dB", flush=True)
    if settings.train and dead:
        revive(vae, dead, read(settings.train, 2 * settings.crop), settings)
        print(f"{settings.steps} steps later: {quality():.2f} dB ({quality() - before:+.2f})")


def revive(vae, dead: list[int], pictures: list[Tensor], settings: Study) -> None:
    """Trains what only the dead channels use, in place."""
    torch.manual_seed(0)
    into, out = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        into.weight[dead] = torch.randn_like(into.weight[dead]) * into.weight.std()
        out.weight[:, dead] = 0
    masks = {into.weight: torch.zeros_like(into.weight), out.weight: torch.zeros_like(out.weight)}
    masks[into.weight][dead], masks[out.weight][:, dead] = 1, 1
    for weight, mask in masks.items():
        weight.requires_grad_().register_hook(lambda slope, mask=mask: slope * mask)
    optimizer = torch.optim.Adam(masks, settings.lr)
    for step in range(settings.steps):
        chosen = [pictures[number] for number in torch.randint(len(pictures), (settings.batch,))]
        left, top = torch.randint(settings.crop, (2,)).tolist()
        clean = torch.cat(chosen)[..., top:top + settings.crop, left:left + settings.crop]
        loss = F.mse_loss(vae.decode(vae.encode(clean).latent_dist.mode()).sample, clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.detach():.5f}", flush=True)


if __name__ == "__main__":
    cli.run(Study, main, "TEST=a.png,… [TRAIN=b.png,…] python -m studies.dead_channels.run")
