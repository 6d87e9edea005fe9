"""The only place where θ̂ becomes layers of a model: a file's θ, a scene's, a collection's, merged ones, a fit's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from vov.adapter.adapt import AdapterSpec, adapted_layers, layer_shapes, project
from vov.adapter.quantiser import from_symbols
from vov.adapter.unilora import Adapter, Projection
from vov.bitstream import Header
from vov.model.backbone import Backbone


class AdaptedModel:
    """A frozen model with an adapter for one θ, or for several at once; a `with` block gives it its own layers back.

    Args:
        specs: one for each θ; they may differ in layers, rank and length.
    Raises:
        VovError: a spec does not fit the model, or this NumPy draws other indices than θ was fitted with.
    """

    def __init__(self, backbone: Backbone, *specs: AdapterSpec):
        self.backbone, self.specs = backbone, specs
        model = backbone.transformer
        self.own = [set(adapted_layers(spec, backbone, model)) for spec in specs]
        self.adapter = Adapter(model, set().union(*self.own))
        try:
            self.projections = [self._project(spec, own) for spec, own in zip(specs, self.own, strict=True)]
        except BaseException:
            self.remove()
            raise

    def _project(self, spec: AdapterSpec, own: set[str]) -> Projection:
        shapes = [shape for name, shape in zip(self.adapter.names, self.adapter.shapes, strict=True) if name in own]
        return project(spec, shapes).to(self.backbone.device)

    @property
    def projection(self) -> Projection:
        """The map from θ to entries where there is one θ."""
        (projection,) = self.projections
        return projection

    def bind(self, *thetas: Tensor, weights: Sequence[float] | None = None) -> None:
        """ΔW = Σ wᵢ Bᵢ Aᵢ of float32 θ̂ᵢ [dᵢ], one for each spec; where no weight is left, the frozen model.

        weights: 1 each by default.
        """
        flats = [projection.expand(theta.to(self.backbone.device).float())
                 for projection, theta in zip(self.projections, thetas, strict=True)]
        if len(flats) == 1 and weights is None:
            self.bind_entries(flats[0])
            return
        active = [(self._factors(number, flat), weight) for number, (flat, weight) in
                  enumerate(zip(flats, weights or [1.0] * len(flats), strict=True)) if weight]
        if active:
            self.adapter.bind(*[factors for factors, _ in active], weights=[weight for _, weight in active])
        else:
            self.unbind()

    def bind_entries(self, entries: Tensor) -> None:
        """The values of all slots [D] of the only θ, as `Projection.expand` gives them; gradients pass."""
        self.adapter.bind(self.projection.factors(entries.to(self.backbone.dtype)))

    def _factors(self, number: int, entries: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(A, B) of one θ for every adapted layer; of rank 0 where this θ has none."""
        entries = entries.to(self.backbone.dtype)
        mine = iter(self.projections[number].factors(entries))
        return [next(mine) if name in self.own[number] else (entries.new_zeros(0, inn), entries.new_zeros(out, 0))
                for name, (out, inn) in zip(self.adapter.names, self.adapter.shapes, strict=True)]

    def unbind(self) -> None:
        """Back to the frozen model's numbers."""
        self.adapter.unbind()

    def remove(self) -> None:
        """Gives the model its own layers back."""
        self.adapter.remove()

    def __enter__(self) -> AdaptedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@contextmanager
def adapted(backbone: Backbone, spec: AdapterSpec, symbols: np.ndarray | None = None,
            quantiser_step: float = 1.0) -> Iterator[AdaptedModel]:
    """Within it the model is adapted by the θ̂ of these symbols; without any, nothing is bound yet."""
    with AdaptedModel(backbone, spec) as model:
        if symbols is not None:
            model.bind(from_symbols(symbols, quantiser_step))
        yield model


def factors_of(projection: Projection, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(A, B) of a float32 θ̂ [d] for every layer, for formats that hold them."""
    return projection.factors(projection.expand(theta))


def make_header(backbone: Backbone, spec: AdapterSpec | None, step: float = 1.0, **fields: Any) -> Header:
    """The header of a new file; the only place where one is made.

    Args:
        spec: of its θ; None: the file holds none.
        step: of θ's quantiser.
        fields: geometry and sampling as `Header` names them: width, height, num_frames, fps, resize, sampler,
            decode_steps, shift (0: the model's own for this size), seed, guidance.
    """
    if spec is None:  # the least that a header can say of an adapter
        spec = AdapterSpec(1, 1, 1, next(iter(backbone.presets)), 42)
    index_hash = project(spec, layer_shapes(spec, backbone, backbone.transformer)).hash
    fields["shift"] = fields["shift"] or backbone.native_shift(fields["width"], fields["height"])
    return Header(
        tree=backbone.tree, model_id=backbone.name, fingerprint=backbone.fingerprint(), dtype=backbone.precision,
        lora_preset=spec.lora_preset, last_k=spec.last_k, rank=spec.rank, theta_length=spec.theta_length,
        proj_seed=spec.proj_seed, index_hash=index_hash, step=step, **fields)
