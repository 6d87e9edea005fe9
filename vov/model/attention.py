"""Which kernel computes attention: chosen with the model, for the whole process, so encoder and decoder agree.

Seconds are of one layer of Wan2.1-1.3B at 81×480×832 on an H200, forwards and backwards (studies/speed).
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import Library
from torch.nn import attention
from torch.nn.attention import SDPBackend

from vov import VovError

log = logging.getLogger(__name__)
SMALL_MODEL = 100e6  # parameters below which a step is bound by launches, not by arithmetic
CHOICES = ("auto", "cudnn", "flash", "8bit")
CURE = "install it with: .venv/bin/pip install -r requirements-hopper.txt, or leave ATTENTION unset"
EIGHT = "FlashAttention 3, 8 bits"
FLASH = {  # PyTorch's name: (ours, module, compute capabilities on which it beats cuDNN's or was made for)
    "FA4": ("FlashAttention 4", "flash_attn.cute", ((9, 0), (10, 0), (10, 3))),
    "FA3": ("FlashAttention 3", "flash_attn_interface", ((9, 0),)),
}
LARGEST = 448.0  # of float8 e4m3
MANY_KEYS = 2048  # below, attention costs little and stays in 16 bits
_chosen: list = []  # what `choose_attention` entered; it would be left if it were collected


def choose_attention(model: nn.Module, device: torch.device, wanted: str = "auto") -> str:
    """Which kernel attention takes; set for the whole process. Returns its name, "" when left alone.

    On Hopper and later, for a large model: FlashAttention 4 or 3 where it is installed and PyTorch knows it, else
    cuDNN's. The FlashAttention 2 inside PyTorch is 1.7 times slower there.

    wanted: one of CHOICES; all but auto hold for small models too. VovError when it cannot be had.
    """
    if wanted == "auto" and (device.type != "cuda" or sum(p.numel() for p in model.parameters()) < SMALL_MODEL):
        return ""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if wanted == "8bit":
        return _prefer(SDPBackend.FLASH_ATTENTION, _take_eight(capability))
    if wanted == "cudnn" and device.type != "cuda":
        raise VovError("ATTENTION=cudnn needs a GPU; leave ATTENTION unset")
    if wanted == "auto" and capability < (9, 0):
        return ""
    for name, (title, module, capabilities) in FLASH.items() if wanted != "cudnn" else ():
        if name in _replacements() and capability in capabilities and _installed(module):
            _activate(name)
            _prefer(SDPBackend.FLASH_ATTENTION, title)
            if not (problem := _trial()):
                return title
            log.warning("%s does not run here (%s); taking cuDNN", title, problem)
    if wanted == "flash":
        raise VovError(f"ATTENTION=flash needs a Hopper or Blackwell GPU, PyTorch 2.11 or later and "
                       f"FlashAttention 4 or 3; {CURE}")
    if not torch.backends.cudnn.is_available():
        log.warning("neither FlashAttention 4 or 3 nor cuDNN is here: attention is slow")
    return _prefer(SDPBackend.CUDNN_ATTENTION, "cuDNN")


def _activate(name: str) -> None:
    """Puts an implementation in the place of PyTorch's FlashAttention 2."""
    if name == "FA4":
        from torch.nn.attention._fa4 import register_flash_attention_fa4

        name = "FA4-vov"
        attention.register_flash_attention_impl(
            name, register_fn=lambda: register_flash_attention_fa4("vov.model.flash4"))
    attention.activate_flash_attention_impl(name)


def _replacements() -> list[str]:
    """What PyTorch can put in the place of its FlashAttention 2."""
    return getattr(attention, "list_flash_attention_impls", list)()


