"""Frames of a video file, decoded one by one, from any frame on."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import cast

import av
import av.filter
import numpy as np
from PIL import Image

from vov import VovError
from vov.media.info import Info
from vov.media.probe import decoder_of, from_key, opened, probe_video, video_stream
from vov.media.stills import on_white, say

WARM_UP = 1  # frames before the first one that deinterlacing looks at
TO_SDR = "out_primaries=bt709:out_transfer=bt709:intent=perceptual"  # swscale's tone mapping, after BT.2390


class Video:
    """Frames of a video file as uint8 RGB [H, W, 3]: upright, square pixels, progressive, SDR, over white.

    Memory does not grow with the length: a few decoded frames are held at a time.
    """

    def __init__(self, path: Path):
        self.info, self._packets = probe_video(path)
        for note in self.info.notes:
            say(path, note)

    def frames(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yields the frames from number `first` on; the same as those of a reading from the start.

        Raises:
            VovError: a frame cannot be decoded, is of another size than the first, or is missing.
        """
        begin = max(first - WARM_UP, 0) if self.info.interlaced else first
        for index, frame in enumerate(self._converted(begin), begin):
            if index >= first:
                yield self._displayed(frame)

    def _displayed(self, frame: av.VideoFrame) -> np.ndarray:
        picture = frame.to_ndarray()
        if self.info.alpha:
            picture = np.array(on_white(self.info.path, Image.fromarray(picture)))
        (a, c), (b, d) = self.info.turn
        if a == 0:
            picture = picture.transpose(1, 0, 2)
        return np.ascontiguousarray(picture[::b + d, ::a + c])

    def _converted(self, first: int) -> Iterator[av.VideoFrame]:
        """Frames from `first` on as RGB, or RGBA where there is alpha."""
        chain: _Chain | None = None
        kind, interlaced = None, self.info.interlaced
        for frame in self._decoded(first):
            if frame.interlaced_frame and not interlaced:
                interlaced = True
                say(self.info.path, "interlaced from some frame on: deinterlaced there")
            if chain is None or kind != (frame.format.name, interlaced):
                yield from chain.rest() if chain else ()
                chain, kind = _Chain(frame, _steps(self.info, frame, interlaced)), (frame.format.name, interlaced)
            yield from chain.through(frame)
        yield from chain.rest() if chain else ()

    def _decoded(self, first: int) -> Iterator[av.VideoFrame]:
        """Decoded frames from `first` to the last, none missing."""
        path, count = self.info.path, self.info.count
        index, told = first, "no more pictures"
        frames = self._from(first)
        while index < count:
            try:
                frame = next(frames, None)
            except av.FFmpegError as error:
                frame, told = None, error.strerror or "unreadable"
            if frame is None or frame.is_corrupt or (
                    self._packets.pts is not None and frame.pts != self._packets.pts[index]):
                raise VovError(f"{path}: frame {index} of {count} cannot be decoded ({told}); the file is damaged, "
                               "make or fetch it anew")
            if (frame.width, frame.height) != self.info.coded:
                raise VovError(f"{path}: frame {index} is {frame.width}×{frame.height}, the first is "
                               f"{self.info.coded[0]}×{self.info.coded[1]}; all frames must have one size")
            yield frame
            index += 1

    def _from(self, first: int) -> Iterator[av.VideoFrame]:
        """Decoded frames from `first` on: by seeking to a key picture before it, else from the beginning.

        A container finds its places by decoding times, or guesses them, so one may arrive too late; and a key picture
        inside an open group lists pictures before it, without using them, which a strict decoder takes for damage.
        """
        pts = self._packets.pts
        if pts is None:
            yield from (frame for index, frame in enumerate(self._run(None, True)) if index >= first)
            return
        wanted = int(pts[first])
        before = np.sort(self._packets.keys[self._packets.keys <= wanted]) if first else np.zeros(0, int)
        tries = [(int(before[-back]), back == 1) for back in (1, 2, 4) if back <= len(before)]
        for key, strict in tries:
            frames = self._run(key, strict)
            try:
                frame = next((frame for frame in frames if frame.pts is None or frame.pts >= wanted), None)
            except av.FFmpegError:
                continue
            if frame is not None and frame.pts == wanted:
                yield frame
                yield from frames
                return
            frames.close()
        yield from (frame for frame in self._run(None, True) if frame.pts is None or frame.pts >= wanted)

    def _run(self, key: int | None, strict: bool) -> Generator[av.VideoFrame, None, None]:
        """All frames from the key picture with that time stamp on (None: from the beginning), as they come.

        Pictures that are shown before the key picture but come after it need pictures before it: they are left out.
        """
        pts = self._packets.pts
        floor = key if key is not None else None if pts is None else int(pts[0])
        with opened(self.info.path) as container:
            stream = video_stream(self.info.path, container)
            decoder = decoder_of(stream, self._packets, strict)
            if key is not None:
                container.seek(key, stream=stream, backward=True)
            for packet in from_key(container.demux(stream), self._packets):
                if floor is None or packet.pts is None or packet.pts >= floor or packet.is_discard:
                    yield from decoder.decode(packet if packet.size else None)


def filtered(path: Path, count: int, *steps: tuple[str, str]) -> Iterator[np.ndarray]:
    """The first `count` frames of a stream through ffmpeg filters of one's own, (name, arguments) each; uint8 RGB.

    Raises VovError naming `path` when there are fewer.
    """
    with opened(path) as container:
        stream, chain, given = video_stream(path, container), None, 0
        for frame in container.decode(stream):
            chain = chain or _Chain(frame, (*steps, ("format", "rgb24")))
            for picture in chain.through(frame):
                yield picture.to_ndarray()
                given += 1
                if given == count:
                    return
    raise VovError(f"{path}: frame {given} of {count} cannot be decoded; the file is damaged, make it anew")


def _steps(info: Info, frame: av.VideoFrame, interlaced: bool) -> list[tuple[str, str]]:
    """The filters from a decoded frame to displayed RGB."""
    steps, scale = [("bwdif", "mode=send_frame:deint=interlaced")] if interlaced else [], []
    if info.aspect != 1:
        width = info.height if info.turn[0][0] == 0 else info.width
        scale.append(f"w={width}:h={frame.height}:flags=lanczos")
    if info.transfer:
        scale.append(TO_SDR)
    elif info.wide:
        scale.append("out_primaries=bt709")
    if scale:
        steps.append(("scale", ":".join(scale)))
    return [*steps, ("format", "rgba" if info.alpha else "rgb24")]


class _Chain:
    """ffmpeg's filters, each (name, arguments), for frames of one kind."""

    def __init__(self, frame: av.VideoFrame, steps: Iterable[tuple[str, str]]):
        self.graph = av.filter.Graph()  # held: PyAV's nodes do not keep it alive
        nodes = [self.graph.add_buffer(width=frame.width, height=frame.height, format=frame.format,
                                       time_base=frame.time_base), *(self.graph.add(*step) for step in steps),
                 self.graph.add("buffersink")]
        self.graph.link_nodes(*nodes).configure()
        self.source, self.sink = nodes[0], nodes[-1]

    def through(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Frames that are ready once this one is in; deinterlacing is one behind."""
        self.source.push(frame)
        while True:
            try:
                yield cast("av.VideoFrame", self.sink.pull())
            except (av.BlockingIOError, av.EOFError):
                return

    def rest(self) -> Iterator[av.VideoFrame]:
        """The frames still inside."""
        yield from self.through(None)
