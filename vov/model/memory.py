"""Fitting a large frozen model into a small GPU: quantised weights, and blocks that visit the GPU one at a time.

Both change only where frozen weights live. A quantised base computes other values than the full one, so files name
it ("bfloat16-fp8") and its fingerprint differs; streaming changes no value.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vov import VovError

if TYPE_CHECKING:
    from diffusers import BitsAndBytesConfig

    from vov.model.parts import Transformer, Vae

QUANTISED = ("fp8", "nf4")
TILED_ABOVE = 1280 * 720  # pixels of a frame beyond which the VAE works in tiles
TILE, TILE_STRIDE = 512, 384  # pixels; where tiles overlap, they are blended


def split_precision(precision: str) -> tuple[str, str]:
    """A header's "bfloat16-fp8" → ("bfloat16", "fp8"); "auto" → ("auto", "none")."""
    dtype, _, quantize = precision.partition("-")
    return dtype, quantize or "none"


def load_transformer(kind: type[Transformer], path: Path, blocks: str, device: torch.device, dtype: torch.dtype,
                     quantize: str = "none", offload: str = "none") -> Transformer:
    """`kind.from_pretrained` of path/transformer: frozen, in `dtype`, quantised, on the device.

    Args:
        kind: a diffusers model class.
        blocks: dotted name of the list of transformer blocks.
        quantize: none; fp8 (weights of linears stored as float8_e4m3fn, computed in `dtype`: half the memory);
            nf4 (bitsandbytes' 4-bit floats: a quarter).
        offload: none; blocks (they stay in pinned host memory and visit the GPU one after the other).
    Raises:
        VovError: bitsandbytes is missing or has no GPU, or a combination that cannot work.
    """
    extra: dict[str, Any] = {}
    if quantize == "nf4":
        if offload != "none":
            raise VovError("`quantize`=nf4 cannot stream its blocks; use `offload`=none, or `quantize`=fp8")
        extra["quantization_config"] = _nf4(device, dtype)
    model = kind.from_pretrained(path, subfolder="transformer", dtype=dtype, **extra).eval().requires_grad_(False)
    return settle(model, blocks, device, dtype, quantize, offload)


def settle(model: Transformer, blocks: str, device: torch.device, dtype: torch.dtype, quantize: str,
           offload: str) -> Transformer:
    """Puts a loaded model where and how its weights shall stay; the second half of `load_transformer`."""
    if quantize == "fp8":  # before any adapter: the hooks belong to the frozen layers alone
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        model.eager_only = True  # its hooks would break every compiled block into pieces
    if offload == "blocks":
        return stream_blocks(model, blocks, device)
    return model if quantize == "nf4" else model.to(device)


def tiles(pixels: int) -> tuple[int, ...]:
    """(side, stride) of the tiles in which the VAE works on frames of so many pixels, in pixels; () when it sees them
    whole. Tiles change values, so the size alone decides, never the memory at hand: encoder and decoder agree."""
    return (TILE, TILE_STRIDE) if pixels > TILED_ABOVE else ()


def tile_vae(vae: Vae, pixels: int, spatial: int) -> None:
    """Sets diffusers' VAE to work on frames of so many pixels in blended tiles, or whole, as `tiles` says.

    spatial: pixels a side of one latent value.
    """
    vae.use_tiling = bool(tiles(pixels))
    if vae.use_tiling:
        side, stride = tiles(pixels)
        vae.spatial_compression_ratio = spatial  # diffusers takes it from the config, which may not say
        vae.enable_tiling(side, side, stride, stride)


def _nf4(device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise VovError("`quantize`=nf4 needs bitsandbytes; pip install bitsandbytes, or use `quantize`=fp8") from None
    if device.type != "cuda":
        raise VovError("`quantize`=nf4 needs a CUDA GPU; use `quantize`=fp8 or none")
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def stream_blocks(model: Transformer, blocks: str, device: torch.device) -> Transformer:
    """Keeps the blocks of `model` on the host and gives each its weights on `device` for one call only.

    diffusers' group offloading moves a parameter's storage back after the forward pass, under the feet of autograd;
    here a block computes with copies, which the graph keeps exactly as long as it needs them. Together with
    recomputation (`speed.checkpoint_blocks`, applied on top) at most a few blocks are on the GPU at a time. The next
    block's copy runs on a stream of its own while this one computes, forwards and backwards alike.
    """
    listed = list(model.get_submodule(blocks).children())
    for block in listed:
        for parameter in block.parameters():
            parameter.data = parameter.data.to("cpu")
            if device.type == "cuda":
                parameter.data = parameter.data.pin_memory()
    streamed = {id(module) for block in listed for module in block.modules()}
    for module in model.modules():  # everything else moves for good
        if id(module) not in streamed:
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    tensor.data = tensor.data.to(device)
    for block in listed:
        for buffer in block.buffers():
            buffer.data = buffer.data.to(device)
    courier = Courier(listed, device)
    kind: Any = type(listed[0])

    class Streamed(kind):
        """The block's class, computing with visiting weights."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with courier.visit(self):
                return kind.forward(self, *args, **kwargs)

    for block in listed:
        block.__class__ = Streamed
    model.eager_only, model.streamed = True, True
    return model


class Courier:
    """Brings the weights of blocks to a device, one block ahead of the computation."""

    def __init__(self, blocks: list[nn.Module], device: torch.device):
        self.places = [[(module, name) for module in block.modules() for name, p in module._parameters.items()
                        if p is not None] for block in blocks]
        self.number = {id(block): i for i, block in enumerate(blocks)}
        self.device, self.last = device, -1
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.ahead: dict[int, list[Tensor]] = {}

    def visit(self, block: nn.Module) -> _Visit:
        """A context in which the block's parameters are copies on the device."""
        number = self.number[id(block)]
        copies = self.ahead.pop(number, None) or self._fetch(number)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            for copy in copies:  # allocated on the side stream: not to be reused before this stream is done with it
                copy.record_stream(torch.cuda.current_stream(self.device))
            backwards = number and (number < self.last or number == self.last == len(self.places) - 1)
            following = number - 1 if backwards else number + 1
            self.ahead = {following: self._fetch(following)} if 0 <= following < len(self.places) else {}
        self.last = number
        return _Visit(self.places[number], copies)

    def _fetch(self, number: int) -> list[Tensor]:
        def copy() -> list[Tensor]:
            return [cast("Tensor", module._parameters[name]).detach().to(self.device, non_blocking=True, copy=True)
                    for module, name in self.places[number]]
        if self.stream is None:
            return copy()
        with torch.cuda.stream(self.stream):
            return copy()


class _Visit:
    def __init__(self, places: list[tuple[nn.Module, str]], copies: list[Tensor]):
        self.places, self.copies = places, copies

    def __enter__(self) -> None:
        self.home = [module._parameters[name] for module, name in self.places]
        for (module, name), copy in zip(self.places, self.copies, strict=True):
            module._parameters[name] = copy  # type: ignore[assignment]  # a visiting copy is no Parameter, by intent

    def __exit__(self, *_: object) -> None:
        for (module, name), home in zip(self.places, self.home, strict=True):
            module._parameters[name] = home
