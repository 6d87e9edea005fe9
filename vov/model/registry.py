"""The foundation models that this program knows: one entry a medium. docs/develop says how to add one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vov.model.backbone import Backbone

BACKBONES = {"video": ("vov.model.wan", "WanBackbone"), "image": ("vov.model.qwen", "QwenBackbone")}
TRANSFORMERS = {"WanTransformer3DModel": "video", "QwenImageTransformer2DModel": "image"}  # diffusers' classes
USUAL = {"video": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "image": "Qwen/Qwen-Image"}  # where nobody names a model


def backbone_class(medium: str) -> type[Backbone]:
    """The class behind a medium, "video" or "image"; imports torch and diffusers."""
    module, name = BACKBONES[medium]
    return getattr(import_module(module), name)
