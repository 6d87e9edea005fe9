"""Wan2.1 text-to-video behind the backbone interface, over diffusers' own classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vov import VovError
from vov.model.backbone import Backbone, Condition
from vov.model.registry import USUAL

if TYPE_CHECKING:
    from vov.model.parts import Transformer, Vae

ATTENTION = tuple(f"{attn}.{proj}" for attn in ("attn1", "attn2") for proj in ("to_q", "to_k", "to_v"))
OUTPUT = ("attn1.to_out.0", "attn2.to_out.0")
MLP = ("ffn.net.0.proj", "ffn.net.2")


class WanBackbone(Backbone):
    """Wan2.1-T2V (1.3B, 14B, or a small model of the same classes).

    Clips have 4n+1 frames (VAE: the first frame alone, then 4 per latent frame); sizes are multiples of the VAE's
    8 pixels times the patch of 2.
    """

    tree = "video"
    usual_model = USUAL["video"]
    blocks = "blocks"
    presets = {"qkvo": ATTENTION + OUTPUT, "qkv": ATTENTION, "qkvo_mlp": ATTENTION + OUTPUT + MLP}  # noqa: RUF012
    max_tokens = 512  # as WanPipeline calls its text encoder

    def __init__(self, path: Path, name: str, transformer: Transformer, vae: Vae, device: torch.device,
                 dtype: torch.dtype, quantize: str = "none"):
        super().__init__(path, name, transformer, vae, device, dtype, quantize)
        self.temporal = 2 ** sum(vae.temperal_downsample)
        self.spatial = 2 ** len(vae.temperal_downsample) * (vae.config.patch_size or 1)
        self.unit = self.spatial * transformer.config.patch_size[1]
        index = path / "model_index.json"
        self.clean_first_frame = index.is_file() and bool(json.loads(index.read_text()).get("expand_timesteps"))

    @staticmethod
    def classes() -> tuple[type[Transformer], type[Vae]]:
        from diffusers import AutoencoderKLWan, WanTransformer3DModel

        return cast("type[Transformer]", WanTransformer3DModel), cast("type[Vae]", AutoencoderKLWan)

    def check_geometry(self, width: int, height: int, frames: int) -> None:
        if width % self.unit or height % self.unit:
            raise VovError(f"`width`={width} `height`={height}: both must be multiples of {self.unit}; nearest are "
                           f"{max(1, round(width / self.unit)) * self.unit} and "
                           f"{max(1, round(height / self.unit)) * self.unit}")
        if frames % self.temporal != 1:
            below = (frames - 1) // self.temporal * self.temporal + 1
            above, middle = below + self.temporal, below + self.temporal / 2
            nearest = f"nearest are {below} and {above}" if frames == middle else (
                f"nearest is {below if frames < middle else above}")
            raise VovError(f"`num_frames`={frames}: must be {self.temporal}n+1; {nearest}")
        longest = self.transformer.config.rope_max_seq_len  # positions along each axis
        if max((frames - 1) // self.temporal + 1, height // self.unit, width // self.unit) > longest:
            raise VovError(f"`num_frames`={frames} `width`={width} `height`={height}: the model knows at most "
                           f"{(longest - 1) * self.temporal + 1} frames of {longest * self.unit} pixels a side; use "
                           "fewer")

    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, ...]:
        return (1, self.vae.config.z_dim, (frames - 1) // self.temporal + 1,
                height // self.spatial, width // self.spatial)

    def native_shift(self, width: int, height: int) -> float:
        return 5.0 if width * height > 832 * 480 * 1.2 else 3.0  # Wan's advice for 720p and for 480p

    @torch.no_grad()
    def embed_text(self, captions: Sequence[str]) -> list[Condition]:
        from diffusers import WanPipeline

        try:
            pipeline = WanPipeline.from_pretrained(self.path, transformer=None, vae=None, dtype=self.dtype)
        except (OSError, ValueError, KeyError) as error:
            raise VovError(f"{self.path}: the text encoder or tokenizer is incomplete "
                           f"({str(error).splitlines()[0]}); fetch it again with scripts/fetch_models.sh") from error
        encoder = pipeline.text_encoder
        # UMT5 ties its input embedding; an untied one would be random and every caption noise.
        if encoder.encoder.embed_tokens.weight.data_ptr() != encoder.shared.weight.data_ptr():
            encoder.encoder.embed_tokens.weight = encoder.shared.weight
        encoder.to(self.device)
        tokens = min(self.max_tokens, pipeline.tokenizer.model_max_length)
        found = []
        for caption in captions:
            embedding, _ = pipeline.encode_prompt(caption, do_classifier_free_guidance=False,
                                                  max_sequence_length=tokens, device=self.device, dtype=self.dtype)
            found.append({"text": embedding})
        return found

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if t.dim() == 2:  # every token gets the time of its frame
            depth, height, width = self.transformer.config.patch_size
            t = t[:, ::depth].repeat_interleave((x.shape[3] // height) * (x.shape[4] // width), dim=1)
        return self.transformer(hidden_states=x, timestep=t * 1000, encoder_hidden_states=condition["text"],
                                return_dict=False)[0]
