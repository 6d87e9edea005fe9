"""The figure of the study: quality against learning rate, from JSON lines of fits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.config import cli, option
from vov.fitting.settings import RATE_OF_ONE


@dataclass(frozen=True)
class Figure:
    """What is drawn."""

    rows: str = option("studies/learning_rates/rows.jsonl", "JSON lines: model, fit, theta_length, lr, psnr")
    out: str = option("studies/learning_rates/learning_rates.svg", "the figure")


def main(settings: Figure) -> None:
    """Left: models of three widths at one d. Right: one model at several d, against lr · √d."""
    if not Path(settings.rows).is_file():
        raise VovError(f"ROWS={settings.rows}: no such file; give the JSON lines of the study")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "vov"  # equal data, equal file
    rows = [json.loads(line) for line in Path(settings.rows).read_text().splitlines()]
    plain = [row for row in rows if row["fit"] == "anchored" and "rank" not in row and "last_k" not in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 3.8))
    curves(left, [row for row in plain if row["model"] != "nano-video"], "model", lambda row: row["lr"])
    left.axvline(RATE_OF_ONE / 2048**0.5, color="grey", linestyle=":")
    left.set(title="width × depth, d = 2048 (BasketballPass)", xlabel="learning rate η")
    curves(right, [row for row in plain if row["model"] == "nano-video"], "theta_length",
           lambda row: row["lr"] * row["theta_length"]**0.5)
    right.axvline(RATE_OF_ONE, color="grey", linestyle=":")
    right.set(title="nano-video, by d (carphone)", xlabel="η · √d")
    figure.tight_layout()
    figure.savefig(settings.out, metadata={"Date": None})
    print(settings.out)


def curves(axis, rows: list[dict], label: str, place) -> None:
    """A line for each value of `label`: PSNR below its best, against `place(row)`; lost fits fall out of the frame."""
    for value in dict.fromkeys(row[label] for row in rows):
        best = max(row["psnr"] for row in rows if row[label] == value)
        group = sorted((place(row), row["psnr"] - best) for row in rows if row[label] == value)
        axis.plot(*zip(*group, strict=True), "o-", label=f"d = {value:,}" if label == "theta_length" else value)
    axis.set(xscale="log", ylabel="PSNR below the best of the line, dB", ylim=(-4, 0.3))
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    cli.run(Figure, main, "python -m studies.learning_rates.figure")
