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
         options: dict[str, str] | None = None, ticks: Sequence[int] | None = None, **frame_fields: int) -> None:
    """Frames [T, H, W, 3 or 4] to a video file by PyAV, as a camera or an editor would write it.

    options: of the encoder. ticks: when each frame is shown, in 1/fps. frame_fields: colorspace, color_trc, …
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": "10"} | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = pixels, 1
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
