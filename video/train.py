"""Fits θ to a clip: `python -m video.train {stage1,stage2,two_stage} [flags]`; the .sh files call this."""

from vov.commands.fit import stage1, stage2, two_stage
from vov.commands.options import VideoFit
from vov.config import cli

if __name__ == "__main__":
    cli.run_one_of({
        "stage1": (VideoFit, stage1, "[VARIABLE=value …] bash video/train/stage1_train.sh [--flag …]", ("stage1",)),
        "stage2": (VideoFit, stage2, "[VARIABLE=value …] bash video/train/stage2_train.sh [--flag …]", ("stage2",)),
        "two_stage": (VideoFit, two_stage, "[VARIABLE=value …] [STAGE1_VARIABLE=…] [STAGE2_VARIABLE=…] bash "
                      "video/train/run_two_stage.sh", ("", "stage1", "stage2"))})
