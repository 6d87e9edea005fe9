"""Models of the true shape with random weights: speed and memory can be measured where no weights can be had."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench.timing import Bench
from vov.config import option

if TYPE_CHECKING:  # --help needs no torch
    import numpy as np

    from vov.model.backbone import Backbone


@dataclass(frozen=True)
class Shape:
    """Of one model.

    Attributes:
        transformer, vae: arguments of diffusers' classes.
        text: tokens of a caption, and their width.
        clean_first_frame: as of `Backbone`.
    """

    tree: str
    transformer: dict[str, Any]
    vae: dict[str, Any] = field(default_factory=dict)
    text: tuple[int, int] = (512, 4096)
    clean_first_frame: bool = False


def wan(heads: int, size: int, ffn: int, layers: int, vae: dict[str, Any] | None = None, **more) -> Shape:
    """A shape of Wan's classes; more: further arguments of the transformer."""
    return Shape("video", {"num_attention_heads": heads, "attention_head_dim": size, "ffn_dim": ffn,
                           "num_layers": layers, "text_dim": 4096, "qk_norm": "rms_norm_across_heads", **more},
                 vae or {}, clean_first_frame="in_channels" in more)


VAE22 = {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12,
         "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48,
         "latents_std": [1.0] * 48}
SHAPES = {
    "wan2.1-1.3b": wan(12, 128, 8960, 30), "wan2.1-14b": wan(40, 128, 13824, 40),
    "wan2.2-ti2v-5b": wan(24, 128, 14336, 30, VAE22, in_channels=48, out_channels=48),
    "qwen-image": Shape("image", {}, text=(64, 3584)),  # 20 billion parameters; two sentences
    "tiny": wan(2, 12, 32, 2, {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}),
    "tiny-image": Shape("image", {"in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 16,
                                  "num_attention_heads": 3, "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)},
                        {"base_dim": 8, "num_res_blocks": 1}, (64, 16)),
}


@dataclass(frozen=True)
class ModelBench(Bench):
    """A bench of a model with random weights."""

    model: str = option("wan2.1-1.3b", "shape of the model; the tiny ones show whether it runs", choices=tuple(SHAPES))
    attention: str = option("auto", "as in the commands", choices=("auto", "cudnn", "flash"))
    quantize: str = option("none", "as in the commands", choices=("none", "fp8"))
    offload: str = option("none", "as in the commands", choices=("none", "blocks"))
    limit_gib: float = option(0.0, "GPU memory that may be used, in GiB; 0: all", minimum=0)
    profile: bool = option(False, "also where the time of a step goes, by kind of kernel")

    def build(self) -> Backbone:
        """The model, with the attention and within the memory that were asked for."""
        import torch

        made = random_model(self.model, self.device, self.quantize, self.offload)
        made.choose_attention(self.attention)
        if self.limit_gib and made.device.type == "cuda":
            torch.cuda.empty_cache()  # what building took does not count
            whole = torch.cuda.get_device_properties(made.device).total_memory / 2**30
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit_gib / whole))
        return made

    def frames(self) -> np.ndarray:
        """Random frames of the geometry, one for a picture: uint8 [T, H, W, 3]."""
        import numpy as np

        count = 1 if SHAPES[self.model].tree == "image" else self.num_frames
        return np.random.default_rng(0).integers(0, 256, (count, self.height, self.width, 3), np.uint8)


class NoiseCaptions:
    """A backbone whose captions are noise, always the same for the same one: no text encoder is needed."""

    text = (512, 4096)

    def embed(self, captions):
        """A condition for each caption."""
        import torch

        drawn = [torch.randn(1, *self.text, generator=torch.Generator().manual_seed(zlib.crc32(caption.encode())))
                 for caption in captions]
        return [{"text": text.to(self.device, self.dtype)} for text in drawn]


def random_model(name: str, device: str, quantize: str = "none", offload: str = "none") -> Backbone:
    """A backbone of the named shape on "cuda", "cpu" or "auto"; bfloat16 on a GPU."""
    import torch

    from vov.model.lookup import pick_device, pick_dtype
    from vov.model.memory import settle

    shape, place = SHAPES[name], pick_device(device)
    dtype = pick_dtype("auto", place)
    if shape.tree == "image":
        from vov.model.qwen import QwenBackbone as Kind
    else:
        from vov.model.wan import WanBackbone as Kind
    flow, autoencoder = Kind.classes()
    torch.set_default_device(place)
    if shape.tree == "image":
        torch.set_default_dtype(dtype)  # 20 billion parameters: twice as many bytes would not fit everywhere
    try:
        transformer = flow(**shape.transformer).to(dtype).requires_grad_(False)
        torch.set_default_dtype(torch.float32)
        vae = autoencoder(**shape.vae)
    finally:
        torch.set_default_device("cpu")
        torch.set_default_dtype(torch.float32)
    transformer = settle(transformer, Kind.blocks, place, dtype, quantize, offload)
    kind = type(f"Random{Kind.__name__}", (NoiseCaptions, Kind), {"text": shape.text})
    made = kind(Path("random"), name, transformer, vae, place, dtype, quantize)
    made.clean_first_frame = shape.clean_first_frame
    return made
