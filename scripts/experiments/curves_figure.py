"""The rate-distortion figure of a README: drawn from a JSON file of means, so that it can be drawn again."""

from __future__ import annotations

import json
from pathlib import Path

from vov import VovError
from vov.files import write_bytes

TITLES = {"frozen": "frozen model + coded noise (ours)", "random": "the paper's recipe",
          "anchored": "anchored θ (ours)", "explicit": "quantised latents, no θ",
          "x264": "H.264 (x264)", "x265": "HEVC (x265)", "svtav1": "AV1 (SVT-AV1)",
          "vvc": "VVC (VVenC)", "jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
OURS = ("frozen", "random", "anchored")
COLOURS = {"frozen": "#c1121f", "random": "#e08e0b", "anchored": "#7b2cbf", "explicit": "#588157"}
METRICS = {"psnr": "PSNR, dB", "ms_ssim": "MS-SSIM"}


def lines(rows: list[dict]) -> dict[str, list[dict]]:
    """{legend: rows by falling size}; a θ alone and the same θ with noise of one scheme are one line."""
    found: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["bytes"]):
        kind, scheme = row["fit"], row["scheme"].split(":")[0]
        title = TITLES.get(kind, kind)
        if kind in ("random", "anchored") and scheme != "none":
            title += {"paper": ", its scaling", "atoms": " + our coded noise"}.get(scheme, f" + {scheme}")
        if kind == "frozen" and scheme == "none":
            continue  # no θ and no noise: a picture of the caption
        found.setdefault(title, []).append(row)
    return found


def draw(document: dict, path: Path) -> None:
    """Writes path.svg and path.png: PSNR and MS-SSIM against bytes (logarithmic)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "vov"  # equal data, equal file
    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 4.9))
    for axis, (name, label) in zip(axes, METRICS.items(), strict=True):
        for number, (title, group) in enumerate(lines(document["rows"]).items()):
            kind = group[0]["fit"]
            ours = kind in OURS
            axis.plot([row["bytes"] for row in group], [row[name] for row in group], "o-" if ours else "s--",
                      ms=5 if ours else 3.5, lw=2 if ours else 1.1, color=COLOURS.get(kind, f"C{number}"), label=title,
                      mfc="white" if "noise" in title and kind != "frozen" else None)
        axis.set(xscale="log", xlabel="bytes of the whole file", ylabel=label)
        ticks = [250, 500, 1000, 2000, 4000, 6000]
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
