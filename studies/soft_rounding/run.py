"""How θ is rounded while it is fitted with a rate term: four ways, at equal bytes.

    ste         rounded, with the gradient of the identity (straight-through): what the fit does
    noise       uniform noise instead of rounding, in the distortion too (Ballé et al. 2017)
    soft        soft rounding s, ever steeper (`vov.fitting.rate.soft_round`)
    soft_noise  s(s(x) + noise), as Agustsson and Theis propose

The last three end with straight-through rounding in the last fifth of the steps.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from studies.theta import fits
from vov import VovError
from vov.bitstream.header import SYMBOL_LIMIT
from vov.config import cli, option
from vov.fitting import fit
from vov.fitting.rate import RateModel, soft_round

ROUNDINGS = ("ste", "noise", "soft", "soft_noise")


@dataclass(frozen=True)
class Study:
    """What is compared; every other setting comes from CONFIG and the environment, as in run_two_stage.sh."""

    clips: str = option("", "comma-separated folders or videos (required)")
    roundings: str = option(",".join(ROUNDINGS), "which ways")
    out: str = option("runs/soft_rounding", "gets WAY/NAME.vov")


class Rounding(RateModel):
    """A rate model that rounds θ another way, softly while the fit says so."""

    way = "ste"

    def forward(self, theta: Tensor, noise: Tensor | None, temperature: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `RateModel.forward`."""
        hard, bits = super().forward(theta, noise)
        if self.way == "ste":
            return hard, bits
        x = torch.clamp(theta.float() / self.step, -SYMBOL_LIMIT, SYMBOL_LIMIT)
        steepness = temperature.clamp_min(0.01)
        x = soft_round(x, steepness) if self.way.startswith("soft") else x
        x = x + noise if self.way.endswith("noise") else x
        x = soft_round(x, steepness) if self.way == "soft_noise" else x
        return torch.where(temperature > 0, x * self.step, hard), bits


def main(settings: Study) -> None:
    """Prints a line per fit."""
    from studies.theta.run import line
    from vov.model.wan import WanBackbone

    if not settings.clips:
        raise VovError("CLIPS is not set; give folders or videos, separated by commas")
    ways = settings.roundings.split(",")
    if unknown := [way for way in ways if way not in ROUNDINGS]:
        raise VovError(f"ROUNDINGS: {unknown[0]!r} is none of {', '.join(ROUNDINGS)}")
    backbone, plain = None, fit.RateModel
    for clip, way in itertools.product(settings.clips.split(","), ways):
        stages = fits.stages_of({"stage2.rounding": "soft"}, clip, os.environ)  # what gives the others a temperature
        (original,), backbone = stages[-1].originals(), backbone or stages[0].load(WanBackbone)
        fit.RateModel = type("Chosen", (Rounding,), {"way": way})
        try:
            row = fits.measured_fit(backbone, original, stages, Path(settings.out) / way / f"{original.name}.vov")
        finally:
            fit.RateModel = plain
        print(line({"clip": original.name, "vary": way, **row}, ""), flush=True)


if __name__ == "__main__":
    cli.run(Study, main, "CONFIG=nano-video TARGET_BYTES=4750 CLIPS=a,b python -m studies.soft_rounding.run")
