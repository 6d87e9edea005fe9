"""What a frozen foundation model must offer, and what all of them share.

A tree implements `Backbone` once (vov/model/wan.py: Wan2.1, vov/model/qwen.py: Qwen-Image). Everything else
in this package works on latents [B, C, T, h, w] (T = 1 for images), a time in [0, 1] and a condition.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from vov import VovError
from vov.bitstream import Header
from vov.model import fingerprint, speed
from vov.model.attention import choose_attention
from vov.model.cache import cached, kept
from vov.model.lookup import find_model, own_memory, pick_device, pick_dtype, public_name, quiet_libraries
from vov.model.memory import load_transformer, split_precision, tile_vae, tiles
from vov.runtime.files import content_hash

if TYPE_CHECKING:
    from vov.model.parts import Transformer, Vae

Condition = dict[str, Tensor]  # what the transformer needs of a caption; every tensor has batch size 1


class Backbone(abc.ABC):
    """A frozen text-to-image or text-to-video flow model.

    Attributes:
        transformer: the flow network, frozen, in `dtype`; the only part that is adapted.
        vae: the autoencoder, frozen, float32.
        name: what a file's header calls this model.
        precision: dtype and quantisation, as in a file's header: "float32", "bfloat16-fp8", …
        unit: width and height must be multiples of this many pixels.
        spatial: pixels a side of one latent value.
        temporal: frames of a latent frame; the first one is of one frame alone.
        blocks: dotted name of the list of transformer blocks.
        presets: which linears of a block each LORA_PRESET adapts.
        clean_first_frame: whether the transformer takes a time for each latent frame, so that a known first one is
            given clean, at t = 0 (Wan2.2-TI2V's `expand_timesteps`).
        attention: the attention kernel that was chosen for a large model on a recent GPU; empty: PyTorch chooses.
        usual_model: hub id of the tree's model, where neither a file nor the user names one.
    """

    tree: str
    usual_model: str
    unit: int = 16
    spatial: int = 8
    temporal: int = 1
    clean_first_frame: bool = False
    blocks: ClassVar[str]
    presets: ClassVar[dict[str, tuple[str, ...]]]
    transformer: Transformer
    vae: Vae

    def __init__(self, path: Path, name: str, transformer: Transformer, vae: Vae, device: torch.device,
                 dtype: torch.dtype, quantize: str = "none"):
        self.path, self.name, self.device, self.dtype = path, name, device, dtype
        self.transformer, self.vae = transformer.eval().requires_grad_(False), vae.eval().requires_grad_(False)
        speed.lay_out(self.vae, device)
        self.choose_attention()
        self.precision = str(dtype).removeprefix("torch.") + ("" if quantize == "none" else f"-{quantize}")
        shape = (1, vae.config.z_dim, 1, 1, 1)
        self.mean = torch.tensor(vae.config.latents_mean, device=device).view(shape)
        self.std = torch.tensor(vae.config.latents_std, device=device).view(shape)
        self.retake_fingerprint()

    @classmethod
    def load(cls, model_id: str, cache_dir: str, device: str = "auto", precision: str = "auto",
             trusted: bool = True, offload: str = "none") -> Backbone:
        """Loads transformer and VAE from a local folder or Hugging Face cache; see `find_model`.

        `precision` is a dtype or "auto", with "-fp8" or "-nf4" for a quantised base; `offload` as in `memory`.
        """
        quiet_libraries()
        path, place = find_model(model_id, cache_dir, trusted), pick_device(device)
        dtype, quantize = split_precision(precision)
        kind = pick_dtype(dtype, place)
        flow, autoencoder = cls.classes()
        cls.refuse_other_class(path, flow.__name__)
        try:
            transformer = load_transformer(flow, path, cls.blocks, place, kind, quantize, offload)
            vae = autoencoder.from_pretrained(path, subfolder="vae", dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise VovError(f"{path}: not a complete {flow.__name__.split('Transformer')[0]} model "
                           f"({str(error).splitlines()[0]}); fetch it again with scripts/fetch_models.sh") from error
        if place.type == "cpu" and quantize == "none":
            own_memory(transformer)
        own_memory(vae)
        return cls(path, public_name(model_id, path), transformer, vae.to(place), place, kind, quantize)

    def choose_attention(self, wanted: str = "auto") -> None:
        """Takes a kernel for attention, `attention.CHOICES`; its name is `self.attention`."""
        self.attention = choose_attention(self.transformer, self.device, wanted)

    @classmethod
    def refuse_other_class(cls, path: Path, wanted: str) -> None:
        """Raises VovError when the model in a folder is of another kind than this tree's."""
        try:
            found = json.loads((path / "transformer" / "config.json").read_bytes()).get("_class_name", wanted)
        except (OSError, ValueError, AttributeError):
            return  # diffusers will say what is wrong with it
        if found != wanted:
            raise VovError(f"{path}: holds a {found!s:.60}, but the {cls.tree} tree runs a {wanted}; set `model_id` to "
                           "a model of this tree, or use the other tree's command")

    @staticmethod
    @abc.abstractmethod
    def classes() -> tuple[type[Transformer], type[Vae]]:
        """diffusers' classes of the transformer and the VAE."""

    @abc.abstractmethod
    def check_geometry(self, width: int, height: int, frames: int) -> None:
        """Raises VovError when the model cannot represent clips of this size."""

    @abc.abstractmethod
    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, ...]:
        """(1, C, T, h, w) of the latents of a clip."""

    @abc.abstractmethod
    def native_shift(self, width: int, height: int) -> float:
        """The σ shift that the model's own pipeline uses at this size."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """[1, 3, T, H, W] in [−1, 1] → normalised latents [1, C, T', h, w], float32."""
        tile_vae(self.vae, pixels.shape[-2] * pixels.shape[-1], self.spatial)
        return (self.vae.encode(pixels).latent_dist.mode() - self.mean) / self.std

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Normalised latents [1, C, T', h, w] → pixels [1, 3, T, H, W], nominally in [−1, 1]; differentiable."""
        tile_vae(self.vae, latents.shape[-2] * latents.shape[-1] * self.spatial**2, self.spatial)
        return self.vae.decode(latents * self.std + self.mean, return_dict=False)[0]

    @abc.abstractmethod
    def embed_text(self, captions: Sequence[str]) -> list[Condition]:
        """Loads the text encoder, embeds each caption alone, frees the encoder."""

    @abc.abstractmethod
    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity [B, C, T, h, w] in the model's dtype at x, times t [B], under a condition of batch B.

        Where `clean_first_frame` is true, t may be [B, T]: a time for each latent frame.
        """

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        """Conditions of batch 1 as one of batch B, for fits of several items."""
        return {k: torch.cat([condition[k] for condition in conditions]) for k in conditions[0]}

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition) -> Tensor:
        """float32 velocity at x [B, C, T, h, w]; a condition of batch 1 is shared by the whole batch.

        t: one number, [B], or [B, T] (see `predict`).
        """
        batch = x.shape[0]
        t = torch.as_tensor(t, dtype=torch.float32, device=x.device)
        t = t if t.dim() == 2 else t.expand(batch)
        condition = {k: v.expand(batch, *v.shape[1:]) if v.shape[0] != batch else v for k, v in condition.items()}
        return self.predict(x.to(self.dtype), t, condition).float()

    def velocity_after(self, x: Tensor, t: float, condition: Condition, known: Tensor, noise: Tensor) -> Tensor:
        """float32 velocity of the latent frames x [1, C, T − 1, h, w] that follow a known one.

        Args:
            known: the first latent frame [1, C, 1, h, w]: given clean at time 0 where the model takes a time for each
                frame; else put in place noised like the rest ("replacement", Song et al. 2021, appendix I.2).
            noise: ε [1, C, 1, h, w] of that frame, for replacement.
        """
        if self.clean_first_frame:
            times = torch.full((1, x.shape[2] + 1), t, device=x.device)
            times[:, 0] = 0
            return self.velocity(torch.cat((known, x), dim=2), times, condition)[:, :, 1:]
        first = (1 - t) * known + t * noise
        return self.velocity(torch.cat((first, x), dim=2), t, condition)[:, :, 1:]

    def guided(self, condition: Condition, negative: Condition | None, guidance: float) -> Callable:
        """(x, t) → velocity with classifier-free guidance; without a negative condition or at 1 it is off."""
        def plain(x: Tensor, t: float) -> Tensor:
            return self.velocity(x, t, condition)

        if negative is None or guidance == 1.0:
            return plain

        def both(x: Tensor, t: float) -> Tensor:
            base = self.velocity(x, t, negative)
            return base + guidance * (self.velocity(x, t, condition) - base)

        return both

    def embed(self, captions: Sequence[str]) -> list[Condition]:
        """Conditions of captions on the model's device; the text encoder runs only for captions not cached."""
        made_with = self.fingerprint(), str(self.dtype), self.device.type
        keys = {caption: content_hash("text", *made_with, caption) for caption in captions}
        found = {caption: known for caption, key in keys.items() if (known := kept("text", key)) is not None}
        missing = [caption for caption in keys if caption not in found]
        if missing:
            for caption, condition in zip(missing, self.embed_text(missing), strict=True):
                found[caption] = cached("text", keys[caption], partial(dict, condition))
        return [{k: v.to(self.device) for k, v in found[caption].items()} for caption in captions]

    @torch.no_grad()
    def latents(self, frames: np.ndarray) -> Tensor:
        """uint8 RGB [T, H, W, 3] → normalised latents [1, C, T', h, w], float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(3, 0, 1, 2)[None]
        return self.encode_pixels(pixels.float() / 127.5 - 1)

    def encode(self, frames: np.ndarray) -> Tensor:
        """`latents`, kept in the cache."""
        data = np.ascontiguousarray(frames).data
        key = content_hash("latents", self.fingerprint(), self.device.type, frames.shape, data,
                           *tiles(frames.shape[1] * frames.shape[2]))
        return cached("latents", key, lambda: {"latents": self.latents(frames)})["latents"].to(self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Normalised latents [1, C, T', h, w] → uint8 RGB [T, H, W, 3]. Raises VovError for any that are not finite."""
        pixels = self.decode_pixels(latents.float())[0]
        if not torch.isfinite(pixels).all():
            raise VovError(f"the frames that were decoded in {self.precision} are not finite, so there is nothing to "
                           "show; set `dtype`=float32, or fit again with a lower `lr`")
        levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.permute(1, 2, 3, 0).cpu().numpy()

    def fingerprint(self) -> bytes:
        """8 bytes that name this model by its content; new files and all cache keys hold them."""
        return self._fingerprints[0]

    def recognises(self, fingerprint: bytes) -> bool:
        """Whether a file or checkpoint with this fingerprint, of whatever version, was made with this model."""
        return fingerprint in self._fingerprints

    @classmethod
    def refuse_other_tree(cls, header: Header, source: str) -> None:
        """Raises VovError for a file of the other tree."""
        if header.tree != cls.tree:
            raise VovError(f"{source}: is a file of the {header.tree} tree; use the commands of that tree")

    def refuse_stranger(self, header: Header, source: str) -> None:
        """Raises VovError when a file's header was made for another tree, model or geometry than this model's."""
        self.refuse_other_tree(header, source)
        if not self.recognises(header.fingerprint):
            raise VovError(f"{source}: was made with {header.model_id}, fingerprint {header.fingerprint.hex()}; the "
                           f"model at hand has {self.fingerprint().hex()}; give the very model it was made with, "
                           "text encoder and tokenizer included")
        self.check_geometry(header.width, header.height, header.num_frames)

    def retake_fingerprint(self) -> None:
        """Looks at the weights anew; for whoever changes them on purpose. Not while layers are replaced."""
        self._fingerprints = (fingerprint.version_2(self.transformer, self.vae, self.path),
                              fingerprint.version_1(self.transformer, self.vae))
