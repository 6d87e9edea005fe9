"""How a video of any length is coded; the video tree extends it by where things are."""

from __future__ import annotations

from dataclasses import dataclass

from vov import VovError
from vov.config import option, override, rate_targets
from vov.media.geometry import Geometry
from vov.model.options import ModelOptions
from vov.noise.options import NoiseOptions, jump_level


@dataclass(frozen=True)
class SequenceConfig(NoiseOptions, ModelOptions):
    """Geometry, scenes, rate and search."""

    width: int = option(832, "pixels of a coded frame, a multiple of the model's unit", minimum=1)
    height: int = option(480, "pixels of a coded frame, a multiple of the model's unit", minimum=1)
    num_frames: int = option(81, "frames that the model makes at a time, 4n+1", name="CHUNK_FRAMES",
                             alias=("NUM_FRAMES",), minimum=1)
    resize: str = option("pad", "how frames are brought to WIDTH×HEIGHT: crop (cover and cut the centre), stretch or "
                         "pad (both undone on decode)", choices=("crop", "stretch", "pad"))
    start: str = option("0", "first frame of the source: its number, or a time such as 2.5s")
    frames: int = option(0, "how many frames to code; 0: to the end", minimum=0)
    fps: float = option(0.0, "frames per second to code; 0: the source's (24 for a folder)", minimum=0)
    audio: str = option("copy", "copy: the sound rides along as the packets it came as; none", choices=("copy", "none"))

    scenes: str = option("auto", "auto: cuts are detected; none: one scene; or a file with each scene's first frame")
    key_every: int = option(0, "every so many chunks one stands alone, so that decoding can start there; 0: only the "
                            "first of a scene", minimum=0)

    scene_theta: int = option(0, "length d of a θ for each scene, fitted to its chunks; 0: none", minimum=0,
                              maximum=1 << 24)
    scene_steps: int = option(1000, "optimiser steps of a scene's θ", minimum=1)
    scene_lr: float = option(0.05, "peak learning rate of a scene's θ", minimum=0)
    scene_crop: str = option("", "WIDTHxHEIGHTxFRAMES of random windows that a scene's θ is fitted to instead of whole "
                             "chunks: smaller ones make a fit of a large model cheaper")
    rank: int = option(1, "LoRA rank of a scene's θ", minimum=1, rare=True)
    lora_preset: str = option("", "which linears a scene's θ adapts: qkv, qkvo, qkvo_mlp; empty: the tree's first",
                              rare=True)

    bytes_per_frame: float = option(0.0, "rate of the noise; 0: from TARGET_BYTES or TARGET_KBPS, else the preset's "
                                    "usual one", minimum=0)
    usual_rate: float = option(60.0, "bytes of noise a frame where no rate is asked for", minimum=1, rare=True)
    steps: int = override(NoiseOptions, "steps", 40, help="sampler steps", minimum=2)
    score: str = override(NoiseOptions, "score", "blend")
    shift: float = option(3.0, "σ grid shift; 0: the model's own", minimum=0)
    seed: int = option(42, "of the decoder's noise and the candidates", minimum=0)

    def one_rate(self) -> None:
        """Raises VovError when two rates are asked for."""
        rates = ("bytes_per_frame", *rate_targets.SIZES, "target_psnr")
        asked = [f"`{name}`" for name in rates if getattr(self, name)]
        if len(asked) > 1:
            raise VovError(f"{' and '.join(asked)} are set; give one of them")

    def whole(self, frames: int, fps: float, size: tuple[int, int]) -> int:
        """Bytes that the file may have, sound apart; 0: no size was asked for. size: (width, height) of the source."""
        width, height = self.geometry(size).shown
        return rate_targets.whole(self, [(frames, height, width)], fps)

    def budget(self, frames: int, fps: float, size: tuple[int, int], fixed: int) -> float:
        """Bytes of noise for a video of so many frames, when everything else takes `fixed` bytes."""
        self.one_rate()
        if whole := self.whole(frames, fps, size):
            if whole - fixed < frames / 50:
                name = next(name for name in rate_targets.SIZES if getattr(self, name))
                raise VovError(f"`{name}`: {whole:,.0f} bytes are too few: {fixed:,} are needed besides noise; raise "
                               "it")
            return whole - fixed
        return (self.bytes_per_frame or self.usual_rate) * frames

    def jump(self, rate: float) -> int:
        """END_LEVEL in 1024ths, for `rate` bits a latent value."""
        level = jump_level(rate) if self.end_level < 0 else self.end_level
        if level >= 1:
            raise VovError(f"`end_level`={level:g}: must be below 1")
        return round(1024 * level) if self.steps > 2 else 0

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """How frames of this size are brought to the model's."""
        return Geometry(size, (self.width, self.height), self.resize)
