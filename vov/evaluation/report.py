"""What an evaluation writes besides results.json: a CSV, a Markdown table, an RD figure, one self-contained page."""

from __future__ import annotations

import base64
import csv
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vov import media
from vov.evaluation.catalogue import METRICS, WITHOUT_CURVE

if TYPE_CHECKING:
    from vov.evaluation.pairs import Pair

WEBP_SIDE = 16383  # pixels, the largest that the format has
TEMPLATE = Path(__file__).with_name("report_template.html")
LABELS = {name: metric.label for name, metric in METRICS.items()}
DIGITS = {name: metric.digits for name, metric in METRICS.items()}


def shown(value: Any, digits: int = 2) -> str:
    """A number for a table: fixed digits, "∞", or "n/a"."""
    if value is None:
        return "n/a"
    return value.replace("inf", "∞") if isinstance(value, str) else f"{value:.{digits}f}"


def still_frames(count: int, wanted: int) -> list[int]:
    """Which of `count` frames the report shows: `wanted` of them, evenly spread, without the first and the last."""
    if count <= 2:
        return list(range(min(wanted, count)))
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count) + 2)[1:-1]})


def columns(results: dict) -> list[str]:
    """The metrics of a table: those that some line has; what is n/a everywhere is named below it, with the reason."""
    return [name for name in LABELS if name in results["metrics"]]


def to_csv(results: dict) -> str:
    """One line per item with every number; n/a is an empty cell."""
    names = [name for name in LABELS if name in results["metrics"] or name in results["unavailable"]]
    keys = ("clip", "codec", "name", "frames", "width", "height", "fps", "bytes", "bpp", "kB_per_s", "rate_source",
            "preset", "quality", "fvd_clips")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*keys, *names, "command"])
    for item in results["items"]:
        cells = [item.get(key) for key in keys] + [item["metrics"].get(name) for name in names]
        writer.writerow(["" if cell is None else cell for cell in [*cells, item.get("command")]])
    return buffer.getvalue()


