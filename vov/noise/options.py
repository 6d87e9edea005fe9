"""How noise is coded: the variables of the scale commands, and the empty code that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vov import VovError
from vov.bitstream.noise_code import (
    ETA_UNIT,
    INDEPENDENT,
    KINDS,
    MAX_ATOMS,
    SHIFTS,
    TRELLIS,
    NoiseCode,
    block_count,
)
from vov.config import option
from vov.config.rate_targets import TargetOptions
from vov.media.roi import RoiOptions

SCORES = ("likelihood", "pixel", "lookahead", "blend")
GRADIENT = ("lookahead", "blend")  # those that take a backward pass a step
USUAL_ATOMS = 192  # of a step, on average; the most there can be are TRELLIS_ATOMS


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
class ScalingConfig(TargetOptions, RoiOptions):
    """How noise is coded; both trees extend it. A target takes the place of SCALING_BYTES."""

    collection: str = option("", "a .vovd file of scripts/fit_collection.sh: its θ adapts the model; the "
                             "file names it by 16 bytes, the decoder needs it too", identity=False)
    scaling: bool = option(True, "0: no noise section, only STEPS changes")
    steps: int = option(0, "sampler steps; 0: the file's own", minimum=0)
    scheme: str = option("atoms", "paper: one index for the whole latent a step; blocks: one index a block of BLOCK "
                         "values; atoms: ATOMS signed atoms a step, or as many as SCALING_BYTES allow",
                         choices=("paper", "blocks", "atoms"))
    scaling_bytes: int = option(0, "bytes for the noise, spent on the steps that gain most; 0: ATOMS a coded step",
                                minimum=0)
    bits: int = option(0, "bits of an index; 0: 10 (1024 candidates), all shifts of a block for shifts", minimum=0)
    atoms: int = option(1, "signed atoms of a block and step (scheme atoms, no SCALING_BYTES)", minimum=1)
    block: int = option(0, "latent values of a block; 0: the whole latent (1024 for scheme blocks)", minimum=0)
    candidates: str = option("", "independent (the paper's), shifts (of one vector, scored by one FFT) or trellis "
                             "(shifts, and an atom is named by the bits of those before it too; default of scheme "
                             "atoms)", choices=("", *KINDS))
    branch: int = option(0, "bits that an atom of a trellis costs; 0: 4, or more where a step would have over "
                         f"{USUAL_ATOMS} atoms", minimum=0)
    eta: float = option(1.0, "diffusion strength: 0 no noise, 1 as the posterior's, more: fresher", minimum=0)
    first_step: int = option(0, "first coded step", minimum=0)
    coded_steps: int = option(0, "coded steps from there on; 0: all", minimum=0)
    theta_steps: int = option(0, "θ adapts the model in the first so many steps, then the frozen model goes on alone; "
                              "0: in all steps", minimum=0)
    start_level: float = option(0.0, "σ below 1 to which the first step jumps, the rest is spread below it; for "
                                "anchored one-step θ, with THETA_STEPS=1; 0: the plain grid", minimum=0)
    end_level: float = option(-1.0, "σ from which the last step goes straight to 0, to the model's mean; 0: the plain "
                              "grid; -1: for scheme atoms one that follows the size, and of a picture its content "
                              "too; else 0", minimum=-1)
    score: str = option("likelihood", "what a candidate is chosen for: likelihood, pixel, lookahead, blend",
                        choices=SCORES)
    lookahead_until: float = option(0.0, "σ below which lookahead and blend give way to pixel, which costs no backward "
                                    "pass; 0: never", minimum=0)
    lookahead_every: int = option(1, "lookahead and blend take their backward pass in every so many steps alone; are "
                                  "pixel in the others", minimum=1)
    choice: str = option("best", "best candidate, or sample (Gumbel: in proportion to its likelihood)",
                         choices=("best", "sample"))

    def code(self, steps: int, size: int, items: int, still: bool = False) -> NoiseCode:
        """An empty code with these parameters and ATOMS everywhere, for `steps` sampler steps and `size` values.

        still: as in `jump_level`.
        """
        kind = self._kind()
        block = 0 if self.scheme == "paper" else self.block or (1024 if self.scheme == "blocks" else 0)
        block = 0 if block >= size else block
        bits = self.bits or (10 if kind == INDEPENDENT else min(24, (block or size).bit_length() - 1))
        if kind != INDEPENDENT and 1 << bits > (block or size):
            raise VovError(f"BITS={bits}: there are only {block or size} shifts to choose from; set BITS to "
                           f"{(block or size).bit_length() - 1} or less, or CANDIDATES=independent")
        if self.first_step >= steps:
            raise VovError(f"FIRST_STEP={self.first_step}, but there are only {steps} steps; lower it or raise STEPS")
        coded = min(self.coded_steps or steps, steps - self.first_step)
        atoms, signed = (self.atoms, 1) if self.scheme == "atoms" else (1, 0)
        blocks = block_count(size, block)
        spent = 8 * self.scaling_bytes / items / coded / blocks  # bits a block and step
        branch = self._branch(kind, bits + signed, spent)
        rate = (spent or atoms * (branch or bits + signed)) * coded * blocks / size
        end = self.end_level
        if end < 0:
            end = (self.start_level or 1.0) * jump_level(rate, still) if self.scheme == "atoms" and steps > 2 else 0.0
        for name, level, top in (("START_LEVEL", self.start_level, 1.0), ("END_LEVEL", end, self.start_level or 1.0)):
            if level and (level >= top or steps <= bool(self.start_level) + bool(end)):
                raise VovError(f"{name}={level:g}: must be below {top:g}, and needs more STEPS than {steps}")
        if atoms > MAX_ATOMS:
            raise VovError(f"ATOMS={atoms}: at most {MAX_ATOMS}; use smaller blocks (BLOCK)")
        return NoiseCode(
            kind, bits, signed, block, round(self.eta * ETA_UNIT), self.first_step, coded,
            min(self.theta_steps, steps), round(self.start_level * 1024), round(end * 1024),
            np.full((coded, blocks), atoms), np.zeros((items, 0), np.int32), branch)

    def _kind(self) -> int:
        """The kind of candidates, one of KINDS by number."""
        if self.candidates:
            return KINDS.index(self.candidates)
        if self.scheme != "atoms":
            return INDEPENDENT
        return TRELLIS if self.choice == "best" else SHIFTS

    def _branch(self, kind: int, bits: int, spent: float) -> int:
        """Bits that an atom costs, for a label of `bits` bits and `spent` bits a block and step; 0: no trellis."""
        if kind != TRELLIS:
            if self.branch:
                raise VovError(f"BRANCH={self.branch} is of CANDIDATES=trellis alone; leave one of them out")
            return 0
        if self.choice == "sample":
            raise VovError("CHOICE=sample: a trellis has a best path, no likely ones; add CANDIDATES=shifts")
        if self.branch > bits:
            raise VovError(f"BRANCH={self.branch}: a candidate has only {bits} bits; lower it")
        return self.branch or usual_branch(bits, spent)


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
