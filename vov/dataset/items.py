"""The items of a data set: rows of a CSV file (path, caption), or the media files of a folder."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vov import VovError, media
from vov.config import read_by
from vov.evaluation.manifest import read_rows
from vov.runtime.files import read_text, there
from vov.runtime.resumable import ours

log = logging.getLogger(__name__)

KINDS = {"image": media.IMAGE_SUFFIXES, "video": media.VIDEO_SUFFIXES, "": media.IMAGE_SUFFIXES | media.VIDEO_SUFFIXES}
NAMES = {"image": "pictures", "video": "clips", "": "pictures or clips"}


@dataclass(frozen=True)
class Listed:
    """One item: where it is, what it shows (may be empty), further cells by column."""

    path: Path
    caption: str = ""
    cells: dict[str, str] = field(default_factory=dict)


def read_items(manifest: str, tree: str, caption: str = "", columns: Collection[str] = (),
               out_dir: str = "") -> list[Listed]:
    """The items of MANIFEST, a CSV file or a folder.

    Of a folder: its media files of the tree, and folders of frames for video; NAME.txt beside one is its caption. What
    runs of ours have put there is no item, nor is OUT_DIR; a CSV file may name it all the same.
    tree: image, video, or "" for both.
    caption: of items without one. columns: that a CSV file may have besides path and caption; an empty cell is unset.
    Raises VovError for a manifest that is missing, empty, or has no column `path` or an unknown one.
    """
    place = Path(manifest)
    if place.is_dir():
        paths = [p for p in sorted(place.iterdir()) if not p.name.startswith(".") and (
            p.suffix.lower() in KINDS[tree] or (tree != "image" and p.is_dir()))]
        own = {name.partition("/")[0] for name in ours(place)}
        made = [path for path in paths if path.name in own or (path.is_dir() and _is_output(path, out_dir))]
        if made:
            more = f" and {len(made) - 5} more" if len(made) > 5 else ""
            log.info("%s: left out, for runs made it: %s%s", place, ", ".join(path.name for path in made[:5]), more)
        found = [Listed(path, _beside(path) or caption) for path in paths if path not in made]
    else:
        found = []
        for number, row in enumerate(read_rows("manifest", place), 1):
            if None in row or not (row.get("path") or "").strip():
                raise VovError(f"`manifest`={manifest}, row {number}: needs a path, and no more cells than columns; "
                               "put text that contains commas in double quotes")
            cells = {key.strip().lower(): (value or "").strip() for key, value in row.items()}
            if strange := sorted(set(cells) - {"path", "caption", *columns}):
                known = "path, caption and settings of encode.sh" if columns else "only path and caption"
                raise VovError(f"`manifest`={manifest}: has a column {strange[0]!r:.40}; {known} are read, remove it")
            path, text = cells.pop("path"), " ".join(cells.pop("caption", "").split())
            found.append(Listed(place.parent / path, text or caption, {k: v for k, v in cells.items() if v}))
    if not found:
        raise VovError(f"`manifest`={manifest}: names no items; give a CSV file with a column path, or a folder of "
                       f"{NAMES[tree]}")
    return found


def read_by_set(settings: Any, items: Sequence[Listed]) -> list[Path]:
    """What a command on a set reads. A folder of originals may hold OUT_DIR, but not be OUT_DIR."""
    manifest, out = Path(settings.manifest), Path(settings.out_dir)
    holds = manifest.is_dir() and not (there(out) and out.samefile(manifest))
    return [*(item.path for item in items), *(path for path in read_by(settings) if path != manifest or not holds)]


def _is_output(folder: Path, out_dir: str) -> bool:
    """Whether a folder holds what runs of ours have made, or is to, and no pictures of anybody else."""
    own = ours(folder)
    chosen = bool(out_dir) and there(out_dir) and folder.samefile(out_dir)
    return (chosen or bool(own)) and all(file.name in own for file in media.image_files(folder))


def _beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    return " ".join(read_text(text).split()) if text.is_file() else ""
