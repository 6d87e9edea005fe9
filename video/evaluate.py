"""Metric tables, anchors and a report: `REAL_DIR=… FAKE_DIR=… bash video/eval/eval.sh`."""

from vov.commands.evaluate import evaluate_clips
from vov.config import cli
from vov.evaluation.pairs import EvalConfig

if __name__ == "__main__":
    cli.run(EvalConfig, evaluate_clips,
            "REAL_DIR=… FAKE_DIR=… [BITSTREAM=…] bash video/eval/eval.sh, or MANIFEST=… instead")
