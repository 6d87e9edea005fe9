"""A file without a fit: the frozen model as it is, for coded noise to steer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vov.adapter.adapt import AdapterSpec, adapt
from vov.bitstream import Bitstream, Item
from vov.codec import Source, make_header
from vov.fitting.settings import FitConfig
from vov.model.backbone import Backbone


def bare(backbone: Backbone, sources: Sequence[Source], settings: FitConfig) -> Bitstream:
    """A file whose θ is a single zero: it adapts nothing, and costs 3 bytes.

    settings: geometry, sampler and seed; what it says of an adapter is not looked at.
    """
    preset = next(iter(backbone.presets))
    none = dataclasses.replace(settings, rank=1, theta_length=1, last_k=1, lora_preset=preset, proj_seed=0)
    backbone.check_geometry(settings.width, settings.height, sources[0].frames.shape[0])
    adapter, projection = adapt(AdapterSpec.of(none), backbone, backbone.transformer)
    adapter.remove()
    items = tuple(Item(source.caption, *source.frames.shape[2:0:-1], source.name if len(sources) > 1 else "")
                  for source in sources)
    return Bitstream(make_header(backbone, projection, none, sources), items, np.zeros(1, np.int32))
