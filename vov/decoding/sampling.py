"""One pass of the model: a picture, a clip or a chunk, which stands alone or follows a known frame. Encoders and
decoders sample by the same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vov.bitstream import Header
from vov.bitstream.noise_code import NoiseCode
from vov.decoding.replay import Replay, levels, textured
from vov.model.backbone import Backbone, Condition
from vov.model.flow import Velocity, decoder_noise, euler, sample


@dataclass(frozen=True, eq=False)
class Start:
    """Where a pass begins.

    number: of the pass in its file; its noise follows from it. noise: ε of the latent frames that are sampled.
    known: latent [1, C, 1, h, w] of the frame before, or None. known_noise: its ε.
    """

    number: int
    noise: Tensor
    known: Tensor | None = None
    known_noise: Tensor | None = None


class Sampling:
    """The model, with whatever adapts it at the moment, as the sampler that a header describes.

    Args:
        header: geometry, frames of a pass, sampler, seed.
    """

    def __init__(self, backbone: Backbone, header: Header):
        if not header.shift:  # 0 stands for the model's own
            header = replace(header, shift=backbone.native_shift(header.width, header.height))
        self.backbone, self.header = backbone, header

    def sigmas(self, start: int = 0, end: int = 0) -> list[float]:
        """The levels from 1 to 0; start, end: of a noise code, see `replay.levels`."""
        return levels(self.header, start, end)

    @cached_property
    def negative(self) -> Condition | None:
        """The condition that guidance leads away from; None without guidance."""
        return self.backbone.embed([self.header.negative_prompt])[0] if self.header.guidance != 1 else None

    def start(self, number: int, before: np.ndarray | None = None) -> Start:
        """The start of pass `number`; before: the decoded frame, uint8 [H, W, 3], that it follows."""
        header = self.header
        shape = self.backbone.latent_shape(header.width, header.height, header.num_frames)
        noise = decoder_noise(header.seed, shape, number, self.backbone.device)
        if before is None:
            return Start(number, noise)
        return Start(number, noise[:, :, 1:], self.backbone.latents(before[None]), noise[:, :, :1])

    def velocity(self, start: Start, condition: Condition) -> Velocity:
        """(x, t) → velocity of the latent frames that are sampled, with the header's guidance."""
        known, noise = start.known, start.known_noise
        if known is None or noise is None:
            return self.backbone.guided(condition, self.negative, self.header.guidance)
        return lambda x, t: self.backbone.velocity_after(x, t, condition, known, noise)

    @torch.no_grad()
    def latents(self, start: Start, velocity: Velocity, replay: Replay | None = None,
                textures: Sequence[float] = (0.0,)) -> list[Tensor]:
        """The latents that a pass ends in, one for each texture (`replay.textured`); they share all steps but the last.

        replay: injects coded noise on the way; without any there is no texture either.
        """
        if replay is None:
            return [sample(velocity, start.noise, self.sigmas(), self.header.sampler)] * len(textures)
        x = euler(velocity, start.noise, replay.sigmas[:-1], replay)
        return [self.jump(velocity, x, replay.sigmas, texture) for texture in textures]

    @torch.no_grad()
    def jump(self, velocity: Velocity, x: Tensor, sigmas: Sequence[float], texture: float = 0.0) -> Tensor:
        """The latents from the state x at the last level above 0, with `replay.textured`."""
        return euler(velocity, x, textured(sigmas, texture)[len(sigmas) - 2:])

    def frames(self, start: Start, latents: Tensor) -> np.ndarray:
        """The new frames, uint8 [n, H, W, 3], of sampled latents; the known one is not among them."""
        if start.known is None:
            return self.backbone.decode(latents)
        return self.backbone.decode(torch.cat((start.known, latents), dim=2))[1:]

    def show(self, condition: Condition, number: int = 0) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] of a pass that stands alone and has no coded noise."""
        start = self.start(number)
        (latents,) = self.latents(start, self.velocity(start, condition))
        return self.frames(start, latents)

    def replay(self, code: NoiseCode, number: int = 0,
               on_theta_end: Callable[[], None] | None = None) -> Replay:
        """The coded noise of pass `number`; code: with the symbols of this pass alone."""
        return Replay(code, self.sigmas(code.start, code.end), self.header.seed, number, on_theta_end)
