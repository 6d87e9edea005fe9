"""Fits θ to a clip: `python -m video.train {stage1,stage2,two_stage} [flags]`; the .sh files call this."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from video.options import VideoFit
from vov import cli
from vov.fitting.settings import refuse_disagreement
from vov.target import NO_TARGET


def stage1(settings: VideoFit) -> None:
    """Distortion only; ends with a checkpoint."""
    run({"stage1": settings}, out_folder(settings, "stage1"))


def stage2(settings: VideoFit) -> None:
    """Distortion and rate; ends with the .vov file."""
    run({"stage2": settings}, out_folder(settings, "stage2"))


def two_stage(settings: VideoFit, first: VideoFit, second: VideoFit) -> None:
    """Stage 1 into OUT_DIR/stage1 (or STAGE1_OUT_DIR), stage 2 likewise, the .vov file into OUT_DIR."""
    refuse_disagreement({"the common settings": settings, "stage1": first, "stage2": second})
    folder = out_folder(settings, "two_stage")
    first = dataclasses.replace(first, lambda_rate=0.0, **NO_TARGET)
    run({"stage1": first, "stage2": second}, folder,
        {name: Path(stage.out_dir) if stage.out_dir != settings.out_dir else folder / name
         for name, stage in (("stage1", first), ("stage2", second))})


def run(stages: dict[str, VideoFit], folder: Path, folders: dict[str, Path] | None = None) -> None:
    """Runs the stages; prints the table when the last has a rate term."""
    from video.backbone import WanBackbone
    from vov.training import Stage, train

    settings = next(iter(stages.values()))
    listed = [Stage(name, stage, (folders or {}).get(name, folder)) for name, stage in stages.items()]
    if done := train(WanBackbone, [settings.source()], listed, folder / f"{settings.clip_name}.vov"):
        print(done)


def out_folder(settings: VideoFit, name: str) -> Path:
    """OUT_DIR, by default checkpoints/NAME/STAGE."""
    return Path(settings.out_dir or f"checkpoints/{settings.clip_name}/{name}")


if __name__ == "__main__":
    cli.run_one_of({
        "stage1": (VideoFit, stage1, "[VARIABLE=value …] bash video/train/stage1_train.sh [--flag …]", ("stage1",)),
        "stage2": (VideoFit, stage2, "[VARIABLE=value …] bash video/train/stage2_train.sh [--flag …]", ("stage2",)),
        "two_stage": (VideoFit, two_stage, "[VARIABLE=value …] [STAGE1_VARIABLE=…] [STAGE2_VARIABLE=…] bash "
                      "video/train/run_two_stage.sh", ("", "stage1", "stage2"))})
