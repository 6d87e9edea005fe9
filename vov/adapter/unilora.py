"""UniLoRA: every LoRA entry of a model drawn from one short vector θ (arXiv 2506.00799).

    values = (θ / sqrt(counts))[index]            one gather, whatever the number of layers
    y      = W x + B (A x)                        no alpha, no dropout

`Projection` maps θ to the A and B of all layers, `Adapter` puts them into a model's `nn.Linear`s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vov import VovError


def index_stream(slots: int, length: int, seed: int) -> np.ndarray:
    """The θ entry of every slot, int32 [slots], each entry used floor or ceil(slots / length) times.

    Bit-identical to PEFT ≥ 0.21 (`UniLoraModel.generate_index`). NumPy may change its streams one day:
    `index_hash` goes into every file so that a change is found, not decoded.
    """
    rng = np.random.default_rng(seed)
    indices = np.repeat(np.arange(length), slots // length)
    if slots % length:
        indices = np.concatenate([indices, rng.choice(length, size=slots % length, replace=False)])
    rng.shuffle(indices)
    return indices.astype(np.int32)


def index_hash(indices: np.ndarray) -> bytes:
    """8 bytes that name an index stream."""
    return hashlib.sha256(indices.astype("<i4").tobytes()).digest()[:8]


class _Expand(torch.autograd.Function):
    """θ [d] → slots [D]; the backward is a gather and a sum, so it is deterministic on every device."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, scale: Tensor, index: Tensor, users: Tensor) -> Tensor:
        ctx.save_for_backward(scale, users)
        return (theta * scale)[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        scale, users = ctx.saved_tensors
        padded = torch.cat([grad, grad.new_zeros(1)])
        return padded[users].sum(1) * scale, None, None, None


class Projection(nn.Module):
    """The fixed map from θ [d] to the LoRA factors of layers with the given (out, in) shapes.

    Args:
        shapes: (out_features, in_features) of every adapted layer, in `named_modules()` order.
        rank: r of all layers.
        length: d, the number of entries of θ.
        seed: of the index stream.
    """

    index: Tensor
    users: Tensor
    scale: Tensor

    def __init__(self, shapes: Sequence[tuple[int, int]], rank: int, length: int, seed: int = 42):
        super().__init__()
        self.shapes, self.rank, self.length, self.seed = list(shapes), rank, length, seed
        self.sizes = [n for out, inn in self.shapes for n in (rank * inn, out * rank)]
        self.slots = sum(self.sizes)
        if self.slots == 0:
            raise VovError("no layers to adapt; check `lora_preset` and `last_k`")
        indices = index_stream(self.slots, length, seed)
        self.hash = index_hash(indices)

        counts = np.bincount(indices, minlength=length)
        scale = torch.zeros(length)
        used = torch.from_numpy(counts > 0)
        scale[used] = torch.from_numpy(counts).float()[used].rsqrt()
        # Row i lists the slots that read entry i, padded with D, the position of an appended zero.
        order = np.argsort(indices, kind="stable")
        start = np.concatenate([[0], np.cumsum(counts)[:-1]])
        column = np.arange(self.slots) - np.repeat(start, counts)
        users = np.full((length, counts.max()), self.slots, np.int32)
        users[indices[order], column] = order
        self.register_buffer("index", torch.from_numpy(indices), persistent=False)
        self.register_buffer("users", torch.from_numpy(users), persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def expand(self, theta: Tensor) -> Tensor:
        """float32 θ [d] → the values of all slots, float32 [D]; differentiable."""
        return _Expand.apply(theta, self.scale, self.index, self.users)

    def factors(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of slots [D] as (A [r, in], B [out, r]) per layer."""
        parts = flat.split(self.sizes)
        return [(parts[2 * i].view(self.rank, inn), parts[2 * i + 1].view(out, self.rank))
                for i, (out, inn) in enumerate(self.shapes)]


class RankOne(torch.autograd.Function):
    """x [..., in], A [1, in], B [out, 1] → B (A x) [..., out].

    What would be a matrix product with an inner size of 1 is an elementwise product, forwards and backwards: GPUs take
    a slow kernel for the former, with which nothing can be fused. The numbers are the same.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        inner = F.linear(x, a)
        fitted = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]  # not where only the input's gradient is asked for
        ctx.save_for_backward(a, b, *((x, inner) if fitted else ()))
        return inner * b[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        a, b, *fitted = ctx.saved_tensors
        back = grad.reshape(-1, grad.shape[-1])
        pulled = back @ b  # [rows, 1]
        to_x = (pulled * a[0]).view(*grad.shape[:-1], a.shape[1]) if ctx.needs_input_grad[0] else None
        if not fitted:
            return to_x, None, None
        x, inner = fitted
        return to_x, pulled.mT @ x.reshape(-1, x.shape[-1]), back.mT @ inner.reshape(-1, 1)


class LoRALinear(nn.Module):
    """A frozen linear layer plus B (A x); without factors it is the layer itself."""

    def __init__(self, base: nn.Linear | LoRALinear):
        super().__init__()
        self.base = base
        self.A: Tensor | None = None  # [r, in]
        self.B: Tensor | None = None  # [out, r]

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        if self.A is None or self.B is None:
            return y
        x = x.to(self.A.dtype)
        if self.A.shape[0] == 1:
            return y + RankOne.apply(x, self.A, self.B).to(y.dtype)
        return y + F.linear(F.linear(x, self.A), self.B).to(y.dtype)

    @property
    def weight(self) -> Tensor:
        """The frozen weight; models read its dtype and device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """Input width of the layer."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Output width of the layer."""
        return self.base.out_features


class Adapter:
    """LoRA layers in a model, and what is bound to them.

    Replaces the named `nn.Linear`s by `LoRALinear`s (undone by `remove`), freezes every parameter of the model,
    and never writes to a frozen weight but in `merge`, which `unmerge` undoes exactly.

    Args:
        model: any module tree.
        names: dotted names of the `nn.Linear`s to adapt; the order is that of `named_modules()`.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]):
        wanted = set(names)
        self.model = model
        self.names = [name for name, module in model.named_modules() if name in wanted]
        missing = wanted - set(self.names)
        if missing:
            raise VovError(f"the model has no layer {sorted(missing)[0]!r}; is this the right foundation model?")
        model.requires_grad_(False)
        self.layers: list[LoRALinear] = []
        for name in self.names:
            base = model.get_submodule(name)
            if not isinstance(base, nn.Linear | LoRALinear):  # one that another adapter stands in: both add up
                raise VovError(f"{name} is a {type(base).__name__}, not an nn.Linear; choose another `lora_preset`")
            layer = LoRALinear(base)
            self._replace(name, layer)
            self.layers.append(layer)
        self._saved: list[Tensor] = []

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(out_features, in_features) of every layer."""
        return [(layer.out_features, layer.in_features) for layer in self.layers]

    def projection(self, rank: int, length: int, seed: int = 42) -> Projection:
        """The projection that fits these layers."""
        return Projection(self.shapes, rank, length, seed)

    def bind(self, *adapters: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float] | None = None) -> None:
        """Makes ΔW = Σ wᵢ Bᵢ Aᵢ the adaptation; several adapters are concatenated along the rank.

        Args:
            adapters: one list of (A, B) per adapter, as `Projection.factors` returns them.
            weights: one factor per adapter, 1 by default.
        """
        weights = weights or [1.0] * len(adapters)
        if len(adapters) == 1 and weights[0] == 1.0:
            for layer, (a, b) in zip(self.layers, adapters[0], strict=True):
                layer.A, layer.B = a, b
            return
        for layer, *factors in zip(self.layers, *adapters, strict=True):
            layer.A = torch.cat([a for a, _ in factors])
            layer.B = torch.cat([w * b for w, (_, b) in zip(weights, factors, strict=True)], dim=1)

    def unbind(self) -> None:
        """Back to the frozen model."""
        for layer in self.layers:
            layer.A = layer.B = None

    @torch.no_grad()
    def merge(self) -> None:
        """Adds B A to the weights, in float32, and unbinds. A second call does nothing.

        Exact to rounding only where the weights are float32: in bfloat16 most of ΔW would be rounded away, so
        nothing here merges to decode.
        """
        if self._saved or not self.layers or self.layers[0].A is None:
            return
        for layer in self.layers:
            self._saved.append(layer.base.weight.detach().clone())
            if layer.A is not None and layer.B is not None:  # which `bind` gives to all layers
                layer.base.weight.copy_(layer.base.weight.float() + layer.B.float() @ layer.A.float())
        self.unbind()

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restores the weights to the bit; does nothing when not merged."""
        for layer, weight in zip(self.layers, self._saved, strict=False):
            layer.base.weight.copy_(weight)
        self._saved = []

    def remove(self) -> None:
        """Puts the original layers back."""
        self.unmerge()
        for name, layer in zip(self.names, self.layers, strict=True):
            self._replace(name, layer.base)
        self.layers = []

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)


def select_layers(model: nn.Module, blocks: str, suffixes: Sequence[str], last_k: int) -> list[str]:
    """Names of the linears `{blocks}.N.{suffix}` in the last `last_k` blocks, in `named_modules()` order."""
    count = len(list(model.get_submodule(blocks).children()))
    if last_k > count:
        raise VovError(f"`last_k`={last_k}, but the model has {count} blocks; use `last_k`={count}")
    wanted = {f"{blocks}.{n}.{suffix}" for n in range(count - last_k, count) for suffix in suffixes}
    return [name for name, module in model.named_modules()
            if name in wanted and isinstance(module, nn.Linear | LoRALinear)]
