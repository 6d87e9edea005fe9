"""Frames of any medium, one by one: a folder of pictures, an animation, a picture, a video file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vov import VovError
from vov.media import stills, timing
from vov.media.geometry import Geometry
from vov.media.info import Info, with_av
from vov.media.stills import IMAGE_SUFFIXES, image_files, read_image
from vov.media.timing import DEFAULT_FPS

if TYPE_CHECKING:  # which needs PyAV
    from vov.media.video import Video


@dataclass(frozen=True)
class Clip:
    """Frames as uint8 RGB [T, H, W, 3] and their rate in frames per second.

    times: when each is shown, float64 [T] seconds from the first, where the rate varies and was kept; else None.
    """

    frames: np.ndarray
    fps: float
    times: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames.shape[2], self.frames.shape[1]


class FrameSource:
    """Frames of an image, an animation, a video file or a folder of images, read one by one in constant memory.

    Every frame of a constant rate is read. A varying rate is brought to the usual one, frames doubled and left out as
    the screen would show them, and said; `keep_times` keeps all frames and gives their times instead.

    Args:
        start: the first frame to read: its number (after any change of rate), or a time such as "2.5s" or "1:02.5".
        frames: how many to read at most; 0: all.
        fps: what the rate shall be: frames are doubled and left out to that end. A folder of frames does not say its
            rate; there it is the rate of the frames as they are. 0: the medium's (24 for a folder).
        keep_times: keep a varying rate.
        size: (width, height) to bring frames to, by `resize`: crop, pad or stretch; None: as displayed.

    Attributes:
        info: what the medium says about itself.
        count, fps: how many frames, and how many a second (of kept times: the mean).
        times: when each is shown, float64 [count] seconds from the first.

    Raises:
        VovError: nothing there, no frames, unreadable, damaged, gaps in numbering, unequal sizes. Damage inside a
            video shows while iterating.
    """

    def __init__(self, path: str | Path, *, start: str | int = 0, frames: int = 0, fps: float = 0.0,
                 keep_times: bool = False, size: tuple[int, int] | None = None, resize: str = "crop"):
        self.path = Path(path)
        if not str(path) or not self.path.exists():
            raise VovError(f"{path or 'INPUT'}: no such folder, video or image; give a path that exists")
        if not 0 <= fps <= timing.HIGHEST_FPS:
            raise VovError(f"`fps`={fps:g}: must lie in 0…{timing.HIGHEST_FPS}; 0 keeps the rate of {self.path}")
        self._medium = _medium(self.path)
        info = self.info = self._medium.info
        self.geometry = Geometry((info.width, info.height), size, resize) if size else None
        self.fps = float(fps or info.rate)
        times = info.times if info.timed or not fps else np.arange(info.count) / fps
        if info.variable and keep_times and not fps:
            self.fps = info.count / info.duration
            picks = np.arange(info.count)
        elif not info.timed or (not info.variable and abs(self.fps / info.rate - 1) < 1e-4):
            picks, times = np.arange(info.count), np.arange(info.count) / self.fps
        else:
            picks = timing.at_constant_rate(info.times, info.duration, self.fps, self.path)
            times = np.arange(len(picks)) / self.fps
            stills.say(self.path, f"{'variable frame rate' if info.variable else f'{info.rate:.5g} frames a second'} "
                                  f"brought to {self.fps:.5g}: {len(picks)} frames from {info.count}")
        first = timing.first_frame(start, self.fps)
        if first >= len(picks):
            raise VovError(f"{self.path}: has {len(picks)} frames, `start`={start} is behind the last")
        stop = min(first + frames, len(picks)) if frames else len(picks)
        self._picks, self._begin = picks[first:stop], float(times[first])
        self._end = float(times[stop]) if stop < len(times) else float("inf")
        self.times, self.count = times[first:stop] - times[first], stop - first

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 RGB [H, W, 3]."""
        return self.read()

    def read(self, first: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """Yields `count` frames from number `first` on (of this source), uint8 RGB [H, W, 3]; None: to the end.

        They are the same whether they are read alone or with those before them.
        """
        picks = self._picks[first:None if count is None else first + count]
        frames: Iterator[np.ndarray] | None = None
        frame, at = np.empty(0), -1
        for pick in picks.tolist():
            if frames is None:
                frames, at = self._medium.frames(pick), pick - 1
            repeated = at == pick
            while at < pick:
                at += 1
                if (following := next(frames, None)) is None:
                    raise VovError(f"{self.path}: ends after {at} of {self.info.count} frames; make or fetch it anew")
                frame = following
            if self.geometry and not repeated:
                frame = self.geometry.fit(frame[None])[0]
            yield frame.copy() if repeated else frame

    def clip(self, first: int = 0, count: int | None = None) -> Clip:
        """Frames as `read` gives them, together."""
        frames = np.stack(list(self.read(first, count)))
        times = self.times[first:first + len(frames)] - self.times[first]
        kept = np.abs(times * self.fps - np.arange(len(times))).max() > 1e-6
        return Clip(frames, self.fps, times if kept else None)

    def sound(self) -> bytes:
        """The sound of just these frames: its packets as they are, in a small mp4; b"" when there is none.

        Raises VovError for a codec that mp4 cannot hold.
        """
        if not self.info.audio:
            return b""
        begin = float(self.info.begin)
        return with_av("audio").extract(self.path, begin + self._begin, begin + self._end)


class Pictures:
    """A folder of pictures, or one."""

    def __init__(self, path: Path, files: list[Path]):
        self._path, self._files = path, files
        stills.refuse_gaps(files)
        sizes = [stills.picture_size(file) for file in files]
        for file, size in zip(files, sizes, strict=True):
            if size != sizes[0]:
                raise VovError(f"{path}: {file.name} is {size[0]}×{size[1]}, {files[0].name} is "
                               f"{sizes[0][0]}×{sizes[0][1]}; all frames must have one size")
        times = np.arange(len(files)) / DEFAULT_FPS
        self.info = Info(path, *sizes[0], times, len(files) / DEFAULT_FPS, DEFAULT_FPS, timed=False)

    def frames(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yields the pictures from number `first` on."""
        return (read_image(file, self._path) for file in self._files[first:])


class Animation:
    """A GIF, an APNG, an animated WebP or AVIF."""

    def __init__(self, path: Path):
        self._path = path
        width, height = stills.picture_size(path)
        shown = np.array([seconds for _, seconds in stills.animation(path)])
        times = np.concatenate([[0.0], np.cumsum(shown)[:-1]])
        rate, variable = timing.constant_rate(times, float(shown[-1]), 0.0)
        self.info = Info(path, width, height, times, float(shown.sum()), rate, variable)

    def frames(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yields the frames from number `first` on; those before are decoded too."""
        return (frame for index, (frame, _) in enumerate(stills.animation(self._path)) if index >= first)


def _medium(path: Path) -> Pictures | Animation | Video:
    """What reads the path: it has `info`, and `frames` from a number on."""
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise VovError(f"{path}: no images in this folder; give one with frames "
                           f"({', '.join(sorted(IMAGE_SUFFIXES))})")
        return Pictures(path, files)
    if _is_picture(path):
        return Animation(path) if stills.is_animated(path) else Pictures(path, [path])
    return with_av("video").Video(path)


def _is_picture(path: Path) -> bool:
    """Whether Pillow reads a file: by what it holds; by its name, for errors, where nothing can read it."""
    if stills.is_picture(path):
        return True
    if path.suffix.lower() not in IMAGE_SUFFIXES | {".gif"}:
        return False
    try:
        return not with_av("probe").is_video(path)
    except VovError:  # no PyAV
        return True


def is_moving(path: str | Path) -> bool:
    """Whether a path is a video (a folder of frames, an animation, a video file) and not a single picture.

    What a file holds decides, whatever it is called. Raises VovError for what can be read as neither.
    """
    path = Path(path)
    if path.is_dir():
        return True
    if _is_picture(path):
        return stills.is_animated(path)
    probe = with_av("probe")
    with probe.opened(path) as container:
        probe.video_stream(path, container)
    return True


def read_clip(path: str | Path, count: int = 0, **options: Any) -> Clip:
    """The first `count` frames (0: all) of a folder, video or image, with the options of `FrameSource`.

    Raises:
        VovError: as FrameSource, or fewer frames than asked.
    """
    source = FrameSource(path, **options)
    if count > len(source):
        raise VovError(f"{path}: has {len(source)} frames, {count} are asked for; lower `num_frames` (4n+1)")
    return source.clip(0, count or None)
