"""Metric tables, anchors and a report: `REAL_DIR=… FAKE_DIR=… bash image/eval.sh`."""

from vov.commands.evaluate import evaluate_pictures
from vov.config import cli
from vov.evaluation.pairs import EvalConfig

if __name__ == "__main__":
    cli.run(EvalConfig, evaluate_pictures,
            "REAL_DIR=… FAKE_DIR=… [BITSTREAM=…] bash image/eval.sh, or MANIFEST=… instead")
