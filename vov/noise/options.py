"""How noise is coded: the variables of the scale commands, and the empty code that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vov import VovError
from vov.bitstream.noise_code import ETA_UNIT, INDEPENDENT, TRELLIS, NoiseCode
from vov.config import option, override
from vov.config.rate_targets import TargetOptions
from vov.media.roi import RoiOptions
from vov.model.options import ModelOptions

SCORES = ("likelihood", "pixel", "lookahead", "blend")
GRADIENT = ("lookahead", "blend")  # those that take a backward pass a step
USUAL_ATOMS = 192  # of a step, on average; the most there can be are TRELLIS_ATOMS
PAPER_BITS = 10  # of an index: the paper's 1024 candidates a step


@dataclass(frozen=True)
class TextureOption:
    """How a file with coded noise is shown; see `replay.textured`."""

    texture: float = option(-1.0, "of coded noise: 0: the model's mean of what the file leaves open; 1: a sample of "
                            "it, sharper; any number between; costs 8 more steps. -1: 0.5 for a short clip, else 0",
                            minimum=-1, maximum=1)

    @property
    def textures(self) -> list[float]:
        """What TEXTURE adds to the identity of an output; nothing where it is not set."""
        return [] if self.texture < 0 else [self.texture]


@dataclass(frozen=True)
class NoiseOptions(TargetOptions, RoiOptions):
    """How noise is chosen: for the pictures or the clip of a file, and for a video of any length alike."""

    collection: str = override(ModelOptions, "collection", "", help="a .vovd file of scripts/fit_collection.sh: its θ "
                               "adapts the model; the file names it by 16 bytes, the decoder needs it too", alias=())
    steps: int = option(0, "sampler steps; 0: the file's own", minimum=0)
    score: str = option("likelihood", "what a candidate is chosen for: likelihood, pixel, lookahead, blend",
                        choices=SCORES)
    lookahead_every: int = option(1, "lookahead and blend take their backward pass in every so many steps alone; are "
                                  "pixel in the others", minimum=1)
    end_level: float = option(-1.0, "σ from which the last step goes straight to 0, to the model's mean; 0: the plain "
                              "grid; -1: for atoms one that follows the size, and of a picture its content too; else "
                              "0", minimum=-1, rare=True)


@dataclass(frozen=True)
class ScalingConfig(NoiseOptions):
    """How noise is coded in one file; both trees extend it. A target takes the place of NOISE_BYTES."""

    scaling: bool = option(True, "0: no noise section, only STEPS changes")
    scheme: str = option("atoms", "atoms: signed atoms on a trellis, one a step or as many as NOISE_BYTES allow; "
                         "paper: one index of 1024 candidates a step", choices=("atoms", "paper"))
    scaling_bytes: int = option(0, "bytes for the noise, spent on the steps that gain most; 0: an atom or index a step",
                                name="NOISE_BYTES", alias=("SCALING_BYTES",), minimum=0)

    def code(self, steps: int, size: int, items: int, still: bool = False) -> NoiseCode:
        """An empty code with these parameters, one atom or index a step, for `steps` sampler steps and `size` values.

        still: as in `jump_level`.
        """
        paper = self.scheme == "paper"
        bits = PAPER_BITS if paper else min(24, size.bit_length() - 1)
        spent = 8 * self.scaling_bytes / items / steps  # bits a step
        branch = 0 if paper else usual_branch(bits + 1, spent)
        end = self.end_level
        if end < 0:
            end = 0.0 if paper or steps <= 2 else jump_level((spent or branch) * steps / size, still)
        if end >= 1:
            raise VovError(f"`end_level`={end:g}: must be below 1")
        if end and steps < 2:
            raise VovError(f"`end_level`={end:g}: needs more `steps` than {steps}")
        return NoiseCode(
            INDEPENDENT if paper else TRELLIS, bits, int(not paper), block=0, eta=ETA_UNIT, first=0, steps=steps,
            theta_steps=0, start=0, end=round(end * 1024), plan=np.ones((steps, 1), np.int64),
            symbols=np.zeros((items, 0), np.int32), branch=branch)


def usual_branch(bits: int, spent: float) -> int:
    """Bits that an atom of a trellis costs, for labels of `bits` bits and `spent` bits a step: few are nearest to the
    bound, but an atom takes an FFT. At most 2^16 states, since the search keeps a byte for each state and atom."""
    return min(bits, max(4, bits - 16, math.ceil(spent / USUAL_ATOMS)))


JUMPS = 0.1, 0.55  # the lowest and the highest END_LEVEL that is chosen by itself


def jump_level(rate: float, still: bool = False) -> float:
    """The END_LEVEL for `rate` bits of noise per latent value: few bits settle nothing below a high level.

    Measured with nano-video: 0.45 to 0.55 was best at 1/16 bit, 0.4 at 1/9, 0.3 at 1/5, 0.2 at 0.4
    (studies/coded_noise).
    still: of pictures. A latent of one says more than a later one of a video, which mostly repeats the one before, so
    that the same bits settle less of it.
    """
    return min(JUMPS[1], max(JUMPS[0], (0.1 if still else 0.04) - 0.11 * math.log2(rate)))
