"""Models of the true shape with random weights: speed and memory can be measured where no weights can be had."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch

from vov.model.lookup import pick_device, pick_dtype
from vov.model.wan import WanBackbone

SHAPES = {  # of the transformer
    "wan2.1-1.3b": {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30},
    "wan2.1-14b": {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40},
    "wan2.2-ti2v-5b": {"num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336, "num_layers": 30,
                       "in_channels": 48, "out_channels": 48},
    "tiny": {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2},
}


VAES = {  # where it is not Wan2.1's
    "wan2.2-ti2v-5b": {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12,
                       "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48,
                       "latents_std": [1.0] * 48},
    "tiny": {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
}


class RandomWan(WanBackbone):
    """Its captions are noise, so no text encoder is needed."""

    def embed(self, captions):
        """A condition for each caption, random, but always the same for the same one."""
        drawn = [torch.randn(1, 512, 4096, generator=torch.Generator().manual_seed(zlib.crc32(caption.encode())))
                 for caption in captions]
        return [{"text": text.to(self.device, self.dtype)} for text in drawn]


def random_wan(model: str, device: str) -> RandomWan:
    """A Wan backbone of the named shape on "cuda", "cpu" or "auto"; bfloat16 on a GPU."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    place = pick_device(device)
    torch.set_default_device(place)
    transformer = WanTransformer3DModel(**SHAPES[model], text_dim=4096, qk_norm="rms_norm_across_heads")
    vae = AutoencoderKLWan(**VAES.get(model, {}))
    torch.set_default_device("cpu")
    dtype = pick_dtype("auto", place)
    made = RandomWan(Path("random"), model, transformer.to(dtype), vae, place, dtype)
    made.clean_first_frame = model == "wan2.2-ti2v-5b"
    return made
