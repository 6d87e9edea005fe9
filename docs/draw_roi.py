"""Draws roi.png, a picture without and with a region of interest at equal bytes: `python docs/draw_roi.py`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

SIDE, BYTES, STEPS, WEIGHT = 128, 900, 30, 3.0
FACE = (0.42, 0.27, 0.2, 0.26)  # of the astronaut: centre and half axes, in fractions of the picture


def main() -> None:
    """Codes twice, prints PSNR inside and outside, writes the picture."""
    from skimage import data

    from vov import media
    from vov.commands.encode import EncodePictures, encode_pictures

    original = media.resize(data.astronaut()[None, :400, :400], SIDE, SIDE)[0]
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    inside = ((x - FACE[0] - 0.1) / FACE[2]) ** 2 + ((y - FACE[1]) / FACE[3]) ** 2 < 1
    mask = np.repeat(255 * inside[..., None].astype(np.uint8), 3, axis=2)
    shown = [original, mask]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        media.write_image(folder / "astronaut.png", original)
        media.write_image(folder / "mask.png", mask)
        for name, roi in (("without", ""), ("with", str(folder / "mask.png"))):
            encode_pictures(EncodePictures(
                image=str(folder / "astronaut.png"), out_dir=str(folder / name), model_id="nano-image", device="cpu",
                config="", scaling_bytes=100, target_bytes=BYTES, steps=STEPS, roi=roi, roi_weight=WEIGHT))
            decoded = media.read_image(folder / name / "astronaut.png")
            error = (decoded.astype(float) - original) ** 2
            size = (folder / name / "astronaut.vov").stat().st_size
            print(f"{name:<8} {size} bytes, inside {db(error[inside])}, outside {db(error[~inside])}")
            shown.append(decoded)
    media.write_image(HERE / "roi.png", media.side_by_side(*(media.resize(one[None], 256, 256) for one in shown))[0])


def db(error: np.ndarray) -> str:
    """PSNR of squared errors."""
    return f"{10 * np.log10(255**2 / error.mean()):.2f} dB"


if __name__ == "__main__":
    main()
