"""Standard LoRA files: the expanded A and B, for diffusers' `load_lora_weights` and for ComfyUI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vov import VovError
from vov.formats.tensors import finite, write_tensors

WAN_NAMES = {f"{ours}.{proj}": f"{theirs}.{short}" for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
             for proj, short in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))}
WAN_NAMES |= {"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"}  # diffusers' names of a block's linears → Wan's own


def write_lora(path: str | Path, names: Sequence[str], factors: Sequence[tuple[Tensor, Tensor]], tree: str,
               metadata: Mapping[str, Any] | None = None) -> None:
    """Writes the A and B of every layer as a LoRA of scale 1, float32.

    Opens with `WanPipeline.load_lora_weights` or `QwenImagePipeline.load_lora_weights` (outputs equal to the bit in
    float32) and in ComfyUI. Wan's layers have the names of Wan's own checkpoints, which both know; Qwen-Image's are
    called the same everywhere.

    Args:
        names: dotted names of the linears in diffusers' transformer (`Adapter.names`).
        factors: (A [r, in], B [out, r]) per layer, as `Projection.factors` returns them.
        tree: "video" (Wan) or "image" (Qwen-Image).
        metadata: caption, model_id, ... as strings or numbers; the rank is added.
    """
    if tree not in ("video", "image"):
        raise VovError(f"{path}: tree {tree!r}; choose video or image")
    tensors, ranks = {}, set()
    for name, (a, b) in zip(names, factors, strict=True):
        renamed = tree == "video"
        key = _wan_name(path, name) if renamed else f"transformer.{name}"
        tensors[f"{key}.lora_A.weight"] = finite(path, f"{key}.lora_A.weight", a)
        tensors[f"{key}.lora_B.weight"] = finite(path, f"{key}.lora_B.weight", b)
        if renamed:  # diffusers trips over .alpha beside names of its own; without it the scale is 1 everywhere
            tensors[f"{key}.alpha"] = torch.tensor(float(a.shape[0]))
        ranks.add(a.shape[0])
    if not ranks:
        raise VovError(f"{path}: there are no layers to write; check `lora_preset` and `last_k`")
    notes = {"rank": max(ranks), **(metadata or {})}
    write_tensors(path, tensors, {"format": "pt"} | {key: str(value) for key, value in notes.items()})


def _wan_name(path: str | Path, name: str) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if not match or match[2] not in WAN_NAMES:
        raise VovError(f"{path}: {name}: has no name in a LoRA for Wan; export with `format`=peft")
    return f"diffusion_model.blocks.{match[1]}.{WAN_NAMES[match[2]]}"
