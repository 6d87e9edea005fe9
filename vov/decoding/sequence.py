"""A sequence back to frames: all of them, or those from one frame to another, chunk after chunk in fixed memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate

import numpy as np

from vov import VovError
from vov.adapter.adapt import AdapterSpec, adapt
from vov.bitstream import Bitstream
from vov.decoding import collection
from vov.decoding.chunk import ChunkModel
from vov.decoding.replay import usual_texture
from vov.fitting.rate import from_symbols
from vov.media import restore_geometry
from vov.model.backbone import Backbone


class SequenceDecoder:
    """Decodes a file of version 2; use it in a `with` block, which gives the model its own layers back.

    texture: see `replay.textured`; less than 0: `usual_texture`. Raises VovError when the file was made with another
    model.
    """

    def __init__(self, backbone: Backbone, stream: Bitstream, source: str = "the file", texture: float = -1.0):
        header, code = stream.header, stream.sequence
        self.texture = texture if texture >= 0 else usual_texture(header.num_frames, code.noise["end"],
                                                                  len(code.chunks))
        if not header.shift:
            header = dataclasses.replace(header, shift=backbone.native_shift(header.width, header.height))
        backbone.refuse_stranger(header, source)
        self.stream, self.code, self.model = stream, stream.sequence, ChunkModel(backbone, header)
        self.backbone, self.conditions = backbone, backbone.embed([item.caption for item in stream.items])
        self.ends = list(accumulate(chunk.frames for chunk in self.code.chunks))
        self.adapter, self.projection, self.bound = None, None, -1
        with ExitStack() as held:
            held.enter_context(collection.applied(stream.collection, backbone, source))
            if any(scene.symbols is not None for scene in self.code.scenes):
                self.adapter, projection = adapt(AdapterSpec.of(header, source), backbone, backbone.transformer)
                held.callback(self.adapter.remove)
                self.projection = projection.to(backbone.device)
            self.held = held.pop_all()

    def __enter__(self) -> SequenceDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    def bind(self, scene: int) -> None:
        """Makes a scene's θ the adaptation, or none."""
        if self.adapter is None or self.bound == scene:
            return
        self.bound, found = scene, self.code.scenes[scene]
        if found.symbols is None:
            self.adapter.unbind()
            return
        flat = self.projection.expand(from_symbols(found.symbols, found.step).to(self.backbone.device))
        self.adapter.bind(self.projection.factors(flat.to(self.backbone.dtype)))

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(number of its first frame, frames [n, H, W, 3] at the model's geometry) of the chunks `first` … `last`.

        Decoding begins at the key chunk at or before `first`; chunks before `first` are not given.
        """
        chunks, sigmas = self.code.chunks, self.model.sigmas(self.code.noise)
        last = len(chunks) - 1 if last is None else last
        key = next(number for number in range(first, -1, -1) if not chunks[number].chained)
        before = None
        for number in range(key, last + 1):
            scene = self.code.scene_of(number)
            self.bind(scene)
            texture = self.texture if number >= first else 0.0
            frames, shown = self.model.replay(number, self.code.code(number), sigmas, self.conditions[scene],
                                              before if chunks[number].chained else None, texture)
            count = chunks[number].frames
            before = frames[count - 1]
            if number >= first:
                yield self.ends[number] - count, shown[:count]

    def frames(self, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """`count` frames from number `start` on, at the original size (a cropped video: at the crop's).

        count: None: to the end. Raises VovError when the video has no such frames.
        """
        total, item, header = self.code.frames, self.stream.items[0], self.model.header
        end = total if count is None else start + count
        if not 0 <= start < end <= total:
            raise VovError(f"START={start} FRAMES={count}: the video has {total} frames, from 0")
        first, last = (next(n for n, e in enumerate(self.ends) if frame < e) for frame in (start, end - 1))
        for at, frames in self.chunks(first, last):
            for frame in frames[max(0, start - at):end - at]:
                yield restore_geometry(frame[None], item.original_width, item.original_height, header.resize)[0]
