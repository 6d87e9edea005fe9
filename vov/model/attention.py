"""Which kernel computes attention: chosen with the model, for the whole process, so encoder and decoder agree.

Seconds are of one layer of Wan2.1-1.3B at 81×480×832 on an H200, forwards and backwards (studies/speed).
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import attention
from torch.nn.attention import SDPBackend

from vov import VovError

log = logging.getLogger(__name__)
SMALL_MODEL = 100e6  # parameters below which a step is bound by launches, not by arithmetic
CHOICES = ("auto", "cudnn", "flash")
CURE = "install it with: .venv/bin/pip install -r requirements-hopper.txt, or leave `attention` unset"
FLASH = {  # PyTorch's name: (ours, module, compute capabilities on which it beats cuDNN's or was made for)
    "FA4": ("FlashAttention 4", "flash_attn.cute", ((9, 0), (10, 0), (10, 3))),
    "FA3": ("FlashAttention 3", "flash_attn_interface", ((9, 0),)),
}
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
    if wanted == "cudnn" and device.type != "cuda":
        raise VovError("`attention`=cudnn needs a GPU; leave `attention` unset")
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
        raise VovError(f"`attention`=flash needs a Hopper or Blackwell GPU, PyTorch 2.11 or later and "
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
