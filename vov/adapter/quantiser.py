"""θ to integers and back: the uniform quantiser θ̂ = step · round(clamp(θ / step, ±128)). float32 throughout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vov.bitstream.header import SYMBOL_LIMIT


def theta_hat(theta: Tensor, step: Tensor | float, mode: str, noise: Tensor | None = None) -> Tensor:
    """θ̂ of theta's shape, float32; in the three modes every quantiser of learned compression has.

    round   step · round(clamp(θ / step, ±128)): what the decoder will see; the gradient to θ is zero.
    ste     the same value, with the gradient of the clamp alone (straight-through): 1 to θ inside the range.
    noise   step · (clamp(θ / step, ±128) + noise): a differentiable stand-in; noise uniform in ±0.5.
    """
    scaled = torch.clamp(theta.float() / step, -SYMBOL_LIMIT, SYMBOL_LIMIT)
    if mode == "round":
        return torch.round(scaled) * step
    if mode == "ste":  # |round(y) - y| <= 0.5 is exact in float32, and so is the sum: the value is round(y)
        return (scaled + (torch.round(scaled) - scaled).detach()) * step
    if mode == "noise":
        if noise is None:
            raise ValueError("theta_hat(mode='noise') needs the noise")
        return (scaled + noise) * step
    raise ValueError(f"theta_hat: mode is {mode!r}; choose noise, ste or round")


@torch.no_grad()
def to_symbols(theta: Tensor, step: Tensor | float) -> Tensor:
    """int32 symbols in ±128 of theta's shape: what a file holds of θ at this quantiser step."""
    return torch.round(torch.clamp(theta.float() / step, -SYMBOL_LIMIT, SYMBOL_LIMIT)).to(torch.int32)


def from_symbols(symbols: np.ndarray | Tensor, step: float) -> Tensor:
    """θ̂ float32 from integer symbols and the float32 step of a file: bit-equal to `theta_hat(θ, step, "round")`."""
    return torch.as_tensor(symbols).float() * torch.tensor(step, dtype=torch.float32)
