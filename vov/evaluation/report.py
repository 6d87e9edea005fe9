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
from vov.evaluation.bdrate import LOWER_IS_BETTER

if TYPE_CHECKING:
    from vov.evaluation.pairs import Item

TEMPLATE = Path(__file__).with_name("report_template.html")
LABELS = {"psnr": "PSNR", "psnr_frames": "PSNR/frame", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips_vgg": "LPIPS-VGG",
          "lpips_alex": "LPIPS-Alex", "dists": "DISTS", "fvd": "FVD", "fvd_full": "FVD full", "flicker": "flicker",
          "warp": "warp error", "warp_original": "… of the original"}
UNITS = {"psnr": "dB, from the mean MSE", "psnr_frames": "dB, mean of the frames' PSNR", "flicker": "8-bit levels",
         "warp": "8-bit levels", "warp_original": "8-bit levels"}
DIGITS = {"psnr": 2, "psnr_frames": 2, "ssim": 4, "ms_ssim": 4, "lpips_vgg": 4, "lpips_alex": 4, "dists": 4, "fvd": 1,
          "fvd_full": 1, "flicker": 2, "warp": 2, "warp_original": 2}


def shown(value: Any, digits: int = 2) -> str:
    """A number for a table: fixed digits, "∞", or "n/a"."""
    if value is None:
        return "n/a"
    return value.replace("inf", "∞") if isinstance(value, str) else f"{value:.{digits}f}"


def columns(results: dict) -> list[str]:
    """The metrics of a table: those measured, then those that are n/a, so that a reader misses nothing."""
    measured = [name for name in LABELS if name in results["metrics"]]
    return measured + [name for name in LABELS if name in results["unavailable"] and name not in measured
                       and not results["unavailable"][name].startswith("needs at least 2")]


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
    names = columns(results)
    arrows = {name: "↓" if name in LOWER_IS_BETTER else "" if name == "warp_original" else "↑" for name in names}
    head = ["clip", "codec", "bpp", "kB/s", "bytes", *(f"{LABELS[name]} {arrows[name]}".strip() for name in names)]
    rows = [[item["clip"], _titled(item), shown(item["bpp"], 5), shown(item["kB_per_s"], 2),
             "n/a" if item["bytes"] is None else f"{item['bytes']:,}",
             *(shown(item["metrics"].get(name), DIGITS[name]) for name in names)] for item in results["items"]]
    parts = [_table(head, rows, text=2)]
    clips = {item["fvd_clips"] for item in results["items"]} - {None}
    if clips:
        count = ", ".join(map(str, sorted(clips)))
        parts.append(f"FVD of each line is over {count} crops of 16×224×224 of that one clip.")
    if results["summary"]:
        rows = [[row["codec"], str(row["clips"]), shown(row["bpp"], 5), str(row.get("fvd_clips", "n/a")),
                 *(shown(row["metrics"].get(name), DIGITS[name]) for name in names)] for row in results["summary"]]
        parts.append("Over all clips (FVD over the crops of all of them):\n\n" +
                     _table(["codec", "clips", "bpp", "FVD crops", *head[5:]], rows, text=1))
    if results["bd"]:
        rows = [[row["clip"], LABELS[row["metric"]], row["codec"], row["anchor"],
                 _signed(row["bd_rate_percent"], 1, " %"), _signed(row["bd_metric"], DIGITS[row["metric"]], "")]
                for row in results["bd"]]
        parts.append(_table(["clip", "metric", "codec", "against", "BD-rate", "BD-metric"], rows, text=4))
    reasons: dict[str, list[str]] = {reason: [] for reason in results["unavailable"].values()}
    for name, reason in results["unavailable"].items():
        reasons[reason].append(LABELS[name])
    lines = [f"- {', '.join(names)}: n/a, {reason}" for reason, names in reasons.items()]
    parts += ["\n".join([*lines, *(f"- {note}" for note in results["notes"])])] if lines or results["notes"] else []
    firsts: dict[str, str] = {}
    for item in results["items"]:
        if item.get("command"):
            firsts.setdefault(item["codec"], item["command"])
    if firsts:
        parts.append("Anchors:\n\n" + "\n".join(f"- {codec}: `{command}`" for codec, command in firsts.items()))
    return "\n\n".join(parts) + "\n"


def rd_figure(results: dict) -> bytes | None:
    """RD curves as SVG, a row per clip and a column per metric; None when nothing has a rate."""
    rated = [item for item in results["items"] if item["bpp"]]
    names = [name for name in results["metrics"] if name not in ("psnr_frames", "warp_original", "fvd_full")]
    if not rated or not names:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    clips = list(dict.fromkeys(item["clip"] for item in rated))[:8]
    codecs = list(dict.fromkeys(item["codec"] for item in rated))
    figure, axes = pyplot.subplots(len(clips), len(names), figsize=(3.4 * len(names), 2.7 * len(clips)), squeeze=False)
    for row, clip in zip(axes, clips, strict=True):
        for axis, name in zip(row, names, strict=True):
            for index, codec in enumerate(codecs):
                points = sorted((i["bpp"], i["metrics"][name]) for i in rated if i["clip"] == clip
                                and i["codec"] == codec and isinstance(i["metrics"].get(name), float))
                if points:
                    axis.plot(*zip(*points, strict=True), marker="o", ms=4, lw=1.2, color=f"C{index}", label=codec)
            for label in dict.fromkeys(c["label"] for c in results["reference_curves"]):
                points = sorted((c["bpp"], c["value"]) for c in results["reference_curves"] if c["label"] == label
                                and c["metric"] == name and c["clip"] in (clip, "*"))
                if points:
                    axis.plot(*zip(*points, strict=True), ls=":", lw=1, color="0.4", label=label)
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


def to_html(results: dict, items: Sequence[Item]) -> str:
    """The page: data, pictures and videos inside, nothing fetched (its content policy forbids it)."""
    pictures: dict[str, Any] = {"clips": {}, "items": []}
    for item in items:
        measured = item.measured
        if item.clip not in pictures["clips"]:
            pictures["clips"][item.clip] = {
                "frames": list(measured.stills), "stills": [_picture(a) for a, _ in measured.stills.values()],
                "video": _video(measured.video[0], item.fps) if measured.video else None}
        pictures["items"].append({
            "stills": [_picture(b) for _, b in measured.stills.values()],
            "video": _video(measured.video[1], item.fps) if measured.video else None})
    data = {"results": results, "pictures": pictures, "labels": LABELS, "units": UNITS, "digits": DIGITS,
            "lower": sorted(LOWER_IS_BETTER), "columns": columns(results)}
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
    """uint8 [H, W, 3] as a WebP data URI; small pictures without loss, large ones nearly so."""
    buffer = io.BytesIO()
    small = frame.shape[0] * frame.shape[1] <= 256 * 256
    Image.fromarray(frame).save(buffer, "WEBP", lossless=small, quality=100 if small else 92, method=4)
    return _uri(buffer.getvalue(), "image/webp")


def _video(frames: np.ndarray, fps: float) -> str:
    """uint8 [T, H, W, 3] as an H.264 data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        media.write_video(path, frames, fps, crf=22)
        return _uri(path.read_bytes(), "video/mp4")
