"""The parts of a foundation model as a type checker should see them; diffusers' own classes stand behind these at run
time, and what those say of themselves does not reach it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class Part(nn.Module):
    """Of a diffusers folder. config: its config.json as attributes."""

    config: Any
    from_pretrained: ClassVar[Callable[..., Any]]


class Transformer(Part):
    """A flow network. eager_only, streamed: see `memory`."""

    eager_only: bool
    streamed: bool
    time_text_embed: nn.Module
    enable_layerwise_casting: Callable[..., None]


class Vae(Part):
    """An autoencoder: pixels [B, 3, T, H, W] in −1…1 to latents and back."""

    use_tiling: bool
    temperal_downsample: list[bool]
    spatial_compression_ratio: int
    enable_tiling: Callable[..., None]
    encode: Callable[[Tensor], Any]
    decode: Callable[..., tuple[Tensor]]
