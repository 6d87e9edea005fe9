"""The demo's own steps: a clip to code when the user has none, and a picture of the result."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vov import media

FRAMES, WIDTH, HEIGHT = 17, 192, 112


def camera_move(photo: np.ndarray, frames: int = FRAMES) -> np.ndarray:
    """A slow zoom and pan over a photograph [H, W, 3]: uint8 [frames, 112, 192, 3]."""
    height, width = photo.shape[:2]
    clip = []
    for phase in np.linspace(0, 1, frames):
        ease = 0.5 - 0.5 * np.cos(np.pi * phase)  # starts and stops gently
        view_width = (0.95 - 0.2 * ease) * width
        view_height = view_width * HEIGHT / WIDTH
        left, top = (0.02 + 0.12 * ease) * width, (0.05 + 0.1 * ease) * (height - view_height)
        box = (left, top, left + view_width, top + view_height)
        clip.append(media.view(photo, box, WIDTH, HEIGHT))
    return np.stack(clip)


def make_clip(folder: Path) -> None:
    """Writes frames over scikit-image's CC0 photograph of a cup of coffee (taken by Rachel Michetti)."""
    media.write_frames(folder, camera_move(photograph("coffee")))


def photograph(name: str) -> np.ndarray:
    """A CC0 photograph that comes with scikit-image, uint8 [H, W, 3]: coffee, chelsea."""
    from skimage import data

    return getattr(data, name)()


def label_columns(picture: np.ndarray, titles: list[str]) -> np.ndarray:
    """The picture [H, W, 3] below a white band with a title over each of its equally wide columns."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 15)  # has θ
    lines = max(title.count("\n") for title in titles) + 1
    band = Image.new("RGB", (picture.shape[1], 8 + 19 * lines), "white")
    pen = ImageDraw.Draw(band)
    for column, title in enumerate(titles):
        middle = (column + 0.5) * band.width / len(titles)
        pen.multiline_text((middle, band.height / 2), title, "black", font, anchor="mm", align="center")
    return np.concatenate([np.asarray(band), picture])


def compare(original: str, output: Path, decoded: list[Path]) -> None:
    """Writes original | decoded | … as output.png (four frames, each column with its name and bytes) and output.mp4."""
    coded = [media.read_clip(folder).frames for folder in decoded]
    count, height, width = coded[0].shape[:3]
    source = media.fit_geometry(media.read_clip(original, count).frames, width, height, "crop")
    row = np.repeat(np.repeat(media.side_by_side(source, *coded), 2, axis=1), 2, axis=2)
    titles = ["original"]
    for folder in decoded:
        name = "coded noise" if folder.name == "noise" else "θ"
        file = folder.with_suffix(".vov")
        titles.append(f"{name}, {file.stat().st_size:,} bytes" if file.is_file() else name)
    media.write_image(output.with_suffix(".png"), label_columns(media.contact_sheet(row), titles))
    media.write_video(output.with_suffix(".mp4"), row, 12)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["clip", folder]:
            make_clip(Path(folder))
        case ["compare", original, output, *decoded] if decoded:
            compare(original, Path(output), [Path(folder) for folder in decoded])
        case ["label", picture, output, *titles] if titles:
            media.write_image(Path(output), label_columns(media.read_image(picture), titles))
        case _:
            raise SystemExit("usage: python -m scripts.demo clip FOLDER | compare ORIGINAL OUTPUT DECODED… | "
                             "label PICTURE OUTPUT TITLE…")
