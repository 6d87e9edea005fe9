"""The only pixel I/O: images, video files and frame folders to and from uint8 RGB [T, H, W, 3]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vov import VovError
from vov.files import atomic

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".avif"}
VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".y4m", ".m4v", ".mpg", ".ts", ".gif"}
DEFAULT_FPS = 24.0  # of a folder of frames, which does not say
Image.MAX_IMAGE_PIXELS = 2**28  # a picture beyond 268 megapixels is a mistake or an attack


@dataclass(frozen=True)
class Clip:
    """Frames as uint8 RGB [T, H, W, 3] and their rate in frames per second."""

    frames: np.ndarray
    fps: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames.shape[2], self.frames.shape[1]


def natural_key(path: Path) -> list:
    """Sorts frame2 before frame10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order, hidden files left out."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."),
                  key=natural_key)


def read_image(path: str | Path) -> np.ndarray:
    """One image as uint8 RGB [H, W, 3]: EXIF rotation applied, alpha over white, 16 bit to 8, grey to RGB."""
    path = Path(path)
    if not path.is_file():
        raise VovError(f"{path}: no such image")
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # PIL would clip, not scale
                values = np.asarray(image).astype(np.float64)
                peak = 255.0 if values.max() <= 255 else 65535.0
                grey = np.clip(np.rint(values * (255.0 / peak)), 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))  # a copy: PIL's own is read-only
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VovError(f"{path}: not a readable image ({error}); make or fetch it anew") from error


class FrameSource:
    """Frames of an image, a video file or a folder of images, read one by one.

    Raises:
        VovError: nothing there, no frames, unreadable, or frames of unequal sizes (while iterating).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._reader = None
        if not str(path) or not self.path.exists():
            raise VovError(f"{path or 'FRAMES_DIR'}: no such folder, video or image; give a path that exists")
        if self.path.is_dir():
            self._files = image_files(self.path)
            if not self._files:
                raise VovError(f"{self.path}: no images in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
            self.count, self.fps = len(self._files), DEFAULT_FPS
        elif self.path.suffix.lower() in IMAGE_SUFFIXES:
            self._files, self.count, self.fps = [self.path], 1, DEFAULT_FPS
        else:
            import decord  # here, so that images need no video library

            decord.logging.set_level(decord.logging.QUIET)  # its own message would precede our one line
            try:
                self._reader = decord.VideoReader(str(self.path), num_threads=2)
                self.count, self.fps = len(self._reader), float(self._reader.get_avg_fps())
            except (decord.DECORDError, RuntimeError, OSError) as error:
                raise VovError(f"{self.path}: not a readable video; try to re-encode it with ffmpeg") from error
            if self.count == 0:
                raise VovError(f"{self.path}: the video has no frames")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 RGB [H, W, 3]."""
        shape = None
        for index in range(self.count):
            frame = self._read(index)
            shape = shape or frame.shape
            if frame.shape != shape:
                raise VovError(f"{self.path}: frame {index} is {frame.shape[1]}×{frame.shape[0]}, the first is "
                               f"{shape[1]}×{shape[0]}; all frames must have one size")
            yield frame

    def _read(self, index: int) -> np.ndarray:
        if self._reader is None:
            return read_image(self._files[index])
        import decord

        try:
            frame = self._reader[index].asnumpy()
        except decord.DECORDError as error:
            raise VovError(f"{self.path}: frame {index} cannot be decoded; the file is damaged") from error
        if frame.shape[2] == 4:  # decord takes row padding for a fourth channel when 3·width rounds up to 4·width
            frame = frame.reshape(len(frame), -1)[:, :frame.shape[1] * 3].reshape(len(frame), -1, 3)
        return frame


def read_clip(path: str | Path, count: int = 0) -> Clip:
    """The first `count` frames (0: all) of a folder, video or image.

    Raises:
        VovError: as FrameSource, or fewer frames than asked.
    """
    source = FrameSource(path)
    if count > len(source):
        raise VovError(f"{path}: has {len(source)} frames, {count} are asked for; lower NUM_FRAMES (4n+1)")
    frames = [frame for _, frame in zip(range(count or len(source)), source, strict=False)]
    return Clip(np.stack(frames), source.fps)


