"""What the editing commands of both trees are told."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vov import VovError
from vov.bitstream.header import HIGHEST
from vov.config import option
from vov.model.options import ModelOptions


@dataclass(frozen=True)
class EditConfig(ModelOptions):
    """What all editing commands share. The variables up to LORA_PRESET are for checkpoints that do not say."""

    caption: str = option("", "what the edited result shows (required)")
    steps: int = option(0, "sampler steps; 0: the fit's own, 50 for a checkpoint that does not say", minimum=0,
                        maximum=HIGHEST["decode_steps"])
    seed: int = option(-1, "of the noise; -1: the fit's own, 42 for a checkpoint that does not say", minimum=-1,
                       maximum=HIGHEST["seed"])
    strength: str = option("1", "weight of each θ, comma-separated; 0 is the frozen model", alias=("STRENGTHS",))
    start_step: str = option("0", "first sampler step at which each θ acts, comma-separated")
    stop_step: str = option("0", "step before which it stops, comma-separated; 0: acts to the end")
    guidance: float = option(0.0, "classifier-free guidance; 0: the fit's own", alias=("CFG",), minimum=0)
    replay_noise: bool = option(False, "of a file of θ and noise, replay the noise too: keeps more of the original; a "
                                "file without θ is always edited so")
    base_caption: str = option("", "caption of the reconstruction beside the edit; default: the first fit's own")
    item: str = option("", "which picture of an album: its number, from 1, or its name (required for an album)")
    overwrite: bool = option(False, "replace existing outputs", identity=False)
    rank: int = option(1, "LoRA rank", minimum=1, maximum=HIGHEST["rank"])
    last_k: int = option(30, "the last K blocks are adapted", minimum=1, maximum=HIGHEST["last_k"])
    theta_length: int = option(131072, "length d of θ", alias=("V_LENGTH", "THETA_D_LENGTH"), minimum=1,
                               maximum=HIGHEST["theta_length"])
    proj_seed: int = option(42, "seed of UniLoRA's indices", minimum=0, maximum=HIGHEST["proj_seed"])
    width: int = option(832, "pixels", minimum=1, maximum=HIGHEST["width"])
    height: int = option(480, "pixels", minimum=1, maximum=HIGHEST["height"])
    num_frames: int = option(81, "frames", name="CHUNK_FRAMES", alias=("NUM_FRAMES",), minimum=1,
                             maximum=HIGHEST["num_frames"])
    fps: float = option(16.0, "frames per second", minimum=0, maximum=HIGHEST["fps"])
    shift: float = option(0.0, "σ grid shift; 0: the model's own", minimum=0, maximum=HIGHEST["shift"])
    lora_preset: str = option("qkvo", "adapted linears", choices=("qkvo", "qkv", "qkvo_mlp"))


@dataclass(frozen=True)
class OneFit:
    """Of a command that edits one fit."""

    weights: str = option("", "a .vov file or a checkpoint, ours or the reference's (required)")

    def sources(self) -> list[str]:
        """The fits, in order."""
        return [self.weights]


@dataclass(frozen=True)
class SeveralFits:
    """Of a command that merges any number of fits."""

    weights1: str = option("", "first .vov file or checkpoint; its geometry, sampler and noise are used (required)")
    weights2: str = option("", "second; WEIGHTS3, WEIGHTS4 … in the environment may follow")

    def sources(self) -> list[str]:
        """The fits, in order."""
        return numbered(self.weights1, self.weights2)


def numbered(*given: str) -> list[str]:
    """The fits to merge: those given, then WEIGHTS3, WEIGHTS4 … of the environment, without gaps."""
    found = [source for source in given if source]
    number = len(given) + 1
    while source := os.environ.get(f"WEIGHTS{number}", ""):
        found.append(source)
        number += 1
    if len(found) < 2:
        raise VovError("`weights1` and `weights2` must both be set; for a single fit use edit_caption.sh")
    return found
