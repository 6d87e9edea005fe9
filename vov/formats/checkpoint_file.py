"""A checkpoint as a .vov file in memory, so that one decoder serves both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from vov import VovError
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import make_header
from vov.adapter.quantiser import to_symbols
from vov.bitstream import Bitstream, Item
from vov.bitstream.header import SYMBOL_LIMIT
from vov.formats.reference import Reference, refuse_stranger, told_hash
from vov.model.backbone import Backbone


def as_file(found: Reference, source: str, backbone: Backbone, settings: Any,
            entries: Sequence[tuple[str, str]]) -> Bitstream:
    """The file of pictures that a checkpoint regenerates, at the size that was fitted.

    A checkpoint without a quantiser is rounded as finely as symbols allow, at its largest entry / 128.

    Args:
        source: the checkpoint's path, for errors.
        settings: a `FitConfig`: what the checkpoint, or the user in its place, says.
        entries: (name, caption) of the pictures.
    Raises:
        VovError: the checkpoint says that it was fitted on another model, or with other layers.
    """
    refuse_stranger(found.metadata, backbone, source)
    length = found.theta.numel()
    if length != settings.theta_length:
        raise VovError(f"the checkpoint holds θ of length {length}; set `theta_length`={length}")
    backbone.check_geometry(settings.width, settings.height, 1)
    step = found.step or float(found.theta.abs().max()) / SYMBOL_LIMIT or 1.0
    names = ("width", "height", "resize", "sampler", "decode_steps", "shift", "seed", "guidance")
    spec = dataclasses.replace(AdapterSpec.of(settings, source), index_hash=told_hash(found.metadata, source))
    header = make_header(backbone, spec, step, num_frames=1, fps=0.0, **{n: getattr(settings, n) for n in names})
    items = tuple(Item(caption, settings.width, settings.height, name if len(entries) > 1 else "")
                  for name, caption in entries)
    return Bitstream(header, items, to_symbols(found.theta, step).numpy(), source=source)
