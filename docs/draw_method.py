"""Draws docs/method.svg, the figure of docs/develop/architecture.md.

    .venv/bin/python docs/draw_method.py [a .png file to look at]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

FROZEN, FITTED, FILE, DATA = "#dbe7f3", "#f8d7d3", "#fdf0c8", "#ffffff"
INK = "#22303c"
Place = tuple[float, float]

# name: (x, y of the centre, width, height, text, colour)
BOXES = {
    "frames": (0.9, 7.0, 1.5, 0.9, "frames", DATA),
    "encode": (3.3, 7.0, 2.0, 0.9, "VAE encoder", FROZEN),
    "noised": (6.4, 7.0, 2.7, 0.9, "latents mixed with\nnoise of level σ", DATA),
    "model": (10.0, 7.0, 3.0, 1.5, "flow model\n$W + B\\,A$ in every\nadapted layer", FROZEN),
    "loss": (13.9, 7.0, 2.7, 0.9, "velocity: wanted\nagainst predicted", DATA),
    "theta": (10.0, 4.9, 3.0, 0.8, "θ, one vector", FITTED),
    "coder": (6.4, 4.9, 2.7, 0.8, "round, entropy code", DATA),
    "file": (1.75, 3.95, 2.9, 1.9, ".vov file\nheader, caption, θ\nand, if wanted,\ncoded noise", FILE),
    "theta2": (6.4, 3.0, 2.7, 0.8, "θ̂, read back", FITTED),
    "start": (6.4, 1.0, 2.7, 0.9, "noise of the seed,\ncaption embedding", DATA),
    "model2": (10.0, 1.0, 3.0, 1.5, "the same flow model\n$W + \\hat B\\,\\hat A$,\n1 to 100 steps", FROZEN),
    "decode": (13.4, 1.0, 2.0, 0.9, "VAE decoder", FROZEN),
    "out": (15.9, 1.0, 1.5, 0.9, "frames", DATA),
}


def box(axis: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box around its centre."""
    axis.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height,
                                  boxstyle="round,pad=0.02,rounding_size=0.12", facecolor=colour, edgecolor=INK,
                                  lw=1.1))
    axis.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK, linespacing=1.35)


def arrow(axis: Axes, start: Place, end: Place, text: str = "", at: Place = (0, 0), **style) -> None:
    """An arrow; `at` is where its label stands, from its middle."""
    look = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0} | style
    axis.annotate("", end, start, arrowprops=look)
    if text:
        axis.text((start[0] + end[0]) / 2 + at[0], (start[1] + end[1]) / 2 + at[1], text, ha="center", va="center",
                  fontsize=9, color=look["color"], style="italic")


def side(name: str, which: str) -> Place:
    """The middle of a side of a box: left, right, top, bottom."""
    x, y, width, height, *_ = BOXES[name]
    return {"left": (x - width / 2, y), "right": (x + width / 2, y), "top": (x, y + height / 2),
            "bottom": (x, y - height / 2)}[which]


def draw() -> pyplot.Figure:
    """Encoder above, decoder below, the file between them."""
    figure, axis = pyplot.subplots(figsize=(11.6, 6.0))
    axis.set(xlim=(0, 16.8), ylim=(-0.2, 8.9))
    axis.axis("off")
    for values in BOXES.values():
        box(axis, *values)
    axis.text(0.15, 8.45, "Encoder: fit θ, then code it", fontsize=12, weight="bold", color=INK)
    axis.text(0.15, -0.15, "Decoder: the file and the\nfrozen model, nothing else", fontsize=12, weight="bold",
              color=INK)
    for first, second in (("frames", "encode"), ("encode", "noised"), ("noised", "model"), ("model", "loss"),
                          ("start", "model2"), ("model2", "decode"), ("decode", "out")):
        arrow(axis, side(first, "right"), side(second, "left"))
    red = "#b3261e"
    arrow(axis, side("theta", "top"), side("model", "bottom"), "UniLoRA spreads θ\nover all A and B", (-1.6, 0))
    arrow(axis, side("loss", "bottom"), side("theta", "right"), "gradient: only θ moves", (0.65, -1.35), color=red,
          connectionstyle="angle,angleA=-90,angleB=0,rad=8")
    arrow(axis, side("theta", "left"), side("coder", "right"))
    arrow(axis, side("coder", "left"), (3.22, 4.6))
    arrow(axis, (3.22, 3.3), side("theta2", "left"))
    arrow(axis, side("theta2", "right"), side("model2", "top"), "UniLoRA", (0.1, 0.75),
          connectionstyle="angle,angleA=0,angleB=-90,rad=8")
    arrow(axis, (1.75, 2.98), side("start", "left"), "seed, caption,\nnoise indices", (0.35, -0.45),
          connectionstyle="angle,angleA=-90,angleB=0,rad=8")
    for x, colour, text in ((11.2, FROZEN, "frozen, not in the file"), (14.9, FITTED, "fitted")):
        axis.add_patch(FancyBboxPatch((x - 0.15, 8.45), 0.3, 0.22, boxstyle="round,pad=0.02", facecolor=colour,
                                      edgecolor=INK))
        axis.text(x + 0.3, 8.55, text, fontsize=9, va="center", color=INK)
    return figure


def main(picture: str = "") -> None:
    """Writes method.svg beside this file, and `picture` if one is named."""
    pyplot.rcParams.update({"svg.hashsalt": "vov", "mathtext.fontset": "dejavusans"})
    figure = draw()
    look = {"bbox_inches": "tight", "pad_inches": 0.05}
    figure.savefig(Path(__file__).with_name("method.svg"), metadata={"Date": None}, **look)
    if picture:
        figure.savefig(picture, dpi=110, **look)


if __name__ == "__main__":
    main(*sys.argv[1:2])
