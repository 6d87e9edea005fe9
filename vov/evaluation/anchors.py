"""Anchors: what a user would pick instead, encoded here and now, at sizes matched to ours.

Video: x264, x265, SVT-AV1 and VVC (libvvenc) of imageio-ffmpeg's ffmpeg. Images: JPEG, WebP and AVIF of Pillow,
JPEG XL (libjxl) of that ffmpeg; the video codecs code a picture as a clip of one frame. The video codecs are tuned for
PSNR, code the clip as one group of pictures (one intra frame, as a `.vov` file is one piece), and are fed our RGB
frames converted to BT.709 4:2:0, whose loss is the codec's. Bytes are those of the elementary stream: no container, no
SEI messages.
"""

from __future__ import annotations

import io
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from vov import VovError
from vov.media.info import with_av
from vov.runtime.files import atomic, write_bytes

TO_YUV = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
TO_RGB = ("scale", "in_color_matrix=bt709:in_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp")


@dataclass(frozen=True)
class Codec:
    """One anchor. `quality` runs from `finest` to `coarsest`; larger is smaller, as with CRF and QP."""

    name: str
    title: str
    coarsest: int
    preset: str
    extension: str
    arguments: tuple[str, ...] = ()  # of ffmpeg, with {q}, {preset}, {small}; empty: Pillow
    finest: int = 1

    @property
    def is_video(self) -> bool:
        return bool(self.arguments)


CODECS = {codec.name: codec for codec in (
    Codec("x264", "H.264 (x264)", 51, "veryslow", "h264", (
        "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "{preset}", "-tune", "psnr", "-crf", "{q}",
        "-x264-params", "keyint=infinite:scenecut=0", "-bsf:v", "filter_units=remove_types=6", "-f", "h264")),
    Codec("x265", "HEVC (x265)", 51, "slow", "hevc", (
        "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-preset", "{preset}", "-tune", "psnr", "-crf", "{q}",
        "-x265-params", "keyint=-1:scenecut=0:info=0:log-level=error{small}",
        "-bsf:v", "filter_units=remove_types=39|40", "-f", "hevc")),
    Codec("svtav1", "AV1 (SVT-AV1)", 63, "4", "obu", (
        "-pix_fmt", "yuv420p10le", "-c:v", "libsvtav1", "-preset", "{preset}", "-crf", "{q}", "-g", "99999",
        "-svtav1-params", "tune=1", "-f", "obu")),
    Codec("vvc", "VVC (VVenC)", 63, "medium", "vvc", (
        "-pix_fmt", "yuv420p10le", "-c:v", "libvvenc", "-preset", "{preset}", "-qp", "{q}", "-qpa", "0",
        "-vvenc-params", "intraperiod=-1", "-f", "vvc")),
    Codec("jpeg", "JPEG", 99, "optimised, progressive", "jpg", finest=5),
    Codec("webp", "WebP", 100, "6", "webp", finest=0),
    Codec("avif", "AVIF", 100, "4", "avif", finest=0),
    Codec("jxl", "JPEG XL", 60, "9", "jxl", finest=0),
)}
VIDEO_CODECS = tuple(name for name, codec in CODECS.items() if codec.is_video)
SMALL = 64  # pixels a side below which x265 goes without cutree
IMAGE_CODECS = tuple(name for name, codec in CODECS.items() if not codec.is_video)


@dataclass(frozen=True)
class Encoded:
    """A clip encoded by an anchor.

    Attributes:
        bytes: of the elementary stream.
        quality: CRF or QP; for pictures 100 − quality; for JPEG XL see `jxl_distance`.
        command: that makes the stream from raw RGB frames on standard input (or the Pillow call).
    """

    codec: Codec
    path: Path
    bytes: int
    quality: int
    preset: str
    command: str
    width: int
    height: int
    frames: int
    fps: float

    def open(self) -> Decoded:
        """The decoded frames."""
        return Decoded(self)


