"""FlashAttention 4's kernels under the names and with the results that PyTorch's registry asks for.

Releases of the package return more than PyTorch 2.11 takes, and may return still more later: the rest is dropped here.
Imported only by `attention`, where the package is installed.
"""

from __future__ import annotations

from torch import Tensor


def _flash_attn_fwd(*args, **kwargs) -> tuple[Tensor, Tensor]:
    """(output [B, S, heads, size], logarithm of the sums of exponentials [B, heads, S])."""
    from flash_attn.cute import interface

    return interface._flash_attn_fwd(*args, **kwargs)[:2]


def _flash_attn_bwd(*args, **kwargs) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    from flash_attn.cute import interface

    return interface._flash_attn_bwd(*args, **kwargs)[:3]
