"""Any .vov file to frames: θ, an album, coded noise, a video of many chunks, over a collection's θ or not.

    with Decoder(read(path), backbone) as decoder:      clips = decode(path, backbone)
        for frame in decoder.frames(start=20): …

A file is a row of passes of the model. A picture or a short clip is one pass; a long video takes one for every chunk.
Memory does not grow with the number of passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vov import VovError, bitstream, media
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import AdaptedModel
from vov.adapter.quantiser import from_symbols
from vov.bitstream import Bitstream
from vov.bitstream.noise_code import NoiseCode
from vov.decoding import collection
from vov.decoding.limits import check_file
from vov.decoding.replay import usual_texture
from vov.decoding.sampling import Sampling
from vov.model.backbone import Backbone, Condition
from vov.model.flow import Velocity


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of the model.

    number: of the pass, from which its noise follows. first: number of its first frame within its item. frames: how
    many it contributes. chained: whether it follows the last frame of the pass before. scene: of its caption and θ.
    """

    number: int
    first: int
    frames: int
    chained: bool
    scene: int
    code: NoiseCode | None


def read(source: str | Path | bytes | Bitstream, medium: str = "", limit: float = 1.0,
         texture: float = 0.0) -> Bitstream:
    """A file that may be decoded: whatever can be refused without the model is refused here.

    Args:
        source: a path, the bytes, or what was read from them.
        medium: "image" or "video" where the caller knows only one of them.
        limit: DECODE_LIMIT, see `decoding.limits`; 0: none.
        texture: see `replay.textured`; only noise leaves something open that it could fill.
    Raises:
        VovError: the file is damaged, of the other medium, or asks for more than `limit`.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        stream = bitstream.from_bytes(bytes(source), "the file")
    else:
        stream = source if isinstance(source, Bitstream) else bitstream.read(source)
    if medium and stream.header.tree != medium:
        raise VovError(f"{stream.source}: is a file of the {stream.header.tree} tree; use the commands of that tree")
    if texture > 0 and stream.noise is None and stream.sequence is None:
        raise VovError(f"{stream.source}: `texture`={texture:g}: the file holds no coded noise; leave `texture` unset")
    check_file(stream, stream.source, limit)
    return stream


def end_of(stream: Bitstream, start: int, count: int | None) -> int:
    """The number behind the last of `count` frames from number `start` on; count: None: to the end.

    Raises VovError when there are no such frames.
    """
    total = stream.sequence.frames if stream.sequence else stream.header.num_frames
    end = total if count is None else start + count
    if not 0 <= start < end <= total:
        raise VovError(f"`start`={start} `frames`={count or 0}: the video has {total} frames, from 0")
    return end


def decode(source: str | Path | bytes | Bitstream, backbone: Backbone, *, start: int = 0, count: int | None = None,
           texture: float = -1.0, limit: float = 1.0, collections: str = "") -> list[media.Clip]:
    """Every item of a file as a clip: uint8 RGB [T, H, W, 3] at the original's size (a cropped one: at the crop's).

    start, count: of a clip's or video's frames. The other arguments are those of `read` and `Decoder`.
    """
    stream = read(source, backbone.tree, limit, texture)
    with Decoder(stream, backbone, texture, collections) as decoder:
        return [media.Clip(np.stack(list(decoder.frames(item, start, count))), stream.header.fps)
                for item in range(decoder.items)]


class Binding(Protocol):
    """What adapts the model while it decodes: `Thetas`, or what an edit puts in its place."""

    def bind(self, scene: int) -> None: ...

    def unbind(self) -> None: ...

    def velocity(self, velocity: Velocity) -> Velocity: ...

    def close(self) -> None: ...


class Thetas:
    """The θ of a file, or those of its scenes, in the model; scenes without one, and zeros, are the frozen model's."""

    def __init__(self, backbone: Backbone, stream: Bitstream):
        held = ([(stream.symbols, stream.header.step)] * len(stream.items) if stream.sequence is None
                else [(scene.symbols, scene.step) for scene in stream.sequence.scenes])
        self.scenes = [one if one[0] is not None and one[0].any() else None for one in held]
        spec = AdapterSpec.of(stream.header, stream.source)
        self.model = AdaptedModel(backbone, spec) if any(self.scenes) else None
        self.bound: tuple | None = None

    def bind(self, scene: int) -> None:
        """Makes the θ of a scene the adaptation, or none."""
        wanted = self.scenes[scene]
        if wanted is self.bound:
            return
        self.unbind()
        if wanted is not None and wanted[0] is not None and self.model is not None:
            self.model.bind(from_symbols(wanted[0], wanted[1]))
            self.bound = wanted

    def unbind(self) -> None:
        """Back to the frozen model."""
        self.bound = None
        if self.model is not None:
            self.model.unbind()

    def velocity(self, velocity: Velocity) -> Velocity:
        """The sampler's velocity, for whoever changes the adaptation from step to step."""
        return velocity

    def close(self) -> None:
        """Gives the model its own layers back."""
        if self.model is not None:
            self.model.remove()


