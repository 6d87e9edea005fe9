"""`train`: a clip or pictures to θ and a .vov file, stage after stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vov.commands.options import ImageFit, VideoFit
from vov.config.rate_targets import NO_TARGET
from vov.fitting.settings import refuse_disagreement
from vov.model.registry import backbone_class


def stage1(settings: VideoFit) -> None:
    """Distortion only; ends with a checkpoint."""
    _fit_video({"stage1": settings}, _folder(settings, "stage1"))


def stage2(settings: VideoFit) -> None:
    """Distortion and rate; ends with the .vov file."""
    _fit_video({"stage2": settings}, _folder(settings, "stage2"))


def two_stage(settings: VideoFit, first: VideoFit, second: VideoFit) -> None:
    """Stage 1 into OUT_DIR/stage1 (or STAGE1_OUT_DIR), stage 2 likewise, the .vov file into OUT_DIR."""
    refuse_disagreement({"the common settings": settings, "stage1": first, "stage2": second})
    folder = _folder(settings, "two_stage")
    first = dataclasses.replace(first, lambda_rate=0.0, **NO_TARGET)
    _fit_video({"stage1": first, "stage2": second}, folder,
               {name: Path(stage.out_dir) if stage.out_dir != settings.out_dir else folder / name
                for name, stage in (("stage1", first), ("stage2", second))})


def _fit_video(stages: dict[str, VideoFit], folder: Path, folders: dict[str, Path] | None = None) -> None:
    """Runs the stages; prints the table when the last has a rate term."""
    from vov.commands.stages import Stage, train

    settings = next(iter(stages.values()))
    listed = [Stage(name, stage, (folders or {}).get(name, folder)) for name, stage in stages.items()]
    if done := train(backbone_class("video"), settings.originals(), listed, folder / f"{settings.clip_name}.vov"):
        print(done)


def _folder(settings: VideoFit, name: str) -> Path:
    """OUT_DIR, by default checkpoints/NAME/STAGE."""
    return Path(settings.out_dir or f"checkpoints/{settings.clip_name}/{name}")


def fit_pictures(settings: ImageFit, first: ImageFit, second: ImageFit) -> None:
    """Stage 1 into OUT_DIR/stage1, stage 2 (if its λ is above 0) into OUT_DIR/stage2, the .vov file into OUT_DIR."""
    from vov.commands.pictures import at_size
    from vov.commands.stages import Stage, train

    refuse_disagreement({"the common settings": settings, "stage1": first, "stage2": second})
    originals = settings.originals()
    folder = Path(settings.out_dir or "checkpoints/run")
    aim = NO_TARGET if second.lambda_rate > 0 else {}  # a fit that ends with stage 1 is rounded to its target
    stages = [Stage("stage1", dataclasses.replace(first, lambda_rate=0.0, **aim), folder / "stage1")]
    if second.lambda_rate > 0:
        stages.append(Stage("stage2", second, folder / "stage2"))
    if done := train(backbone_class("image"), originals, stages, folder / f"{settings.run_name(originals)}.vov",
                     lambda stage, backbone: at_size(stage, originals, backbone.unit), round_at_end=True,
                     inputs=settings.files()):
        print(done)
