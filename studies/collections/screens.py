"""Draws screenshots of programs that do not exist: `python -m studies.collections.screens --out pictures/screens`.

A kind of picture that the embedded models have never seen, for `studies.collections.run`: OUT/fit, OUT/test and
OUT/caption.txt. The words on them are those of this repository's README.md.
"""

from __future__ import annotations

import random
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vov import VovError
from vov.config import cli, option
from vov.runtime.files import REPO

SIDE = 256
CAPTION = "a screenshot of a computer program with text, buttons and tables"
DARK, LIGHT = ((30, 32, 38), (220, 222, 226), (44, 46, 54)), ((250, 250, 250), (32, 34, 40), (232, 234, 238))
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Screens:
    """How many, and where they go."""

    out: str = option("", "gets fit/000.webp …, test/100.webp …, caption.txt (required)")
    fit: int = option(100, "pictures to fit to", minimum=1)
    test: int = option(20, "pictures to code", minimum=1)


class Screen:
    """One picture, drawn from the top down."""

    def __init__(self, number: int, words: list[str]):
        self.dice, self.words, self.number = random.Random(number), words, number
        self.back, self.ink, self.panel = DARK if self.dice.random() < 0.4 else LIGHT
        self.colour = tuple(self.dice.randrange(40, 200) for _ in range(3))
        self.image = Image.new("RGB", (SIDE, SIDE), self.back)
        self.draw = ImageDraw.Draw(self.image)

    def font(self, size: int, mono: bool = False) -> ImageFont.FreeTypeFont:
        """DejaVu, which matplotlib brings."""
        from matplotlib import get_data_path

        name = "Mono" if mono else self.dice.choice(["", "-Bold"])
        return ImageFont.truetype(str(Path(get_data_path()) / f"fonts/ttf/DejaVuSans{name}.ttf"), size)

    def text(self, x: int, y: int, text: str, size: int, fill=None, mono: bool = False) -> None:
        """A line of text."""
        self.draw.text((x, y), text, font=self.font(size, mono), fill=fill or self.ink)

    def drawn(self) -> Image.Image:
        """The whole picture: a title bar, a side panel at times, things below each other."""
        self.draw.rectangle((0, 0, SIDE - 1, 22), fill=self.colour)
        self.text(8, 5, " ".join(self.dice.sample(self.words, 2)), 11, "white")
        for k, light in enumerate(((255, 95, 86), (255, 189, 46), (39, 201, 63))):
            self.draw.ellipse((210 + 14 * k, 7, 219 + 14 * k, 16), fill=light)
        left = self.dice.choice([0, 64, 76])
        if left:
            self.draw.rectangle((0, 23, left, SIDE - 1), fill=self.panel)
            for k in range(9):
                self.text(8, 32 + 22 * k, self.dice.choice(self.words)[:9], 10)
        y = 32
        while y < SIDE - 16:
            thing = self.dice.choice([self.prose, self.prose, self.code, self.button, self.table, self.plot])
            y += thing(left + 10, y, 236 - left) + 8
        return self.image

    def prose(self, x: int, y: int, wide: int) -> int:
        """A paragraph; this and the others return their height."""
        size = self.dice.choice([10, 11, 14])
        text = " ".join(self.dice.choices(self.words, k=self.dice.randrange(8, 25)))
        lines = textwrap.wrap(text, wide // 7)[:5]
        for number, line in enumerate(lines):
            self.text(x, y + 15 * number, line, size)
        return 15 * len(lines)

    def code(self, x: int, y: int, wide: int) -> int:
        """Some lines of a program."""
        lines = self.dice.randrange(3, 6)
        for number in range(lines):
            names = self.dice.choice(self.words)[:6], self.dice.choice(self.words)[:7], self.dice.randrange(99)
            self.text(x + 8 * self.dice.randrange(3), y + 12 * number, "{} = {}({})".format(*names), 9,
                      self.dice.choice([self.ink, (200, 90, 60), (70, 140, 220)]), mono=True)
        return 12 * lines

    def button(self, x: int, y: int, wide: int) -> int:
        """A button."""
        self.draw.rounded_rectangle((x, y, x + 70, y + 20), 5, fill=self.colour)
        self.text(x + 10, y + 4, self.dice.choice(self.words)[:8], 10, "white")
        return 26

    def table(self, x: int, y: int, wide: int) -> int:
        """Four rows of three numbers."""
        for row in range(4):
            for column in range(3):
                box = x + column * wide // 3, y + 14 * row, x + (column + 1) * wide // 3, y + 14 * row + 14
                self.draw.rectangle(box, outline=GREY)
                self.text(box[0] + 3, box[1] + 2, str(self.dice.randrange(1000)), 9)
        return 56

    def plot(self, x: int, y: int, wide: int) -> int:
        """A curve in a frame."""
        self.draw.rectangle((x, y, x + wide, y + 50), outline=GREY)
        curve = np.cumsum(np.random.default_rng(self.number + y).normal(size=wide))
        curve = (curve - curve.min()) / (np.ptp(curve) + 1e-6)
        self.draw.line([(x + i, y + 48 - int(46 * v)) for i, v in enumerate(curve)], fill=self.colour, width=2)
        return 50


def main(settings: Screens) -> None:
    """Draws all of them."""
    if not settings.out:
        raise VovError("OUT is not set; name a folder")
    words = [word for word in (REPO / "README.md").read_text().split() if word.isalpha()]
    out = Path(settings.out)
    for number in range(settings.fit + settings.test):
        folder = out / ("fit" if number < settings.fit else "test")
        folder.mkdir(parents=True, exist_ok=True)
        Screen(number, words).drawn().save(folder / f"{number:03d}.webp", quality=95, method=4)
    (out / "caption.txt").write_text(CAPTION)
    print(f"{settings.fit} + {settings.test} pictures in {out}")


if __name__ == "__main__":
    cli.run(Screens, main, "OUT=pictures/screens python -m studies.collections.screens")
