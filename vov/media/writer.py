"""Writes clips: an mp4 for looking at, with sound and time stamps where there are any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.filter
import numpy as np

from vov import VovError
from vov.media import audio
from vov.media.timing import HIGHEST_FPS
from vov.runtime.files import atomic

TICKS = 90000  # a second, of kept time stamps
BT709, LIMITED = 1, 1  # ITU-T H.273; AVCOL_RANGE_MPEG
TO_YUV = "out_color_matrix=bt709:out_range=tv:flags=bicubic"


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float, crf: int = 12,
                times: Sequence[float] | None = None, sound: bytes = b"") -> None:
    """Frames, uint8 [H, W, 3] each, to an H.264 mp4 for looking at (lossy; metrics read the PNG frames).

    Whole or not at all. Frames are taken one at a time. Odd sizes are padded by one repeated row or column, which
    4:2:0 needs. Colours are BT.709, and tagged so. One thread, so equal input gives equal bytes (of 120 clips
    written with four threads, 7 came out otherwise).

    Args:
        times: when each frame is shown, in seconds from the first; None: at `fps`.
        sound: of `FrameSource.sound`; its packets are copied.

    Raises:
        VovError: the disk is full, no frames, or a rate that no video has.
    """
    if not 0.01 <= fps <= HIGHEST_FPS:
        raise VovError(f"{path}: {fps:g} frames per second cannot be written; set `fps` to 0.01…{HIGHEST_FPS}")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VovError(f"{path}: there are no frames to write")
    with atomic(path) as temporary, _errors(Path(path)):
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(f"file:{temporary}", "w", format="mp4", options=options) as target:
            encoder = _Encoder(target, first.shape[1], first.shape[0], fps, crf, times)
            with _packets(sound, Path(path)) as (stream, packets):
                copy = target.add_stream_from_template(stream) if stream else None
                waiting = next(packets, None) if stream else None
                for index, frame in enumerate(itertools.chain([first], frames)):
                    encoder.write(frame, index)
                    while copy and waiting is not None and (waiting.pts or 0) * waiting.time_base <= encoder.seconds:
                        waiting = _copy(target, copy, waiting, packets)
                encoder.write(None, 0)
                while copy and waiting is not None:
                    waiting = _copy(target, copy, waiting, packets)


def _packets(sound: bytes, path: Path) -> AbstractContextManager[tuple[av.AudioStream | None, Iterator[av.Packet]]]:
    return audio.packets(sound, path) if sound else nullcontext((None, iter(())))


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """ffmpeg's refusals as a VovError; failures of the file system go on to `atomic`."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise VovError(f"{path}: the video cannot be encoded ({error.strerror}); change its size or `fps`") from error


def _copy(target: av.container.OutputContainer, copy: av.AudioStream, packet: av.Packet,
          packets: Iterator[av.Packet]) -> av.Packet | None:
    packet.stream = copy
    target.mux(packet)
    return next(packets, None)


class _Encoder:
    """x264 in a container."""

    def __init__(self, target: av.container.OutputContainer, width: int, height: int, fps: float, crf: int,
                 times: Sequence[float] | None):
        self.target, self.times, self.seconds = target, times, 0.0
        self.shape = height, width
        self.padding = ((0, height % 2), (0, width % 2), (0, 0))
        rate = Fraction(fps).limit_denominator(1001)
        self.tick = Fraction(1, TICKS) if times is not None else 1 / rate
        self.stream = target.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        self.stream.width, self.stream.height = width + width % 2, height + height % 2
        self.stream.pix_fmt, self.stream.thread_count = "yuv420p", 1
        self.stream.time_base = self.stream.codec_context.time_base = self.tick
        context = self.stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        self.graph = av.filter.Graph()
        nodes = [self.graph.add_buffer(width=self.stream.width, height=self.stream.height,
                                       format=av.VideoFormat("rgb24"), time_base=self.tick),
                 self.graph.add("scale", TO_YUV), self.graph.add("format", "yuv420p"), self.graph.add("buffersink")]
        self.graph.link_nodes(*nodes).configure()
        self.source, self.sink = nodes[0], nodes[-1]

    def write(self, picture: np.ndarray | None, index: int) -> None:
        """Encodes one frame, uint8 [H, W, 3]; None: what is still inside."""
        frame = None
        if picture is not None:
            if picture.shape[:2] != self.shape:
                raise VovError(f"frame {index} is {picture.shape[1]}×{picture.shape[0]}, the first "
                               f"{self.shape[1]}×{self.shape[0]}; a video has one size")
            padded = np.ascontiguousarray(np.pad(picture, self.padding, mode="edge"))
            given = av.VideoFrame.from_ndarray(padded, format="rgb24")
            given.pts = index if self.times is None else round(self.times[index] * TICKS)
            given.time_base = self.tick
            self.seconds = float(given.pts * self.tick)
            self.source.push(given)
            frame = cast("av.VideoFrame", self.sink.pull())
            frame.colorspace = frame.color_primaries = frame.color_trc = BT709
            frame.color_range = LIMITED
        for packet in self.stream.encode(frame):
            self.target.mux(packet)
