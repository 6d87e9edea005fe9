"""What a set came to: results.json, results.csv, failed.csv, and the manifest that an evaluation reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vov.dataset.jobs import NUMBERS
from vov.runtime.files import write_bytes, write_json

COLUMNS = ("name", "tree", "path", "file", *NUMBERS, "seconds", "node")


TREES = ("image", "video")


def totals(rows: Sequence[Mapping[str, Any]], failed: int, seconds: float) -> dict[str, Any]:
    """Files, bytes, the mean of every quality over the files, seconds of all work; seconds: of this run."""
    means = {name: float(np.mean(values)) for name in ("bpp", "psnr", "ms_ssim")
             if (values := [row[name] for row in rows if row.get(name) is not None])}
    return {"files": len(rows), "failed": failed, "bytes": sum(row.get("bytes", 0) for row in rows), **means,
            "seconds_of_work": round(sum(row.get("seconds", 0.0) for row in rows), 1), "seconds": round(seconds, 1)}


def write(folder: Path, rows: Sequence[Mapping[str, Any]], failed: Sequence[tuple[str, str]], seconds: float) -> dict:
    """Writes all of it into `folder`; returns the totals, where a set has pictures and videos also {tree: totals}.

    failed: (path, why).
    """
    found = totals(rows, len(failed), seconds)
    parts = {tree: part for tree in TREES if (part := [row for row in rows if row["tree"] == tree])}
    if len(parts) > 1:
        found |= {tree: _of_tree(part) for tree, part in parts.items()}
    write_json(folder / "results.json", {"totals": found, "items": [dict(row) for row in rows]})
    write_bytes(folder / "results.csv", _csv(COLUMNS, [[row.get(name, "") for name in COLUMNS] for row in rows]))
    write_failed(folder, failed)
    pairs = [[f"{row['tree']} {row['name']}", row["name"], row["tree"], str(Path(row["path"]).resolve()),
              _decoded(Path(row["file"])), Path(row["file"]).resolve()] for row in rows]
    write_bytes(folder / "manifest.csv", _csv(("name", "clip", "codec", "original", "decoded", "bitstream"), pairs))
    return found


def _of_tree(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = totals(rows, 0, 0.0)
    return {name: found[name] for name in found if name not in ("failed", "seconds")}  # these are the whole set's


def write_failed(folder: Path, failed: Sequence[tuple[str, str]]) -> None:
    """failed.csv with a line for each, or none where nothing failed."""
    path = folder / "failed.csv"
    if failed:
        write_bytes(path, _csv(("path", "reason"), failed))
    else:
        path.unlink(missing_ok=True)


def _decoded(file: Path) -> Path:
    """What encode.sh leaves beside a file: a picture, or a folder of frames."""
    picture = file.with_suffix(".png")
    return (picture if picture.is_file() else file.with_suffix("")).resolve()


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()
