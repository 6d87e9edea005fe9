"""The only pixel I/O: images, video files and frame folders to and from uint8 RGB [T, H, W, 3]."""

from __future__ import annotations

import math
import re
import subprocess
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
        self._files: list[Path] = []
        if not str(path) or not self.path.exists():
            raise VovError(f"{path or 'FRAMES_DIR'}: no such folder, video or image; give a path that exists")
        if self.path.is_dir():
            self._files = image_files(self.path)
            if not self._files:
                raise VovError(f"{self.path}: no images in this folder; give one with frames "
                               f"({', '.join(sorted(IMAGE_SUFFIXES))})")
            self.count, self.fps = len(self._files), DEFAULT_FPS
        elif self.path.suffix.lower() in IMAGE_SUFFIXES:
            self._files, self.count, self.fps = [self.path], 1, DEFAULT_FPS
        else:
            self.count, self.fps = video_index(self.path)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 RGB [H, W, 3]."""
        shape = None
        frames = map(read_image, self._files) if self._files else ffmpeg_frames(
            self.path, self.count, "-noautorotate", *_video_input(self.path))
        for index, frame in enumerate(frames):
            shape = shape or frame.shape
            if frame.shape != shape:
                raise VovError(f"{self.path}: frame {index} is {frame.shape[1]}×{frame.shape[0]}, the first is "
                               f"{shape[1]}×{shape[0]}; all frames must have one size")
            yield frame


def ffmpeg() -> str:
    """Path of imageio-ffmpeg's ffmpeg; raises VovError when it is not there."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise VovError("no ffmpeg found; run scripts/setup.sh, or set IMAGEIO_FFMPEG_EXE to one") from error


def video_index(path: Path) -> tuple[int, float]:
    """(frames, frames per second) of a video file, from its packets: nothing is decoded.

    Packets that an edit list cuts away are not counted; no decoder shows them. Raises VovError for anything that is
    not a video.
    """
    command = [ffmpeg(), "-v", "error", "-xerror", *_video_input(path), "-c", "copy", "-f", "framecrc", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          check=False)
    base = re.search(r"^#tb 0: (\d+)/(\d+)", done.stdout, re.M)
    packets = [line.split(",") for line in done.stdout.splitlines() if line[:1] == "0"]
    # stream, dts, pts, duration, size, checksum [, F=flags]; flag 4 is AV_PKT_FLAG_DISCARD
    kept = [p for p in packets if not any(field.strip().startswith("F=") and int(field.strip()[2:], 16) & 4
                                          for field in p[6:])]
    if done.returncode and kept:  # -xerror: otherwise a file cut short would be taken for a shorter clip
        raise VovError(f"{path}: damaged or cut short after {len(kept)} frames; make or fetch it anew")
    if not base or not kept:
        raise VovError(f"{path}: not a readable video; fetch it anew, or re-encode it with ffmpeg")
    tick = int(base[1]) / int(base[2])  # seconds
    times, intervals = [int(p[2]) for p in kept], max(len(kept) - 1, 1)
    span = tick * ((max(times) - min(times)) / intervals or int(kept[0][3]))  # seconds per frame
    if span <= 0:
        return len(kept), DEFAULT_FPS
    # Matroska rounds times to milliseconds: the nearest usual rate that is within that rounding was meant
    usual = min((whole * scale for whole in (round(1 / span) or 1, math.ceil(1 / span)) for scale in (1, 1000 / 1001)),
                key=lambda rate: abs(1 / rate - span))
    return len(kept), float(usual) if abs(1 / usual - span) <= tick / intervals else 1 / span


def _video_input(path: Path) -> list[str]:
    """ffmpeg's arguments for the first video stream of a local file; a playlist cannot make it fetch anything."""
    return ["-protocol_whitelist", "file", "-i", f"file:{path}", "-map", "0:V:0"]


def ffmpeg_frames(path: Path, count: int, *arguments: str) -> Iterator[np.ndarray]:
    """Yields the first `count` frames that ffmpeg decodes with these arguments, uint8 RGB [H, W, 3], one at a time.

    Through a pipe of PPM pictures, which say their own size. Raises VovError naming `path` when there are fewer.
    """
    command = [ffmpeg(), "-v", "error", *arguments, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm",
               "-f", "image2pipe", "-"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        pipe = process.stdout
        try:
            for index in range(count):
                magic, size, _ = (pipe.readline() for _ in range(3))  # P6, width and height, the largest value
                width, height = map(int, size.split()) if magic == b"P6\n" else (0, 0)
                frame = np.empty((height, width, 3), np.uint8)
                if not frame.size or pipe.readinto(memoryview(frame).cast("B")) != frame.size:
                    raise VovError(f"{path}: frame {index} of {count} cannot be decoded; the file is damaged, make or "
                                   "fetch it anew")
                yield frame
        finally:
            process.kill()


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