def to_markdown(results: dict) -> str:
    """Tables of items, of codecs over all clips, and of Bjøntegaard deltas; then what is n/a and why."""
    parts = [_items_table(results), _crops_line(results), _summary_table(results), _bd_table(results),
             _reasons(results), _commands(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metric_heads(names: Sequence[str]) -> list[str]:
    arrows = {name: "↓" if METRICS[name].lower else "" if name == "warp_original" else "↑" for name in names}
    return [f"{LABELS[name]} {arrows[name]}".strip() for name in names]


def _metric_cells(metrics: dict, names: Sequence[str]) -> list[str]:
    return [shown(metrics.get(name), DIGITS[name]) for name in names]


def _items_table(results: dict) -> str:
    names = columns(results)
    rows = [[item["clip"], _titled(item), shown(item["bpp"], 5), shown(item["kB_per_s"], 2),
             "n/a" if item["bytes"] is None else f"{item['bytes']:,}", *_metric_cells(item["metrics"], names)]
            for item in results["items"]]
    return _table(["clip", "codec", "bpp", "kB/s", "bytes", *_metric_heads(names)], rows, text=2)


def _crops_line(results: dict) -> str:
    counts = sorted({item["fvd_clips"] for item in results["items"]} - {None})
    counted = ", ".join(map(str, counts))
    return f"FVD of each line is over {counted} crops of 16×224×224 of that one clip." if counts else ""


def _summary_table(results: dict) -> str:
    names = columns(results)
    rows = [[row["codec"], str(row["clips"]), shown(row["bpp"], 5), str(row.get("fvd_clips", "n/a")),
             *_metric_cells(row["metrics"], names)] for row in results["summary"]]
    table = _table(["codec", "clips", "bpp", "FVD crops", *_metric_heads(names)], rows, text=1)
    return "Over all clips (FVD over the crops of all of them):\n\n" + table if rows else ""


def _bd_table(results: dict) -> str:
    rows = [[row["clip"], LABELS[row["metric"]], row["codec"], row["anchor"],
             _signed(row["bd_rate_percent"], 1, " %"), _signed(row["bd_metric"], DIGITS[row["metric"]], "")]
            for row in results["bd"]]
    return _table(["clip", "metric", "codec", "against", "BD-rate", "BD-metric"], rows, text=4) if rows else ""


def _reasons(results: dict) -> str:
    """What is n/a and why, and the notes of the run."""
    groups: dict[str, list[str]] = {}
    for name, reason in results["unavailable"].items():
        groups.setdefault(reason, []).append(LABELS[name])
    return "\n".join([*(f"- {', '.join(names)}: n/a, {reason}" for reason, names in groups.items()),
                      *(f"- {note}" for note in results["notes"])])


def _commands(results: dict) -> str:
    """The first command of every anchor."""
    firsts: dict[str, str] = {}
    for item in results["items"]:
        if item.get("command"):
            firsts.setdefault(item["codec"], item["command"])
    return "Anchors:\n\n" + "\n".join(f"- {codec}: `{command}`" for codec, command in firsts.items()) if firsts else ""


def rd_figure(results: dict) -> bytes | None:
    """RD curves as SVG, a row per clip and a column per metric; None when nothing has a rate."""
    rated = [item for item in results["items"] if item["bpp"]]
    names = [name for name in results["metrics"] if name not in WITHOUT_CURVE]
    if not rated or not names:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    clips = list(dict.fromkeys(item["clip"] for item in rated))[:8]
    figure, axes = pyplot.subplots(len(clips), len(names), figsize=(3.4 * len(names), 2.7 * len(clips)), squeeze=False)
    for row, clip in zip(axes, clips, strict=True):
        for axis, name in zip(row, names, strict=True):
            _draw_curves(axis, results, clip, name)
            axis.set_title(f"{clip}: {LABELS[name]}", fontsize=8)
            axis.set_xlabel("bpp", fontsize=7)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=7)
    figure.set_layout_engine("constrained")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return buffer.getvalue()


def _draw_curves(axis: Any, results: dict, clip: str, name: str) -> None:
    """The curve of every codec for one metric of one clip, then the published ones."""
    rated = [item for item in results["items"] if item["bpp"]]
    for index, codec in enumerate(dict.fromkeys(item["codec"] for item in rated)):
        points = [(i["bpp"], i["metrics"][name]) for i in rated if (i["clip"], i["codec"]) == (clip, codec)
                  and isinstance(i["metrics"].get(name), float)]
        if points:
            axis.plot(*zip(*sorted(points), strict=True), marker="o", ms=4, lw=1.2, color=f"C{index}", label=codec)
    published: dict[str, list[tuple[float, float]]] = {}
    for curve in results["reference_curves"]:
        if curve["metric"] == name and curve["clip"] in (clip, "*"):
            published.setdefault(curve["label"], []).append((curve["bpp"], curve["value"]))
    for label, points in published.items():
        axis.plot(*zip(*sorted(points), strict=True), ls=":", lw=1, color="0.4", label=label)


def to_html(results: dict, pairs: Sequence[Pair]) -> str:
    """The page: data, pictures and videos inside, nothing fetched (its content policy forbids it)."""
    pictures: dict[str, Any] = {"clips": {}, "items": []}
    for pair in pairs:
        measured = pair.measured
        if pair.clip not in pictures["clips"]:
            pictures["clips"][pair.clip] = {
                "frames": list(measured.stills), "stills": [_picture(a) for a, _ in measured.stills.values()],
                "video": _video(measured.video[0], pair.fps) if measured.video else None}
        pictures["items"].append({
            "stills": [_picture(b) for _, b in measured.stills.values()],
            "video": _video(measured.video[1], pair.fps) if measured.video else None})
    data = {"results": results, "pictures": pictures, "labels": LABELS, "digits": DIGITS,
            "units": {name: metric.unit for name, metric in METRICS.items() if metric.unit},
            "lower": [name for name, metric in METRICS.items() if metric.lower],
            "columns": columns(results), "without_curve": WITHOUT_CURVE}
    # "<" as an escape: no text of the data can end the script element
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", text)


def _titled(item: dict) -> str:
    if not item.get("preset"):
        return item["name"] if item["name"].startswith(item["codec"]) else f"{item['codec']} ({item['name']})"
    return f"{item['codec']} {item['preset']}, {item['quality']}"


def _signed(value: Any, digits: int, unit: str) -> str:
    return "n/a" if value is None else f"{value:+.{digits}f}{unit}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: int) -> str:
    """A Markdown table whose first `text` columns are words and the others numbers."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [list(head), *map(list, rows)]]
    rule = [":--" if i < text else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _picture(frame: np.ndarray) -> str:
    """uint8 [H, W, 3] as a WebP data URI; small ones without loss, large ones nearly so, the largest scaled down."""
    buffer = io.BytesIO()
    small = frame.shape[0] * frame.shape[1] <= 256 * 256
    if (side := max(frame.shape[:2])) > WEBP_SIDE:
        frame = media.resize(frame[None], *(max(1, length * WEBP_SIDE // side) for length in frame.shape[1::-1]))[0]
    Image.fromarray(frame).save(buffer, "WEBP", lossless=small, quality=100 if small else 92, method=4)
    return _uri(buffer.getvalue(), "image/webp")


def _video(frames: np.ndarray, fps: float) -> str:
    """uint8 [T, H, W, 3] as an H.264 data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        media.write_video(path, frames, fps, crf=22)
        return _uri(path.read_bytes(), "video/mp4")
