"""The originals of `scripts/results.sh`, at the size that is coded: folders of frames and pictures in OUT/originals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vov import VovError, media
from vov.media.original import Original
from vov.runtime.files import REPO

DEMO = "demo"  # in a list: the demo's clip, photographs of scikit-image; free of rights, they may be shown
CAPTIONS = {"coffee": "an espresso in a white cup on a red saucer with a spoon, on a dark wooden table",
            "chelsea": "a tabby cat, close up", "clips": "a short video clip", "pictures": "a photograph"}
SIZE = (192, 112)  # of clips, pixels


@dataclass(frozen=True)
class Measured:
    """One clip or picture.

    Attributes:
        kind: clips, sequences or pictures.
        path: what the commands read.
        free: whether it may be shown.
    """

    kind: str
    name: str
    path: Path
    fps: float
    caption: str
    free: bool

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 RGB [T, H, W, 3]."""
        return media.read_image(self.path)[None] if self.kind == "pictures" else media.read_clip(self.path).frames

    def original(self) -> Original:
        """For `kept.key`."""
        return Original(self.frames, self.fps, self.caption, self.name)


def read(kind: str, text: str, base: str, folder: Path, length: int, side: int, show: str) -> Iterator[Measured]:
    """The originals of a list NAME=PATH,…, written to `folder` unless they are there.

    Args:
        base: what relative paths start from.
        length: frames of a clip or sequence; 0: all.
        side: pixels of a picture's longer side.
        show: names of those that may be shown, beside the demo's.
    Raises:
        VovError: a path that is not there, two of one name.
    """
    seen: set[str] = set()
    for word in filter(None, (word.strip() for word in text.split(","))):
        for name, where in entries(kind, word):
            if name in seen:
                raise VovError(f"{kind.upper()}={text}: {name} is there twice; write NAME=PATH")
            seen.add(name)
            path = folder / kind / (f"{name}.png" if kind == "pictures" else f"{name}-{length}/{name}")
            fps = write(kind, where if where == DEMO else str(Path(base) / where), name, path, length, side)
            yield Measured(kind, name, path, fps, caption(kind, name), where == DEMO or name in show.split(","))


def entries(kind: str, word: str) -> list[tuple[str, str]]:
    """(name, path) of one word of a list; of `demo` all that it stands for."""
    if word == DEMO:
        return [(name, DEMO) for name in (("coffee", "chelsea") if kind == "pictures" else ("coffee",))]
    name, equals, path = word.partition("=")
    return [(name, path) if equals else (Path(word).stem, word)]


def caption(kind: str, name: str) -> str:
    """What the descriptions of both trees say of this name, else a few words that fit anything."""
    file = REPO / "video" / "descriptions" / f"descriptions_{name}.txt"
    if kind != "pictures" and file.is_file():
        return " ".join(file.read_text(encoding="utf-8").split())
    for line in (REPO / "image" / "descriptions" / "kodak.txt").read_text(encoding="utf-8").splitlines():
        path, bar, text = line.partition("|")
        if bar and Path(path).stem == name and kind == "pictures":
            return text.strip()
    return CAPTIONS.get(name, CAPTIONS["pictures" if kind == "pictures" else "clips"])


def write(kind: str, where: str, name: str, path: Path, length: int, side: int) -> float:
    """Writes one original unless it is there; returns its frames per second."""
    from scripts import demo

    if kind == "pictures":
        frame = demo.photograph(name) if where == DEMO else media.read_image(where)
        scale = side / max(frame.shape[:2])
        if scale < 1:
            frame = media.resize(frame[None], round(frame.shape[1] * scale), round(frame.shape[0] * scale))[0]
        if not (path.is_file() and np.array_equal(media.read_image(path), frame)):
            media.write_image(path, frame)
        return 0.0
    if where == DEMO:
        fps, frames = 24.0, demo.camera_move(demo.photograph(name), length or 49)
    else:
        source = media.FrameSource(where, frames=length, size=SIZE, resize="crop")
        fps, frames = source.fps, np.stack(list(source))
    if not (path.is_dir() and np.array_equal(media.read_clip(path).frames, frames)):
        media.write_frames(path, frames)
    return fps