class Decoder:
    """Decodes a file; use it in a `with` block, which gives the model its own layers back.

    Args:
        stream: from `read`.
        texture: see `replay.textured`; less than 0: `usual_texture`.
        collections: folder where a shared θ is looked for first.
        thetas: in place of the file's own, for editing.
    Raises:
        VovError: the file was made with another model, or a collection is missing.
    """

    def __init__(self, stream: Bitstream, backbone: Backbone, texture: float = -1.0, collections: str = "",
                 thetas: Binding | None = None):
        backbone.refuse_stranger(stream.header, stream.source)
        self.stream, self.backbone, self.sampling = stream, backbone, Sampling(backbone, stream.header)
        self.passes = list(_passes(stream, backbone))
        self.texture = texture if texture >= 0 else self._usual_texture()
        self.conditions: Sequence[Condition] = backbone.embed([item.caption for item in stream.items])
        with ExitStack() as stack:
            stack.enter_context(collection.applied(stream.collection, backbone, stream.source, collections))
            self.thetas: Binding = thetas or Thetas(backbone, stream)
            stack.callback(self.thetas.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def items(self) -> int:
        """Pictures of an album; a video is one item."""
        return 1 if self.stream.sequence else len(self.stream.items)

    def _usual_texture(self) -> float:
        code = self.passes[0].code
        chunks = len(self.passes) if self.stream.sequence else 1
        return usual_texture(self.stream.header.num_frames, code.end, chunks) if code else 0.0

    def frames(self, item: int = 0, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """`count` frames of an item from number `start` on, uint8 [H, W, 3] at the original's size.

        count: None: to the end. Raises VovError when there are no such frames.
        """
        chosen = self.passes if self.stream.sequence else [self.passes[item]]
        end = end_of(self.stream, start, count)
        shown, header = self.stream.items[item], self.stream.header
        needed = [one for one in chosen if one.first < end and start < one.first + one.frames]
        for one, frames in self.decoded(needed):
            for frame in frames[max(0, start - one.first):end - one.first]:
                yield media.restore_geometry(frame[None], shown.original_width, shown.original_height,
                                             header.resize)[0]

    def decoded(self, wanted: Sequence[Pass]) -> Iterator[tuple[Pass, np.ndarray]]:
        """(pass, frames [n, H, W, 3] at the model's geometry) of these passes, which follow each other.

        Decoding begins at the pass at or before them that stands alone.
        """
        first, last = wanted[0].number, wanted[-1].number
        key = next(number for number in range(first, -1, -1) if not self.passes[number].chained)
        before = None
        for one in self.passes[key:last + 1]:
            followed = one.number < last and self.passes[one.number + 1].chained
            plain, shown = self._pass(one, before, followed, one.number >= first)
            before = None if plain is None else plain[one.frames - 1]
            if shown is not None:
                yield one, shown[:one.frames]

    def _pass(self, one: Pass, before: np.ndarray | None, followed: bool,
              wanted: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Frames (that the next pass follows: without texture; that are shown), each if it is needed."""
        textures = list(dict.fromkeys([0.0] * followed + [max(0.0, self.texture)] * wanted))
        start = self.sampling.start(one.number, before)
        self.thetas.bind(one.scene)
        velocity = self.thetas.velocity(self.sampling.velocity(start, self.conditions[one.scene]))
        replay = self.sampling.replay(one.code, one.number, self.thetas.unbind) if one.code else None
        made = [self.sampling.frames(start, x) for x in self.sampling.latents(start, velocity, replay, textures)]
        return made[0] if followed else None, made[-1] if wanted else None


def _passes(stream: Bitstream, backbone: Backbone) -> Iterator[Pass]:
    """The passes of a file, in order. Raises VovError when its noise does not fit its header."""
    header, sequence = stream.header, stream.sequence
    if sequence is None:
        code, items = None, len(stream.items)
        if stream.noise is not None:
            size = math.prod(backbone.latent_shape(header.width, header.height, header.num_frames))
            code = NoiseCode.from_bytes(stream.noise, header, size, items, f"{stream.source}: noise")
        for number in range(items):
            yield Pass(number, 0, header.num_frames, False, number, code.of_item(number) if code else None)
        return
    first = 0
    for number, chunk in enumerate(sequence.chunks):
        yield Pass(number, first, chunk.frames, chunk.chained, sequence.scene_of(number), sequence.code(number))
        first += chunk.frames
