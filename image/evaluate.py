"""Metric tables, anchors and a report: `REAL_DIR=… FAKE_DIR=… bash image/eval.sh`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vov.config import cli
from vov.evaluation.pairs import EvalConfig

if TYPE_CHECKING:  # --help needs no torch
    from vov.model.backbone import Backbone


def load(*arguments) -> Backbone:
    """The tree's backbone, imported only when a .vov file or the `explicit` anchor needs it."""
    from vov.model.qwen import QwenBackbone

    return QwenBackbone.load(*arguments)


def main(settings: EvalConfig) -> None:
    """Measures, writes, prints the table."""
    from vov.evaluation import evaluate, report

    tree = evaluate.Tree(images=True, model_id="Qwen/Qwen-Image", load=load)
    print(report.to_markdown(evaluate.evaluate(settings, tree)))
    print(f"report: {settings.out_dir}/report.html")


if __name__ == "__main__":
    cli.run(EvalConfig, main, "REAL_DIR=… FAKE_DIR=… [BITSTREAM=…] bash image/eval.sh, or MANIFEST=… instead")
