"""The parts of a foundation model, as far as they are used here. diffusers' own classes stand behind these at run time;
what they say of themselves does not reach a type checker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """Of a diffusers folder."""

    config: Any  # of attributes, those of the part's config.json

    @classmethod
    def from_pretrained(cls, path: Path, *, subfolder: str, dtype: torch.dtype, **how: Any) -> Any:
        """Reads it."""
        raise NotImplementedError


class Transformer(Part):
    """A flow network. eager_only, streamed: see `memory`."""

    time_text_embed: nn.Module  # of Qwen-Image's
    eager_only: bool
    streamed: bool

    def enable_layerwise_casting(self, *, storage_dtype: torch.dtype, compute_dtype: torch.dtype) -> None:
        """Stores the weights of linears in another type."""
        raise NotImplementedError


class Vae(Part):
    """An autoencoder."""

    temperal_downsample: Sequence[bool]  # diffusers' spelling
    use_tiling: bool
    spatial_compression_ratio: int

    def enable_tiling(self, height: int, width: int, stride_height: int, stride_width: int) -> None:
        """Works in tiles of so many pixels."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Any:
        """Has `latent_dist`."""
        raise NotImplementedError

    def decode(self, latents: Tensor, *, return_dict: bool) -> tuple[Tensor]:
        """Pixels."""
        raise NotImplementedError
