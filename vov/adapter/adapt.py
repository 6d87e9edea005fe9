"""From what a header, a checkpoint or the settings say of an adapter to the adapter in a model, with every check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from vov import VovError
from vov.adapter.unilora import Adapter, LoRALinear, Projection, select_layers

MAX_SLOTS = 2**27  # entries of all A and B together: 3 GiB while indices are drawn
FIELDS = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed")


class Kind(Protocol):
    """What is needed of a `Backbone`, or of its class."""

    @property
    def blocks(self) -> str: ...

    @property
    def presets(self) -> dict[str, tuple[str, ...]]: ...


@dataclass(frozen=True)
class AdapterSpec:
    """Which layers θ adapts and how it is spread over them.

    index_hash: of the UniLoRA indices that θ was fitted with; None when that is not known.
    source: what to name in errors.
    """

    rank: int
    theta_length: int
    last_k: int
    lora_preset: str
    proj_seed: int
    index_hash: bytes | None = None
    source: str = "the settings"

    @classmethod
    def of(cls, said: Any, source: str = "the settings") -> AdapterSpec:
        """From a `Header`, a `FitConfig` or anything with these attributes."""
        return cls(**{name: getattr(said, name) for name in FIELDS}, index_hash=getattr(said, "index_hash", None),
                   source=source)


def adapted_layers(spec: AdapterSpec, kind: Kind, model: nn.Module) -> list[str]:
    """Names of the linears that θ adapts, in `named_modules()` order."""
    if spec.lora_preset not in kind.presets:
        raise VovError(f"{spec.source}: lora_preset: is {spec.lora_preset!r:.40}; choose one of "
                       f"{', '.join(kind.presets)}, or update this program")
    return select_layers(model, kind.blocks, kind.presets[spec.lora_preset], spec.last_k)


def project(spec: AdapterSpec, shapes: Sequence[tuple[int, int]]) -> Projection:
    """The map from θ to the factors of layers of these (out, in) shapes; bounded before anything is allocated.

    Raises VovError when the rank is beyond sense, or the indices are not those that θ was fitted with.
    """
    widest = max((min(shape) for shape in shapes), default=0)
    slots = spec.rank * sum(out + inn for out, inn in shapes)
    if spec.rank > widest or slots > MAX_SLOTS:
        raise VovError(f"{spec.source}: rank: {spec.rank} is too large for this model (layers of at most {widest}, all "
                       f"factors together at most {MAX_SLOTS:,} entries); set a smaller `rank`, or the file is "
                       "damaged")
    projection = Projection(shapes, spec.rank, spec.theta_length, spec.proj_seed)
    if spec.index_hash not in (None, projection.hash):
        raise VovError(f"{spec.source}: index_hash: differs from the UniLoRA indices drawn here; leave `rank`, "
                       "`last_k`, `lora_preset` and `proj_seed` as they were and install the NumPy version of "
                       "requirements.txt; otherwise the file is damaged")
    return projection


def layer_shapes(spec: AdapterSpec, kind: Kind, model: nn.Module) -> list[tuple[int, int]]:
    """(out_features, in_features) of the linears that θ adapts; the model is left as it is."""
    layers = (model.get_submodule(name) for name in adapted_layers(spec, kind, model))
    return [(layer.out_features, layer.in_features) for layer in layers if isinstance(layer, nn.Linear | LoRALinear)]


def adapt(spec: AdapterSpec, kind: Kind, model: nn.Module) -> tuple[Adapter, Projection]:
    """Puts an adapter into `model` (layers are replaced until `Adapter.remove`) and makes its projection.

    Args:
        spec: what the adapter is.
        kind: says how blocks are called and which linears a preset adapts.
        model: the transformer; its weights are not looked at.
    """
    adapter = Adapter(model, adapted_layers(spec, kind, model))
    try:
        return adapter, project(spec, adapter.shapes)
    except BaseException:
        adapter.remove()
        raise
