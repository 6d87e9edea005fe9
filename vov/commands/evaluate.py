"""`eval`: metric tables, anchors and a report of decoded clips or pictures."""

from __future__ import annotations

from vov.evaluation.pairs import EvalConfig


def evaluate_clips(settings: EvalConfig) -> None:
    """Measures, writes, prints the table."""
    _evaluate(settings, "video")


def evaluate_pictures(settings: EvalConfig) -> None:
    """The same, every picture of a folder for itself."""
    _evaluate(settings, "image")


def _evaluate(settings: EvalConfig, medium: str) -> None:
    from vov.evaluation import evaluate, report

    print(report.to_markdown(evaluate.evaluate(settings, medium)))
    print(f"report: {settings.out_dir}/report.html")
