"""Pairs and published curves out of CSV files; every problem is one line that names the file and the row."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from vov import VovError
from vov.evaluation.pairs import EvalConfig, Pair, file_rate, own_rate
from vov.runtime.files import read_text, there

COLUMNS = ("name", "original", "decoded", "clip", "codec", "bitstream", "bytes", "bpp")


def read_manifest(settings: EvalConfig) -> list[Pair]:
    """The pairs of MANIFEST, one a row; empty lines and lines that start with # do not count."""
    path = Path(settings.manifest)
    base = Path(settings.media_dir) if settings.media_dir else path.parent
    rows = read_rows("manifest", path)
    for number, row in enumerate(rows, 1):
        if None in row:  # where DictReader puts what is beyond the last column
            raise VovError(f"{_place(path, number, row)}: {len(row[None])} cells more than columns; put text that "
                           "contains commas in double quotes")
    unknown = sorted({str(key) for row in rows for key in row} - set(COLUMNS))
    if not rows or unknown or not {"name", "original"} <= set(rows[0]):
        problem = f"unknown column {unknown[0]!r}" if unknown else "no rows with name and original"
        raise VovError(f"{path}: {problem}; columns, with commas between, are name, original, decoded [, clip, codec, "
                       "bitstream, bytes, bpp]")
    return [_pair(row, base, _place(path, number, row)) for number, row in enumerate(rows, 1)]


def _pair(row: dict[str, str | None], base: Path, place: str) -> Pair:
    """The pair of one row; `place` names the row in errors."""
    cells = {key: (value or "").strip() for key, value in row.items()}
    name, original, bitstream = cells["name"], cells["original"], cells.get("bitstream", "")
    decoded = cells.get("decoded") or bitstream
    if not name or not original or not decoded:
        raise VovError(f"{place}: needs name, original, and decoded or bitstream")
    for file in (original, decoded, bitstream):
        if file and not there(base / file):
            raise VovError(f"{place}: {base / file} does not exist; `data_root` is what paths start from")
    rate = file_rate(base / bitstream) if bitstream else own_rate(base / decoded) or _stated_rate(cells, place)
    return Pair(name, cells.get("clip") or Path(original).stem, cells.get("codec") or name, base / original,
                base / decoded, **rate)


def _stated_rate(cells: dict[str, str], place: str) -> dict:
    """Rate fields of a `Pair` from the columns bpp or bytes; none when both are empty."""
    for key in ("bpp", "bytes"):
        if text := cells.get(key):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not 0 < value < math.inf:
                raise VovError(f"{place}: {key}={text!r} is not a positive number")
            return {key: value, "rate_source": f"stated {key}"}
    return {}


def read_curves(path: str) -> list[dict]:
    """Published curves: CSV with label, clip, metric, bpp, value; "*" as clip stands for every one."""
    if not path:
        return []
    try:
        return [{"label": row["label"], "clip": row["clip"], "metric": row["metric"], "bpp": float(row["bpp"]),
                 "value": float(row["value"])} for row in read_rows("reference_curves", Path(path))]
    except (KeyError, ValueError, TypeError) as error:
        raise VovError(f"`reference_curves`={path}: needs columns label, clip, metric, bpp, value ({error})") from error


def read_rows(variable: str, path: Path) -> list[dict]:
    """The rows of a CSV file, empty lines and lines that start with # left out; errors name the variable."""
    try:
        lines = read_text(path).splitlines()
        return list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    except OSError as error:
        raise VovError(f"`{variable}`={path}: no such file, or not readable ({error.strerror}); give a CSV file that "
                       "exists") from None
    except VovError as error:  # which names the file
        raise VovError(f"`{variable}`={error}") from error
    except csv.Error as error:
        raise VovError(f"`{variable}`={path}: not a CSV file ({error}); save it as one") from error


def _place(path: Path, number: int, row: dict) -> str:
    return f"{path}, row {number} ({row.get('name') or 'no name'})"