def _prefer(first: SDPBackend, title: str) -> str:
    """Puts a kernel first, until the process ends; returns its title."""
    if first != SDPBackend.FLASH_ATTENTION and getattr(attention, "current_flash_attention_impl", lambda: None)():
        attention.restore_flash_attention_impl()  # what was put there before must not serve where the first cannot
    others = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    while _chosen:
        _chosen.pop().__exit__(None, None, None)
    if torch.cuda.is_initialized():  # the first call of a process puts cuDNN first, whatever was chosen before it
        F.scaled_dot_product_attention(*torch.zeros(3, 1, 1, 8, 64, device="cuda", dtype=torch.bfloat16))
    order = [first, *(other for other in others if other != first)]
    _chosen.append(attention.sdpa_kernel(order, set_priority=True))
    _chosen[0].__enter__()
    return title


def _trial() -> str:
    """What is wrong with attention as it is set now; "" if nothing, or without a GPU to try it on."""
    if torch.cuda.is_initialized():
        try:
            F.scaled_dot_product_attention(*torch.zeros(3, 1, 2, 256, 128, device="cuda", dtype=torch.bfloat16))
        except Exception as error:  # whatever a package of another version raises
            return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def refuse_eight_bits(kernel: str, what: str) -> None:
    """Raises VovError where attention in 8 bits would spoil `what`: a fit needs a backward pass, and the decoder of
    coded noise has to compute as its encoder did."""
    if kernel == EIGHT:
        raise VovError(f"ATTENTION=8bit rounds too coarsely for {what}; leave ATTENTION unset")


def _take_eight(capability: tuple[int, int]) -> str:
    """Attention of many keys in 8 bits, by FlashAttention 3's forward pass."""
    module = next((name for name in ("flash_attn_interface", "fa3_fwd_interface") if _installed(name)), "")
    if capability != (9, 0) or not module or "FA4" not in _replacements():
        raise VovError(f"ATTENTION=8bit needs a Hopper GPU (H100, H200), PyTorch 2.11 or later and FlashAttention 3; "
                       f"{CURE}")
    attention.register_flash_attention_impl("FA3-8bit", register_fn=lambda: _register(import_module(module)))
    attention.activate_flash_attention_impl("FA3-8bit")
    return EIGHT


class _Handle:
    """Keeps the replacement in place until it is removed."""

    def __init__(self, library: Library):
        self.library: Library | None = library

    def remove(self) -> None:
        self.library = None


def _register(kernels: ModuleType) -> _Handle:
    """Puts `eight_bits` where PyTorch's FlashAttention was."""
    def forward(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False,
                return_debug_mask: bool = False, *, scale: float | None = None) -> tuple:
        out = eight_bits(kernels, *(x.transpose(1, 2) for x in (query, key, value)), scale, is_causal)
        nothing = torch.zeros((), dtype=torch.uint64, device=query.device)
        lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)  # of no use: nothing goes back
        return (out.transpose(1, 2), lse, None, None, query.shape[2], key.shape[2], nothing.repeat(2), nothing,
                query.new_empty(0))

    library = Library("aten", "IMPL", "CUDA")
    library.impl("_scaled_dot_product_flash_attention", forward, "CUDA")
    return _Handle(library)


def eight_bits(kernels: ModuleType, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None,
               causal: bool = False) -> Tensor:
    """Attention [B, S, heads, size] with queries, keys and values in float8 e4m3, each head with a scale of its own.

    Keys lose their mean over the tokens first: softmax does not see it, and what is left rounds better (SageAttention,
    Zhang et al. 2024).
    """
    if key.shape[1] < MANY_KEYS:
        return kernels.flash_attn_func(query, key, value, softmax_scale=scale, causal=causal)
    (q, q_scale), (k, k_scale), (v, v_scale) = (
        _eight(x) for x in (query, key - key.mean(1, keepdim=True), value))
    return kernels.flash_attn_func(q, k, v, softmax_scale=scale, causal=causal, q_descale=q_scale, k_descale=k_scale,
                                   v_descale=v_scale)


def _eight(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x [B, S, heads, size] in float8, what a unit of it is worth [B, heads])."""
    unit = x.abs().amax((1, 3)).float().clamp_min(1e-12) / LARGEST
    return (x / unit[:, None, :, None]).to(torch.float8_e4m3fn), unit