def ffmpeg() -> str:
    """Path of imageio-ffmpeg's ffmpeg, which encodes; raises VovError when it is not there."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise VovError("no ffmpeg found; run scripts/setup.sh, or set IMAGEIO_FFMPEG_EXE to one") from error


class Decoded:
    """Frames of an anchor's stream, decoded one by one; quacks like `media.FrameSource`."""

    def __init__(self, encoded: Encoded):
        self.encoded, self.path = encoded, encoded.path
        self.count, self.fps = encoded.frames, encoded.fps

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 RGB [H, W, 3]."""
        e = self.encoded
        if e.codec.name == "jxl":
            yield np.frombuffer(_ffmpeg("-i", str(e.path), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"),
                                np.uint8).reshape(e.height, e.width, 3)
            return
        if not e.codec.is_video:
            with Image.open(e.path) as image:
                yield np.array(image.convert("RGB"))  # a copy: PIL's own is read-only
            return
        yield from with_av("video").filtered(e.path, self.count, TO_RGB, ("format", "gbrp"),
                                             ("crop", f"{e.width}:{e.height}:0:0:exact=1"))


def parse_anchors(text: str) -> list[tuple[str, str]]:
    """"x265,vvc=faster" → [("x265", "slow"), ("vvc", "faster")]; "video" and "image" stand for all of a kind.

    Raises VovError for an unknown name. "explicit" is left to `vov.evaluation.explicit`.
    """
    groups = {"video": VIDEO_CODECS, "image": IMAGE_CODECS, "none": ()}
    found: dict[str, str] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, _, preset = part.partition("=")
        for one in groups.get(name, (name,)):
            if one != "explicit" and one not in CODECS:
                raise VovError(f"`anchors`={text}: {one!r} is not one of {', '.join(CODECS)}, explicit, video, image")
            found[one] = preset or (CODECS[one].preset if one in CODECS else "")
    return list(found.items())


def encode(codec: Codec, source: Iterable[np.ndarray], count: int, fps: float, quality: int, preset: str,
           folder: Path) -> Encoded:
    """Encodes the first `count` frames of `source` (uint8 [H, W, 3] each) into folder/qNN.extension.

    Raises VovError when the encoder fails (an unknown preset, for instance); nothing is left behind then.
    """
    path = folder / f"q{quality:02d}.{codec.extension}"
    frames = islice(iter(source), count)
    first = next(frames)
    height, width = first.shape[:2]
    if codec.is_video:
        command = _encode_video(codec, first, frames, fps, quality, preset, path)
        size = path.stat().st_size
    else:
        if count != 1:
            raise VovError(f"{codec.title} codes single pictures; for clips use `anchors`={','.join(VIDEO_CODECS)}")
        data, command = _encode_picture(codec, first, quality, preset)
        write_bytes(path, data)
        size = payload_bytes(data)
    return Encoded(codec, path, size, quality, preset, command, width, height, count, fps)


def match_size(size_at: Callable[[int], int], finest: int, coarsest: int, target: int) -> int:
    """The finest quality whose size is at most `target` bytes; the coarsest one if none is.

    `size_at` should fall with quality; it is asked three or four times, guided by sizes halving about every six
    steps, and never for a quality much finer than needed.
    """
    low, high = finest - 1, coarsest  # size(high) ≤ target < size(low), as far as is known
    size = size_at(high)
    if size > target:
        return coarsest
    known = {high: np.log2(size)}
    goal = np.log2(max(target, 1))
    while high - low > 1:
        slope = (known[low] - known[high]) / (high - low) if low in known else 1 / 6
        guess = high - int((goal - known[high]) / max(slope, 1e-3))
        guess = min(max(guess, low + 1), high - 1)
        size = size_at(guess)
        known[guess] = np.log2(max(size, 1))
        if size <= target:
            high = guess
        else:
            low = guess
    return high


def anchor_points(name: str, preset: str, source: Iterable[np.ndarray], count: int, fps: float,
                  targets: Iterable[int], folder: Path) -> list[Encoded]:
    """One encoding per target size in bytes (coinciding ones once), coarsest first.

    Encodings that were tried on the way are removed.
    """
    codec = CODECS[name]
    folder.mkdir(parents=True, exist_ok=True)
    tried: dict[int, Encoded] = {}

    def size_at(quality: int) -> int:
        if quality not in tried:
            tried[quality] = encode(codec, source, count, fps, quality, preset, folder)
        return tried[quality].bytes

    chosen = {match_size(size_at, codec.finest, codec.coarsest, target) for target in sorted(targets)}
    for quality, encoded in tried.items():
        if quality not in chosen:
            encoded.path.unlink(missing_ok=True)
    return [tried[quality] for quality in sorted(chosen, reverse=True)]


def payload_bytes(data: bytes) -> int:
    """Bytes of a picture without its container: AVIF's media data, WebP's chunk, the whole of a JPEG."""
    if data[4:8] == b"ftyp":
        position, total = 0, 0
        while position + 8 <= len(data):
            size = int.from_bytes(data[position:position + 4], "big")
            if data[position + 4:position + 8] == b"mdat":
                total += (size or len(data) - position) - 8
            position += size if size >= 8 else len(data)
        return total
    return len(data) - 20 if data[:4] == b"RIFF" else len(data)


def _encode_video(codec: Codec, first: np.ndarray, rest: Iterator[np.ndarray], fps: float, quality: int,
                  preset: str, path: Path) -> str:
    height, width = first.shape[:2]
    pad_width, pad_height = width % 2, height % 2  # 4:2:0 needs even sizes; cut off again when decoding
    # x265's cutree writes beyond its buffer at a width of 48 and ends in "free(): invalid next size".
    small = ":cutree=0" if min(width, height) < SMALL else ""
    arguments = [a.format(q=quality, preset=preset, small=small) for a in codec.arguments]
    head = ["-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
            "-s", f"{width + pad_width}x{height + pad_height}", "-r", f"{fps:g}", "-i", "-",
            "-vf", TO_YUV, "-colorspace", "bt709", "-color_range", "tv"]
    with atomic(path) as temporary, tempfile.TemporaryFile() as log:
        process = subprocess.Popen([ffmpeg(), *head, *arguments, str(temporary)], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, stderr=log)
        assert process.stdin is not None  # a pipe
        try:
            with process.stdin as pipe:
                for frame in (first, *rest) if not pad_width + pad_height else _padded(first, rest):
                    pipe.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            pass  # the encoder has given up; its message follows
        finally:
            code = process.wait()
        if code or not temporary.is_file() or not temporary.stat().st_size:
            log.seek(0)
            message = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
            if code < 0:
                raise VovError(f"{codec.title} crashed with frames of {width}×{height} ({signal.Signals(-code).name}, "
                               f"{message[0]}); a fault of the encoder: leave {codec.name} out of `anchors`")
            raise VovError(f"{codec.title} failed with preset {preset!r} ({message[0]}); choose another one with "
                           f"`anchors`={codec.name}=PRESET")
    return shlex.join(["ffmpeg", *head, *arguments, path.name])


def _ffmpeg(*arguments: str, data: bytes = b"") -> bytes:
    """What ffmpeg writes to its standard output; VovError with its first line when it fails."""
    done = subprocess.run([ffmpeg(), "-v", "error", *arguments], input=data, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise VovError(f"ffmpeg failed ({lines[0][:120]})")
    return done.stdout


def _padded(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    padding = ((0, first.shape[0] % 2), (0, first.shape[1] % 2), (0, 0))
    yield np.pad(first, padding, mode="edge")
    for frame in rest:
        yield np.pad(frame, padding, mode="edge")


def jxl_distance(quality: int) -> float:
    """Butteraugli distance of a quality step of JPEG XL: 15 (ffmpeg's largest) at 60, half of it every 8 steps."""
    return round(15 * 2 ** ((quality - CODECS["jxl"].coarsest) / 8), 4)


def _encode_picture(codec: Codec, frame: np.ndarray, quality: int, preset: str) -> tuple[bytes, str]:
    if codec.name == "jxl":
        size = f"{frame.shape[1]}x{frame.shape[0]}"
        arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-i", "-", "-c:v", "libjxl", "-effort", preset,
                     "-distance", f"{jxl_distance(quality):g}", "-f", "image2pipe", "-"]
        try:
            return _ffmpeg(*arguments, data=np.ascontiguousarray(frame).tobytes()), shlex.join(["ffmpeg", *arguments])
        except VovError as error:
            raise VovError(f"`anchors`=jxl={preset}: {error}; the preset must be 1 to 9, and this ffmpeg needs "
                           "libjxl, as imageio-ffmpeg's has") from error
    options: dict = {"quality": 100 - quality}
    if codec.name == "jpeg":
        options |= {"optimize": True, "progressive": True}
    else:
        try:
            options["method" if codec.name == "webp" else "speed"] = int(preset)
        except ValueError:
            raise VovError(f"`anchors`={codec.name}={preset}: the preset must be a whole number") from None
    buffer = io.BytesIO()
    try:
        Image.fromarray(frame).save(buffer, codec.name.upper(), **options)
    except (KeyError, OSError, ValueError) as error:
        raise VovError(f"Pillow cannot write {codec.title} ({error}); run scripts/setup.sh, or leave it out of "
                       "`anchors`") from error
    listed = ", ".join(f"{key}={value}" for key, value in options.items())
    return buffer.getvalue(), f"Pillow save({codec.name.upper()!r}, {listed})"
