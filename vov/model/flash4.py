"""FlashAttention 4's kernels under the names and with the results that PyTorch's registry asks for.

Two things differ between releases of the package and PyTorch 2.11: it returns more than PyTorch takes, and refuses a
stride of 0, which compiled code gives to an axis of length 1. Imported only by `attention`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def _flash_attn_fwd(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """(output [B, S, heads, size], logarithm of the sums of exponentials [B, heads, S])."""
    from flash_attn.cute import interface

    return interface._flash_attn_fwd(*map(solid, args), **{name: solid(x) for name, x in kwargs.items()})[:2]


def _flash_attn_bwd(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    from flash_attn.cute import interface

    return interface._flash_attn_bwd(*map(solid, args), **{name: solid(x) for name, x in kwargs.items()})[:3]


def solid(x: Any) -> Any:
    """A tensor on the same memory whose axes of length 1 have a stride, too; anything else as it is."""
    if not isinstance(x, Tensor) or 0 not in x.stride():
        return x
    strides = [x.numel() if length == 1 else stride for length, stride in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)
