"""Single pictures and folders of them, through Pillow: what a picture says of itself is obeyed, or said, or refused."""

from __future__ import annotations

import functools
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from vov import VovError
from vov.runtime.background import Behind
from vov.runtime.files import atomic

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".avif"}
ANIMATED_FORMATS = {"GIF", "WEBP", "PNG", "AVIF"}  # others with several pictures hold pages, not frames
MOVING = {"MPEG", "FLI"}  # formats that Pillow knows, but of which only ffmpeg reads the frames
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags
Image.MAX_IMAGE_PIXELS = 2**28  # a picture beyond 268 megapixels is a mistake or an attack
logger = logging.getLogger("vov.media")


@functools.lru_cache(maxsize=4096)
def say(path: Path, text: str) -> None:
    """One line about a file, once however often it is read."""
    logger.info("%s: %s", path, text)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture, its header read; whatever Pillow says against it, then or in the block, becomes a VovError."""
    if not path.is_file():
        raise VovError(f"{path}: {'is a folder, not a picture' if path.is_dir() else 'no such image'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is said in our own words
            image = Image.open(path)
        with image:
            yield image
    except VovError:
        raise
    except Exception as error:  # OSError, ValueError, SyntaxError, struct.error, …: Pillow has no common ancestor
        raise VovError(f"{path}: not a readable image ({error}); make or fetch it anew") from error


def read_image(path: str | Path, said_of: Path | None = None) -> np.ndarray:
    """One image as uint8 RGB [H, W, 3]; lines about it name `said_of` (its folder, say), by default itself.

    The EXIF orientation and an ICC profile are applied, transparent parts are shown on white, grey becomes RGB. Deep
    pictures are scaled by their bit depth, floats from 0…1, never by what they happen to contain. Of several pages
    or an animation the first is read, and said.

    Raises:
        VovError: not a picture; NaN, floats outside 0…1, 32-bit integers (whose white nobody has agreed on).
    """
    path = Path(path)
    said_of = said_of or path
    with opened(path) as image:
        if (count := getattr(image, "n_frames", 1)) > 1:
            say(said_of, f"holds {count} pictures; the first is read")
        return np.array(_rgb(path, said_of, image, orientation(said_of, image)))  # a copy: PIL's own is read-only


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image, upright; only the header is read."""
    with opened(path) as image:
        width, height = image.size
        return (height, width) if orientation(path, image) >= 5 else (width, height)


