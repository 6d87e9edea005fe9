"""Which pictures a command is given, and their captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from vov import VovError
from vov.bitstream import Item
from vov.media import read_image
from vov.media.original import Original
from vov.runtime.files import REPO, read_text

if TYPE_CHECKING:
    from vov.fitting.settings import FitConfig

C = TypeVar("C", bound="FitConfig")


def described(path: str, start: int = 1, end: int = 0) -> list[tuple[str, str]]:
    """The (path, caption) of lines `start` to `end` (from 1, inclusive; 0: the last) of a description file.

    Blank lines and lines that begin with # do not count. Raises VovError that names the line of every problem.
    """
    file = next((p for p in (Path(path), REPO / "image" / path) if p.is_file()), None)
    if file is None:
        raise VovError(f"{path}: no such description file; set DESCRIPTION_FILE, or INPUT and CAPTION")
    lines = read_text(file).splitlines()
    entries, problems = [], []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, bar, caption = (part.strip() for part in line.partition("|"))
        name, caption = PurePosixPath(name).as_posix() if name else "", " ".join(caption.split())
        entries.append((name, caption))
        if problem := _problem(name, bar, caption):
            problems.append(f"line {number}: {problem}")
            continue
        first = seen.setdefault(name.rpartition(".")[0] or name, number)  # both would decode to one PNG
        if first != number:
            problems.append(f"line {number}: {name} is already on line {first}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise VovError(f"{path}: {'; '.join(problems[:5])}{more}; a line is relative/path|caption")
    end = end or len(entries)
    if not 1 <= start <= end <= len(entries):
        raise VovError(f"CAPTION_START={start} CAPTION_END={end}: {path} has {len(entries)} captions; "
                       f"choose 1 <= start <= end <= {len(entries)}")
    return entries[start - 1:end]


def _problem(name: str, bar: str, caption: str) -> str:
    """What is wrong with a line, or nothing."""
    if not bar or not name:
        return "no path|" if not name else "no | between path and caption"
    if not caption:
        return f"the caption of {name} is empty"
    try:
        Item(caption, 1, 1, name)  # the file's own rules: lengths, no absolute path, no ..
    except VovError as error:
        return str(error)
    return ""


def read_pictures(entries: Sequence[tuple[str, str]], root: str) -> list[Original]:
    """The pictures of (path, caption) entries below `root`; VovError that lists all that are missing."""
    missing = [name for name, _ in entries if not (Path(root) / name).is_file()]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise VovError(f"DATA_ROOT={root}: {len(missing)} of {len(entries)} pictures are missing: "
                       f"{', '.join(missing[:10])}{more}")
    return [Original(read_image(Path(root) / name)[None], 0.0, caption, name) for name, caption in entries]


def at_size(settings: C, sources: Sequence[Original], unit: int) -> C:
    """The settings with WIDTH or HEIGHT 0 replaced by the largest picture's own, rounded up to `unit` and padded."""
    if settings.width and settings.height:
        return settings
    sizes = [max(source.frames.shape[axis] for source in sources) for axis in (2, 1)]
    width, height = (given or -(-size // unit) * unit
                     for given, size in zip((settings.width, settings.height), sizes, strict=True))
    return dataclasses.replace(settings, width=width, height=height, resize="pad")
