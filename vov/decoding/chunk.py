"""One pass of the model: a chunk of frames that stands alone or follows a known one. Shared by both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vov.bitstream import Header
from vov.bitstream.noise_code import NoiseCode
from vov.decoding.replay import Replay, levels, textured
from vov.model.backbone import Backbone, Condition
from vov.model.flow import Velocity, decoder_noise, euler


@dataclass(frozen=True, eq=False)
class Start:
    """Where a chunk's sampler starts.

    noise: ε of the latent frames that are sampled. known: latent [1, C, 1, h, w] of the frame before, or None.
    """

    noise: Tensor
    known: Tensor | None
    known_noise: Tensor | None


class ChunkModel:
    """The frozen model as a coder of chunks.

    Args:
        header: of the sequence: geometry, frames of a chunk, sampler, seed.
    """

    def __init__(self, backbone: Backbone, header: Header):
        self.backbone, self.header = backbone, header

    def sigmas(self, noise: dict[str, int]) -> list[float]:
        """The sampler's levels of a sequence with these NOISE_FIELDS."""
        return levels(self.header, noise["start"], noise["end"])

    def start(self, number: int, before: np.ndarray | None) -> Start:
        """The start of chunk `number`; before: the last decoded frame, uint8 [H, W, 3], of a chained chunk."""
        header = self.header
        shape = self.backbone.latent_shape(header.width, header.height, header.num_frames)
        noise = decoder_noise(header.seed, shape, number, self.backbone.device)
        if before is None:
            return Start(noise, None, None)
        return Start(noise[:, :, 1:], self.backbone.latents(before[None]), noise[:, :, :1])

    def velocity(self, start: Start, condition: Condition) -> Velocity:
        """(x, t) → velocity of the latent frames that are sampled."""
        if start.known is None:
            return lambda x, t: self.backbone.velocity(x, t, condition)
        return lambda x, t: self.backbone.velocity_after(x, t, condition, start.known, start.known_noise)

    def frames(self, start: Start, latents: Tensor) -> np.ndarray:
        """The new frames, uint8 [n, H, W, 3], of sampled latents; the known one is not among them."""
        if start.known is None:
            return self.backbone.decode(latents)
        return self.backbone.decode(torch.cat((start.known, latents), dim=2))[1:]

    @torch.no_grad()
    def replay(self, number: int, code: NoiseCode, sigmas: Sequence[float], condition: Condition,
               before: np.ndarray | None, texture: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Decodes chunk `number` from its noise: (as the encoder saw it, with `replay.textured`), uint8 [n, H, W, 3].

        The next chunk follows the first of the two.
        """
        start = self.start(number, before)
        hook = Replay(code, sigmas, self.header.seed)
        hook.base = number * (len(sigmas) - 1)  # candidates of its own for every chunk
        velocity = self.velocity(start, condition)
        x = euler(velocity, start.noise, sigmas[:-1], hook)
        frames = self.frames(start, euler(velocity, x, sigmas[-2:]))
        if not texture:
            return frames, frames
        return frames, self.frames(start, euler(velocity, x, textured(sigmas, texture)[len(sigmas) - 2:]))
