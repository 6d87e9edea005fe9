"""Qwen-Image behind the backbone interface, over diffusers' own classes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vov import VovError
from vov.model.backbone import Backbone, Condition
from vov.model.registry import USUAL

if TYPE_CHECKING:
    from vov.model.parts import Transformer, Vae

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
OUTPUT = ("attn.to_out.0",)
MLP = tuple(f"{mlp}.net.{layer}" for mlp in ("img_mlp", "txt_mlp") for layer in ("0.proj", "2"))


class QwenBackbone(Backbone):
    """Qwen-Image (20B, or a small model of the same classes).

    A picture is a clip of one frame: pixels [1, 3, 1, H, W], latents [1, 16, 1, H/8, W/8]. The transformer reads
    2×2 patches of latents as tokens of 64 channels; packing happens in `predict` alone.
    A condition is {"text": [B, L, D]}, and {"mask": bool [B, L]} where captions of unequal length meet.
    """

    tree = "image"
    usual_model = USUAL["image"]
    blocks = "transformer_blocks"
    presets = {"qkvo": ATTENTION + OUTPUT, "qkv": ATTENTION, "qkvo_mlp": ATTENTION + OUTPUT + MLP}  # noqa: RUF012

    def __init__(self, path: Path, name: str, transformer: Transformer, vae: Vae, device: torch.device,
                 dtype: torch.dtype, quantize: str = "none"):
        super().__init__(path, name, transformer, vae, device, dtype, quantize)
        self.spatial = 2 ** len(vae.temperal_downsample)
        self.unit = self.spatial * transformer.config.patch_size
        # The model casts t to its dtype before embedding it: in bfloat16, 1000·t near 1000 moves in steps of 4.
        self._time: Tensor | None = None
        transformer.time_text_embed.register_forward_pre_hook(self._exact_time)

    @staticmethod
    def classes() -> tuple[type[Transformer], type[Vae]]:
        from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

        return cast("type[Transformer]", QwenImageTransformer2DModel), cast("type[Vae]", AutoencoderKLQwenImage)

    def check_geometry(self, width: int, height: int, frames: int = 1) -> None:
        if width % self.unit or height % self.unit:
            raise VovError(f"`width`={width} `height`={height}: both must be multiples of {self.unit}, nearest are "
                           f"{max(1, round(width / self.unit)) * self.unit} and "
                           f"{max(1, round(height / self.unit)) * self.unit}; or 0 for the picture's own size")
        if frames != 1:
            raise VovError(f"{frames} frames: the image tree codes pictures; use the video tree for clips")

    def latent_shape(self, width: int, height: int, frames: int = 1) -> tuple[int, ...]:
        return (1, self.vae.config.z_dim, 1, height // self.spatial, width // self.spatial)

    def native_shift(self, width: int, height: int) -> float:
        """e^μ of the scheduler's dynamic shift, where μ is linear in the number of tokens.

        Its `shift_terminal` (the last σ stretched to 0.02) is left out: it is undefined for one step and the
        decoder's grid ends at 0 anyway.
        """
        path = self.path / "scheduler" / "scheduler_config.json"
        config = json.loads(path.read_text()) if path.is_file() else {"use_dynamic_shifting": True}
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        tokens = width * height / self.unit**2
        return math.exp(low + (high - low) * (tokens - few) / (many - few))

    @torch.no_grad()
    def embed_text(self, captions: Sequence[str]) -> list[Condition]:
        from diffusers import QwenImagePipeline

        try:
            pipeline = QwenImagePipeline.from_pretrained(self.path, transformer=None, vae=None, dtype=self.dtype)
        except (OSError, ValueError, KeyError) as error:
            raise VovError(f"{self.path}: the text encoder or tokenizer is incomplete "
                           f"({str(error).splitlines()[0]}); fetch it again with scripts/fetch_models.sh") from error
        encoder, place = pipeline.text_encoder, self.device
        if place.type == "cuda":  # beside the transformer it may not fit; the host is slow, but it is asked only once
            size = sum(p.numel() * p.element_size() for p in encoder.parameters())
            place = place if size * 1.1 < torch.cuda.mem_get_info(place)[0] else torch.device("cpu")
        encoder.to(place)
        # One by one: nothing is padded, so the mask that the pipeline returns is None.
        return [{"text": pipeline.encode_prompt(caption, device=place)[0].to(self.dtype)} for caption in captions]

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        """Text padded at its end to the longest, and a mask if any is shorter: masked tokens change nothing."""
        texts = [condition["text"] for condition in conditions]
        longest = max(text.shape[1] for text in texts)
        padded = torch.cat([torch.nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in texts])
        if all(text.shape[1] == longest for text in texts):
            return {"text": padded}  # attention without a mask is faster
        lengths = torch.tensor([text.shape[1] for text in texts], device=padded.device)
        return {"text": padded, "mask": torch.arange(longest, device=padded.device) < lengths[:, None]}

    def _exact_time(self, _: object, inputs: tuple) -> tuple:
        return inputs if self._time is None else (self._time, *inputs[1:])

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        batch, _, _, height, width = x.shape
        self._time = t
        velocity = self.transformer(
            hidden_states=pack(x), timestep=t, encoder_hidden_states=condition["text"],
            encoder_hidden_states_mask=condition.get("mask"), img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False)[0]
        self._time = None
        return unpack(velocity, height, width)

    def guided(self, condition: Condition, negative: Condition | None, guidance: float) -> Callable:
        """As Qwen-Image's pipeline: the guided velocity of every token keeps the length of the conditional one."""
        if negative is None or guidance == 1.0:
            return super().guided(condition, negative, guidance)

        def rescaled(x: Tensor, t: float) -> Tensor:
            height, width = x.shape[-2:]
            base, plain = pack(self.velocity(x, t, negative)), pack(self.velocity(x, t, condition))
            both = base + guidance * (plain - base)
            return unpack(both * (plain.norm(dim=-1, keepdim=True) / both.norm(dim=-1, keepdim=True)), height, width)

        return rescaled


def pack(x: Tensor) -> Tensor:
    """[B, C, 1, h, w] → tokens [B, h·w/4, 4·C], row by row; a token holds channel, then row and column in its patch."""
    batch, channels, _, height, width = x.shape
    patches = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of height×width."""
    batch, _, size = tokens.shape
    patches = tokens.view(batch, height // 2, width // 2, size // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, size // 4, 1, height, width)
