"""Sound as it came: its compressed packets in a small mp4, cut to a clip, and back beside other pictures.

mp4 is the container because it keeps sample-exact times, negative ones for what a decoder needs before the beginning
included; that costs about 4 bytes a packet (Matroska: 7, and times in milliseconds).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from vov import VovError
from vov.media.probe import opened

PREROLL = 0.1  # seconds before the beginning that decoders may need: one frame of AAC, 80 ms of Opus
EXACT = {"fflags": "+bitexact", "movie_timescale": "48000"}  # the scale that the time of the first packet is kept in


def extract(path: Path, begin: float, end: float) -> bytes:
    """The sound of a file between two of its times in seconds, as an mp4 whose time 0 is `begin`; b"" for none.

    No packet is changed. Raises VovError when mp4 cannot hold the codec, or the file is damaged.
    """
    out = io.BytesIO()
    with opened(path) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream) or stream.time_base is None:
            return b""
        try:
            with av.open(out, "w", format="mp4", options=EXACT) as target:
                copy = target.add_stream_from_template(stream)
                shift, empty = round(begin / stream.time_base), True
                for packet in container.demux(stream):
                    if packet.pts is None:
                        continue
                    seconds = float(packet.pts * packet.time_base)
                    if seconds >= end:
                        break
                    if seconds >= begin - PREROLL:
                        packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.pts - shift, copy
                        target.mux(packet)
                        empty = False
        except (av.FFmpegError, ValueError) as error:
            raise VovError(f"{path}: its sound ({stream.codec_context.name}) cannot be copied into an mp4 "
                           f"({_reason(error)}); set `audio`=none, or convert it: ffmpeg -i IN -c:v copy -c:a aac "
                           "OUT.mkv"
                           ) from error
    return b"" if empty else out.getvalue()


@contextmanager
def packets(data: bytes, where: Path) -> Iterator[tuple[av.AudioStream, Iterator[av.Packet]]]:
    """The stream and the packets of what `extract` gave; raises VovError when they are no such thing."""
    try:
        with av.open(io.BytesIO(data), "r", format="mp4", metadata_errors="replace") as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                raise VovError(f"{where}: its sound holds no audio stream; leave it out with `audio`=none")
            yield stream, (packet for packet in container.demux(stream) if packet.pts is not None)
    except av.InvalidDataError as error:
        raise VovError(f"{where}: its sound is damaged ({_reason(error)}); leave it out with `audio`=none") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
