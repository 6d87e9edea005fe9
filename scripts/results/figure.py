"""The rate-distortion figures of results: quality against bytes, a panel for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

# (legend, colour) of a way or codec, in the order of the legend
LOOKS = {"frozen": ("frozen model + coded noise (ours)", "#c1121f"),
         "anchored": ("anchored θ, one step (ours)", "#7b2cbf"),
         "random": ("the paper's recipe", "#e08e0b"),
         "explicit": ("quantised latents, no θ", "#588157"), "x264": ("H.264 (x264)", "#8d99ae"),
         "x265": ("HEVC (x265)", "#457b9d"), "svtav1": ("AV1 (SVT-AV1)", "#1d3557"), "vvc": ("VVC (VVenC)", "#000000"),
         "jpeg": ("JPEG", "#8d99ae"), "webp": ("WebP", "#457b9d"), "avif": ("AVIF", "#1d3557"),
         "jxl": ("JPEG XL", "#000000"), "independent": ("coded noise, independent chunks (ours)", "#c1121f"),
         "known": ("coded noise, known frames (ours)", "#7b2cbf"),
         "scene": ("known frames, a θ for each scene (ours)", "#e08e0b"),
         "collection": ("coded noise over a collection's θ (ours)", "#7b2cbf"),
         "scaled": ("the paper's recipe with its scaling", "#bc6c25")}
CODECS = ("x264", "x265", "svtav1", "vvc", "jpeg", "webp", "avif", "jxl", "explicit")  # drawn thin and dashed
TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)


def lines(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """{way: its rows by size}, in the order of the legend; ways that LOOKS does not know come last."""
    found: dict[str, list[dict]] = {way: [] for way in LOOKS}
    for row in sorted(rows, key=lambda row: row["bytes"]):
        found.setdefault(row["way"], []).append(row)
    return {way: group for way, group in found.items() if group}


def draw(rows: Sequence[dict], title: str, path: Path, metrics: Mapping[str, str]) -> None:
    """Writes path.svg and path.png: metrics against bytes (logarithmic), three panels in a line.

    Args:
        rows: dictionaries with "way", "bytes" and metrics by name; a metric may be missing.
        metrics: {name in a row: label of its panel}.
    """
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
    for axis, (name, label) in zip(axes, metrics.items(), strict=False):
        for way, group in lines(rows).items():
            legend, colour = LOOKS.get(way, (way, None))
            look = {"marker": "o", "ms": 5, "lw": 2}
            if way in CODECS:
                look = {"marker": "s", "ms": 3.5, "lw": 1.1, "ls": "--"}
            values = [row.get(name) for row in group]
            axis.plot([row["bytes"] for row in group], values, color=colour, label=legend, **look)
        axis.set(xscale="log", xlabel="bytes of the whole file", ylabel=label)
        low, high = (limit(row["bytes"] for row in rows) for limit in (min, max))
        ticks = [tick for tick in TICKS if low / 1.6 <= tick <= high * 1.2]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.set_layout_engine("constrained")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
    figure.savefig(path.with_name(path.name + ".png"), dpi=110)
    pyplot.close(figure)
