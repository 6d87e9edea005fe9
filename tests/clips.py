"""Real pictures, clips made from them, and video files of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from skimage import data


def photograph(height: int, width: int, which: str = "astronaut") -> np.ndarray:
    """uint8 [height, width, 3] out of a photograph that scikit-image carries."""
    picture = getattr(data, which)()
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top:top + height, left:left + width])


def panning(frames: int, height: int, width: int, speed: int = 2, which: str = "astronaut") -> np.ndarray:
    """uint8 [frames, height, width, 3]: a camera that moves to the right over a photograph, `speed` pixels a frame."""
    wide = photograph(height, width + speed * (frames - 1), which)
    return np.stack([wide[:, speed * t:speed * t + width] for t in range(frames)])


def noisy(clip: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """The clip plus Gaussian noise of `sigma` 8-bit levels."""
    noise = np.random.default_rng(seed).normal(0, sigma, clip.shape)
    return np.clip(clip + noise, 0, 255).round().astype(np.uint8)


def film(path: Path, frames: np.ndarray, fps: Fraction | int = 24, codec: str = "libx264", pixels: str = "yuv420p",
         options: dict[str, str] | None = None, ticks: Sequence[int] | None = None, aspect: int = 1,
         turn: tuple[int, bool] = (0, False), clicks: Sequence[float] = (), sound: str = "aac",
         **frame_fields: int) -> None:
    """Frames [T, H, W, 3 or 4] to a video file by PyAV, as a camera or an editor would write it.

    options: of the encoder. ticks: when each frame is shown, in 1/fps. aspect: of a pixel. turn: degrees to turn it
    counter-clockwise for display, and whether to mirror it after. clicks: seconds of the sound at which it clicks, in
    a track of codec `sound`. frame_fields: colorspace, color_trc, …

    codec: not libx265. With the one in PyAV's wheel headers were refused at random, and other videos of the same
    process came out differently afterwards; without it neither was seen again.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": "10"} | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count, stream.sample_aspect_ratio = pixels, 1, aspect
        if turn != (0, False):
            stream.set_display_rotation(turn[0], hflip=turn[1])
        track = container.add_stream(sound, rate=48000, layout="mono") if clicks else None
        if track:
            wave = np.zeros((1, round(48000 * len(frames) / fps)), np.float32)
            for click in clicks:
                wave[0, round(48000 * click):][:48] = 0.9
            kind = track.codec_context.format.name
            wave = wave if kind.startswith("flt") else np.round(wave * 32767).astype(np.int16)
            for start in range(0, wave.shape[1], 1024):
                given = av.AudioFrame.from_ndarray(wave[:, start:start + 1024], format=kind, layout="mono")
                given.sample_rate, given.pts, given.time_base = 48000, start, Fraction(1, 48000)
                container.mux(track.encode(given))
            container.mux(track.encode(None))
        for name, value in frame_fields.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            given = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgba" if frame.shape[2] == 4 else "rgb24")
            given = given.reformat(format=pixels, dst_colorspace=frame_fields.get("colorspace"))
            for name, value in frame_fields.items():
                setattr(given, name, value)
            given.pts, given.time_base = ticks[index] if ticks else index, 1 / Fraction(fps)
            container.mux(stream.encode(given))
        container.mux(stream.encode(None))
