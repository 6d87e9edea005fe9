"""How θ is rounded while it is fitted with a rate term: four ways, at equal bytes.

    ste         rounded, with the gradient of the identity (straight-through): what the fit does
    noise       uniform noise instead of rounding, in the distortion too (Ballé et al. 2017)
    soft        soft rounding, ever steeper: s(x) = ⌊x⌋ + ½ + tanh(r/T) / (2·tanh(1/(2T))), r = x − ⌊x⌋ − ½
    soft_noise  s(s(x) + noise) (Agustsson and Theis, "Universally quantized neural compression", NeurIPS 2020)

The last three end with straight-through rounding in the last fifth of the steps, as C3 has it (Kim et al., CVPR 2024).
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scripts.experiments import fits
from vov import VovError, cli
from vov.bitstream.header import SYMBOL_LIMIT
from vov.config import option
from vov.fitting import fit
from vov.fitting.rate import RateModel

ROUNDINGS = ("ste", "noise", "soft", "soft_noise")


@dataclass(frozen=True)
class Study:
    """What is compared; every other setting comes from CONFIG and the environment, as in run_two_stage.sh."""

    clips: str = option("", "comma-separated folders or videos (required)")
    roundings: str = option(",".join(ROUNDINGS), "which ways")
    first: float = option(0.5, "temperature T of soft rounding at the start", minimum=0.01)
    last: float = option(0.1, "and at the end", minimum=0.01)
    out: str = option("runs/soft_rounding", "gets WAY/NAME.vov")


def soft(x: Tensor, temperature: Tensor) -> Tensor:
    """s(x) of x's shape: nearly x at T = 1, nearly round(x) at T = 0.05."""
    middle = torch.floor(x.detach()) + 0.5
    return middle + torch.tanh((x - middle) / temperature) / (2 * torch.tanh(0.5 / temperature))


class Rounding(RateModel):
    """A rate model that rounds θ another way for `total` steps, of which the last fifth are straight-through."""

    way, total, ends = "ste", 1, (0.5, 0.1)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("count", torch.zeros(()), persistent=False)  # a tensor: a captured step counts too

    def forward(self, theta: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `RateModel.forward`."""
        hard, bits = super().forward(theta, noise)
        if self.way == "ste":
            return hard, bits
        self.count += 1
        done = self.count / (0.8 * self.total)
        x = torch.clamp(theta.float() / self.step, -SYMBOL_LIMIT, SYMBOL_LIMIT)
        first, last = self.ends
        temperature = first * (last / first) ** done.clamp(max=1)
        if self.way.startswith("soft"):
            x = soft(x, temperature)
        if self.way.endswith("noise"):
            x = x + noise
        if self.way == "soft_noise":
            x = soft(x, temperature)
        return torch.where(done < 1, x * self.step, hard), bits


def main(settings: Study) -> None:
    """Prints a line per fit."""
    from scripts.experiments.sweep import line
    from video.backbone import WanBackbone

    if not settings.clips:
        raise VovError("CLIPS is not set; give folders or videos, separated by commas")
    ways = settings.roundings.split(",")
    if unknown := [way for way in ways if way not in ROUNDINGS]:
        raise VovError(f"ROUNDINGS: {unknown[0]!r} is none of {', '.join(ROUNDINGS)}")
    backbone, plain = None, fit.RateModel
    for clip, way in itertools.product(settings.clips.split(","), ways):
        stages = fits.stages_of({}, clip, os.environ)
        source, backbone = stages[-1].source(), backbone or stages[0].load(WanBackbone)
        fit.RateModel = type("Chosen", (Rounding,), {"way": way, "total": stages[-1].train_steps,
                                                     "ends": (settings.first, settings.last)})
        try:
            row = fits.measured_fit(backbone, source, stages, Path(settings.out) / way / f"{source.name}.vov")
        finally:
            fit.RateModel = plain
        print(line({"clip": source.name, "vary": way, **row}, ""), flush=True)


if __name__ == "__main__":
    cli.run(Study, main, "CONFIG=nano-video TARGET_BYTES=4750 CLIPS=a,b python -m scripts.experiments.soft_rounding")
