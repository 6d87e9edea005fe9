"""Fits θ to a clip: `python -m video.train {stage1,stage2,two_stage} [flags]`; the .sh files call this."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from video.options import VideoFit
from vov import cli

log = logging.getLogger(__name__)


def stage1(settings: VideoFit) -> None:
    """Distortion only; ends with a checkpoint."""
    train(settings, [(settings, out_folder(settings, "stage1"))])


def stage2(settings: VideoFit) -> None:
    """Distortion and rate; ends with the .vov file."""
    train(settings, [(settings, out_folder(settings, "stage2"))])


def two_stage(settings: VideoFit, first: VideoFit, second: VideoFit) -> None:
    """Stage 1 into OUT_DIR/stage1 (or STAGE1_OUT_DIR), stage 2 likewise, the .vov file into OUT_DIR."""
    folder = out_folder(settings, "two_stage")
    folders = [Path(s.out_dir) if s.out_dir != settings.out_dir else folder / name
               for s, name in ((first, "stage1"), (second, "stage2"))]
    train(settings, [(first, folders[0]), (second, folders[1])], folder)


def train(settings: VideoFit, stages: list[tuple[VideoFit, Path]], folder: Path | None = None) -> None:
    """Runs the stages one after the other; when the last has a rate term, writes, decodes and measures the file."""
    from video.backbone import WanBackbone
    from vov import codec, results
    from vov.fitting.distributed import world

    last, folder = stages[-1][0], folder or stages[-1][1]
    path = folder / f"{settings.name}.vov"
    results.check_outputs([path], settings.overwrite)
    source = settings.source()
    start = codec.read_start(settings.init_lora_path)
    clock = results.Clock()
    with world() as here:
        backbone = WanBackbone.load(settings.model_id, settings.cache_dir, settings.device,
                                    settings.precision, offload=settings.offload)
        encoder = codec.Encoder(backbone, [source], settings, here)
        for stage, run_folder in stages:
            fitted = clock.time(run_folder.name, encoder.fit, stage, run_folder, start)
            start = {"unilora_theta_d": fitted.theta}
        if here.first and last.lambda_rate > 0:
            print(results.finish(encoder, path, last, fitted, clock))
        elif here.first:
            log.info("stage 1 is done: %s; go on with INIT_LORA_PATH=… bash video/train/stage2_train.sh",
                     fitted.checkpoint)


def out_folder(settings: VideoFit, name: str) -> Path:
    """OUT_DIR, by default checkpoints/NAME/STAGE."""
    return Path(settings.out_dir or f"checkpoints/{settings.name}/{name}")


if __name__ == "__main__":
    command = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    usage = {
        "stage1": "[VARIABLE=value …] bash video/train/stage1_train.sh [--flag value …]",
        "stage2": "[VARIABLE=value …] bash video/train/stage2_train.sh [--flag value …]",
        "two_stage": "[VARIABLE=value …] [STAGE1_VARIABLE=…] [STAGE2_VARIABLE=…] bash video/train/run_two_stage.sh",
    }
    if command not in usage:
        raise SystemExit(f"usage: python -m video.train {{{','.join(usage)}}}")
    if command == "two_stage":
        cli.run(VideoFit, two_stage, usage[command], stages=("", "stage1", "stage2"))
    else:
        cli.run(VideoFit, {"stage1": stage1, "stage2": stage2}[command], usage[command], stages=(command,))
