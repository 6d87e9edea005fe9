"""The rate-distortion figure of a README: drawn from a JSON file of means, so that it can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from vov import VovError
from vov.runtime.files import write_bytes

# (legend, colour) of a kind of row, in the order of the legend
KINDS = {"frozen": ("frozen model + coded noise (ours)", "#c1121f"),
         "anchored": ("anchored θ, one step (ours)", "#7b2cbf"),
         "random": ("the paper's recipe", "#e08e0b"),
         "random+": ("the paper's θ + our coded noise", "#e08e0b"),
         "explicit": ("quantised latents, no θ", "#588157"), "x264": ("H.264 (x264)", "#8d99ae"),
         "x265": ("HEVC (x265)", "#457b9d"), "svtav1": ("AV1 (SVT-AV1)", "#1d3557"), "vvc": ("VVC (VVenC)", "#000000"),
         "jpeg": ("JPEG", "#8d99ae"), "webp": ("WebP", "#457b9d"), "avif": ("AVIF", "#1d3557"),
         "jxl": ("JPEG XL", "#000000"), "independent": ("coded noise, independent chunks (ours)", "#c1121f"),
         "known": ("coded noise, known frames (ours)", "#7b2cbf"),
         "scene": ("known frames, a θ for each scene (ours)", "#e08e0b"),
         "collection": ("coded noise over a collection's θ (ours)", "#7b2cbf"),
         "scaled": ("the paper's recipe with its scaling", "#bc6c25")}
CODECS = ("x264", "x265", "svtav1", "vvc", "jpeg", "webp", "avif", "jxl", "explicit")
TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)
METRICS = {"psnr": "PSNR, dB", "ms_ssim": "MS-SSIM"}


def lines(rows: list[dict]) -> dict[str, list[dict]]:
    """{kind: its rows by size}, in the order of the legend; kinds that KINDS does not know come last."""
    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for row in sorted(rows, key=lambda row: row["bytes"]):
        kind, scheme = row["fit"], row["scheme"].split(":")[0]
        if kind == "frozen" and scheme == "none":
            continue  # no θ and no noise: a picture of the caption
        if kind == "random" and scheme not in ("none", "paper"):
            kind += "+"
        found.setdefault(kind, []).append(row)
    return {kind: group for kind, group in found.items() if group}


def draw(document: dict, path: Path, metrics: Mapping[str, str] = METRICS) -> None:
    """Writes path.svg and path.png: metrics, {name in a row: label}, against bytes (logarithmic), three in a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "vov"  # equal data, equal file
    across = 2 if len(metrics) <= 2 else 3
    down = -(-len(metrics) // across)
    figure, grid = pyplot.subplots(down, across, figsize=(5.25 * across, 3.5 * down + 1.4), squeeze=False)
    axes = grid.flat
    for axis in axes[len(metrics):]:
        axis.remove()
    rows = document["rows"]
    for axis, (name, label) in zip(axes, metrics.items(), strict=False):
        for kind, group in lines(rows).items():
            title, colour = KINDS.get(kind, (kind, None))
            if kind == "random" and any(row["scheme"].startswith("paper") for row in group):
                title = "the paper's θ, then with its scaling"
            look = {"marker": "o", "ms": 5, "lw": 2}
            if kind in CODECS:
                look = {"marker": "s", "ms": 3.5, "lw": 1.1, "ls": "--"}
            if kind.endswith("+"):
                look |= {"ls": "", "mfc": "white"}
            values = [row.get(name) for row in group]
            axis.plot([row["bytes"] for row in group], values, color=colour, label=title, **look)
        axis.set(xscale="log", xlabel="bytes of the whole file", ylabel=label)
        low, high = (limit(row["bytes"] for row in rows) for limit in (min, max))
        ticks = [tick for tick in TICKS if low / 1.6 <= tick <= high * 1.2]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(document.get("title") or f"Mean of {', '.join(document['clips'])}", fontsize=10)
    figure.set_layout_engine("constrained")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
    figure.savefig(path.with_name(path.name + ".png"), dpi=110)
    pyplot.close(figure)


def save(path: Path, document: dict) -> None:
    """Writes path.json and draws it."""
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path.with_name(path.name + ".json"), text.encode())
    draw(document, path)


def redraw(path: Path) -> None:
    """Draws path.json again. Raises VovError when it is not there or not one of `save`."""
    source = path.with_name(path.name + ".json")
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
        draw(document, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VovError(f"{source}: no curves to draw ({error}); measure them first, without REDRAW") from error