def orientation(said_of: Path, image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, and a line, when the EXIF block cannot be read."""
    try:
        tags = dict(image.getexif())
    except Exception:  # a damaged EXIF block can raise nearly anything, and says nothing about the pixels
        tags = {}
    if not tags and image.info.get("exif"):
        say(said_of, "its EXIF block is damaged; no rotation is applied")
    return tags.get(ORIENTATION, 1) if tags.get(ORIENTATION) in TURNS else 1


def is_picture(path: Path) -> bool:
    """Whether a file is a picture or an animation, by what it holds; its header is read."""
    try:
        with opened(path) as image:
            return image.format not in MOVING
    except VovError:
        return False


def is_animated(path: Path) -> bool:
    """Whether a picture file is an animation (GIF, APNG, animated WebP or AVIF)."""
    with opened(path) as image:
        return image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1


def animation(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """Yields (uint8 RGB [H, W, 3], seconds that it is shown) of an animated picture, one at a time."""
    with opened(path) as image:
        turn = orientation(path, image)
        for index in range(int(bool(image.info.get("default_image"))), getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            shown = image.info.get("duration") or 0  # milliseconds
            yield np.array(_rgb(path, path, image, turn)), shown / 1000 if shown > 10 else 0.1  # as browsers do


def _rgb(path: Path, said_of: Path, image: Image.Image, turn: int) -> Image.Image:
    """The picture as 8-bit RGB, upright."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # Pillow would clip these, not scale them
        image = Image.fromarray(_eight_bits(path, image)).convert("RGB")
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = on_white(said_of, _in_srgb(said_of, profile, image.convert("RGBA")))
    else:
        image = _in_srgb(said_of, profile, image if image.mode == "CMYK" else image.convert("RGB")).convert("RGB")
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def _eight_bits(path: Path, image: Image.Image) -> np.ndarray:
    """Deep grey as uint8 [H, W]: white is the largest value of the bit depth, 1 for floats."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise VovError(f"{path}: {np.count_nonzero(~np.isfinite(values))} pixels are NaN or infinite; "
                           "fill them and save it anew")
        low, high = values.min(), values.max()
        if low < -1 / 255 or high > 1 + 1 / 255:
            raise VovError(f"{path}: floats from {low:g} to {high:g}; scale them to 0…1, or save 8 or 16 bits")
        white = 1.0
    elif image.mode == "I" and image.format != "PPM":  # Pillow scales PGM to 16 bits
        raise VovError(f"{path}: 32-bit integers, whose white is not defined; save 8 or 16 bits")
    else:
        tags = getattr(image, "tag_v2", {})
        white = 2.0 ** int(np.ravel(tags.get(BITS_PER_SAMPLE, 16))[0]) - 1
        if tags.get(PHOTOMETRIC) == 0:  # TIFF's "white is zero"
            values = white - values
    return np.clip(np.rint(values * (255.0 / white)), 0, 255).astype(np.uint8)


def on_white(said_of: Path, image: Image.Image) -> Image.Image:
    """RGBA over white, the one rule for alpha in every medium; said when something is transparent."""
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    say(said_of, "transparent parts are shown on white")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _in_srgb(said_of: Path, profile: bytes | None, image: Image.Image) -> Image.Image:
    """RGB, RGBA or CMYK with an ICC profile brought to sRGB; a profile that cannot be used is said and left."""
    if not profile:
        return image
    try:
        parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(parsed).strip()
        if "srgb" in name.lower():
            return image
        mode = "RGB" if image.mode == "CMYK" else image.mode
        shown = ImageCms.profileToProfile(image, parsed, _srgb(), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        say(said_of, f"its colour profile cannot be used ({error}); read as sRGB")
        return image
    say(said_of, f"colours converted from {name} to sRGB")
    return image if shown is None else shown  # Pillow returns None only when told to work in place


@functools.lru_cache(maxsize=1)
def _srgb() -> ImageCms.core.CmsProfile:
    return ImageCms.createProfile("sRGB")


def natural_key(path: Path) -> list:
    """Sorts frame2 before frame10. Only decimal digits are numbers: ① is a letter."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", path.name)]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files and whatever is no picture are left out."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."
                   and p.is_file()), key=natural_key)


def refuse_gaps(files: Sequence[Path]) -> None:
    """Raises VovError when numbered frames miss a number or have one twice; every second number, say, is no gap.

    Looked at only when all names are alike but for one number (the last in the name).
    """
    parts = [p for path in files if (p := re.fullmatch(r"(.*?)(\d+)(\D*)", path.stem))]
    if len(files) < 3 or len(parts) < len(files) or len({(p[1], p[3]) for p in parts}) > 1:
        return
    numbers = [int(p[2]) for p in parts]
    steps = np.diff(numbers)
    if (twice := np.flatnonzero(steps == 0)).size:
        one, other = files[twice[0]].name, files[twice[0] + 1].name
        raise VovError(f"{files[0].parent}: {one} and {other} have the same number; keep one of them")
    step = int(np.bincount(steps).argmax())
    if (gaps := np.flatnonzero(steps != step)).size:
        before, after = files[gaps[0]], files[gaps[0] + 1]
        raise VovError(f"{files[0].parent}: frames are missing between {before.name} and {after.name} (numbers "
                       f"otherwise rise by {step}); add them, or number the frames anew without gaps")


def refuse_no_picture(path: str | Path, variable: str) -> None:
    """Raises VovError, before any work, when `path` has no ending of a picture."""
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise VovError(f"`{variable}`={path}: what has one frame is written as a picture; end the name in .png")


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """uint8 RGB [H, W, 3] to an image file, whole or not at all."""
    with atomic(path) as temporary:
        Image.fromarray(frame).save(temporary)


def write_frames(folder: str | Path, frames: Iterable[np.ndarray]) -> None:
    """Frames to folder/00000.png, 00001.png, …; several at a time."""
    with Behind() as behind:
        for index, frame in enumerate(frames):
            behind(write_image, Path(folder) / f"{index:05d}.png", frame)