def fit_geometry(frames: np.ndarray, width: int, height: int, mode: str) -> np.ndarray:
    """Brings uint8 [T, H, W, 3] to [T, height, width, 3].

    crop: scale to cover, cut the centre. stretch: scale each axis. pad: scale down if larger, then repeat the
    edge to the right and bottom. `restore_geometry` undoes stretch and pad.
    """
    source_height, source_width = frames.shape[1:3]
    if (source_width, source_height) == (width, height):
        return frames
    if mode == "stretch":
        return resize(frames, width, height)
    if mode == "pad":
        inner_width, inner_height = padded_content(source_width, source_height, width, height)
        content = resize(frames, inner_width, inner_height)
        return np.pad(content, ((0, 0), (0, height - inner_height), (0, width - inner_width), (0, 0)), mode="edge")
    scale = max(width / source_width, height / source_height)
    cover_width, cover_height = max(width, round(source_width * scale)), max(height, round(source_height * scale))
    left, top = (cover_width - width) // 2, (cover_height - height) // 2
    return resize(frames, cover_width, cover_height)[:, top:top + height, left:left + width]


def restore_geometry(frames: np.ndarray, width: int, height: int, mode: str) -> np.ndarray:
    """Undoes `fit_geometry` for a source of width×height; a crop stays as it is."""
    if mode == "crop" or frames.shape[1:3] == (height, width):
        return frames
    if mode == "pad":
        inner_width, inner_height = padded_content(width, height, frames.shape[2], frames.shape[1])
        frames = frames[:, :inner_height, :inner_width]
    return resize(frames, width, height)


def padded_content(source_width: int, source_height: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the picture inside a padded frame: the source, scaled down to fit if it is larger."""
    scale = min(1.0, width / source_width, height / source_height)
    return max(1, round(source_width * scale)), max(1, round(source_height * scale))


def resize(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [T, H, W, 3] to [T, height, width, 3]; Lanczos, antialiased."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])


def view(frame: np.ndarray, box: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """What a camera sees of a picture [H, W, 3] through (left, top, right, bottom), in fractions of a pixel too."""
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS, box=box))


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """uint8 RGB [H, W, 3] to an image file, whole or not at all."""
    with atomic(path) as temporary:
        Image.fromarray(frame).save(temporary)


def write_frames(folder: str | Path, frames: Sequence[np.ndarray]) -> None:
    """Frames to folder/00000.png, 00001.png, …"""
    for index, frame in enumerate(frames):
        write_image(Path(folder) / f"{index:05d}.png", frame)


def write_video(path: str | Path, frames: np.ndarray, fps: float, crf: int = 12) -> None:
    """uint8 [T, H, W, 3] to an H.264 mp4 for looking at (lossy; metrics read the PNG frames).

    Odd sizes are padded by one repeated row or column, which 4:2:0 needs. One thread, so equal input gives
    equal bytes.
    """
    import imageio

    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with atomic(path) as temporary:
        writer = imageio.get_writer(
            temporary, format="FFMPEG", mode="I", fps=fps, codec="libx264", macro_block_size=1,
            ffmpeg_log_level="error", output_params=["-crf", str(crf), "-threads", "1", "-bitexact"])
        with writer:
            for frame in even:
                writer.append_data(frame)


def side_by_side(*clips: np.ndarray) -> np.ndarray:
    """Clips [T, H, W, 3] of equal T, scaled to the first one's height, next to each other with a thin gap."""
    height = clips[0].shape[1]
    parts = []
    for index, clip in enumerate(clips):
        if index:
            parts.append(np.full((len(clip), height, 4, 3), 255, np.uint8))
        parts.append(resize(clip, round(clip.shape[2] * height / clip.shape[1]), height))
    return np.concatenate(parts, axis=2)


def contact_sheet(clip: np.ndarray, columns: int = 4) -> np.ndarray:
    """One picture of `columns` frames spread evenly over a clip [T, H, W, 3], stacked top to bottom."""
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    return np.concatenate([clip[i] for i in chosen], axis=0)
