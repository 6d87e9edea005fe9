"""Rows of results in a JSONL file, each under a key that covers everything it depends on.

What was measured is not measured again, and a changed setting, clip, caption or model never finds an old row: its key
is another one. Rows of other settings stay in the file, unused. Several processes may add to one file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vov import metrics
from vov.media.original import Original
from vov.model.backbone import Backbone
from vov.runtime.files import content_hash

logger = logging.getLogger(__name__)


def key(backbone: Backbone, originals: Sequence[Original], *settings: object) -> str:
    """What names a measurement: the model and where it runs, every frame and caption, and all settings.

    settings: anything with a stable repr: a configuration's `identity`, texts, numbers, bytes.
    """
    clips = [(one.name, one.caption, one.fps, one.frames.shape, content_hash(one.frames.tobytes()))
             for one in originals]
    return content_hash(backbone.fingerprint(), backbone.precision, backbone.device.type, clips, *settings)


class Rows:
    """The rows of a JSONL file; a line that is not one of ours, the last one of a killed run perhaps, is not used.

    Args:
        path: the file; it and its folder are made with the first row.
        files: folder of the files that rows name in "file"; a row counts only while that file is as it was.
    """

    def __init__(self, path: Path, files: Path):
        self.path, self.files = path, files
        self._groups: dict[str, list[dict]] = {}
        strange = 0
        text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self._groups.setdefault(row["key"], []).append(row)
            except (ValueError, TypeError, KeyError):
                strange += bool(line.strip())
        if strange:
            logger.warning("%s: %d lines are cut short or of an older version; they are not used", path, strange)
        self._begin = "\n" if text and not text.endswith("\n") else ""

    def find(self, key: str) -> list[dict]:
        """The rows that were added under a key; none unless all are there and their files have not changed."""
        found = self._groups.get(key, [])
        found = found[-found[-1]["of"]:] if found else []
        whole = found and len(found) == found[-1]["of"] and all(
            row.get("file_hash", "") == file_hash(self.files / row["file"]) for row in found if "file" in row)
        return found if whole else []

    def where(self, name: str, value: object) -> list[dict]:
        """Every row that has this value, whatever became of its file; of rows measured twice the last ones."""
        return [row for rows in self._groups.values() for row in rows[-rows[-1]["of"]:] if row.get(name) == value]

    def add(self, key: str, rows: Sequence[dict]) -> list[dict]:
        """Keeps the rows of one measurement, and a hash of the file that each names; returns them as kept."""
        kept = [{"key": key, "of": len(rows), **row} for row in rows]
        for row in kept:
            if "file" in row:
                row["file_hash"] = file_hash(self.files / row["file"])
        self._groups[key] = kept
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:  # in one piece: other processes add to it too
            file.write(self._begin + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        self._begin = ""
        return kept


def quality(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float | None]:
    """PSNR and MS-SSIM of frames; None for an MS-SSIM that pictures are too small for."""
    large = min(reference.shape[1:3]) >= metrics.WINDOW
    return {"psnr": metrics.psnr(reference, decoded),
            "ms_ssim": metrics.ms_ssim(reference, decoded) if large else None}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None when any value is."""
    return None if None in values else float(np.mean(values))


def four_digits(value: float | None) -> str:
    """A value for a table."""
    return "n/a" if value is None else f"{value:.4f}"


def file_hash(path: Path) -> str:
    """12 hexadecimal digits of a file's content, "" when it is not there."""
    return content_hash(path.read_bytes())[:12] if path.is_file() else ""
