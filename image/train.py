"""Fits θ to pictures: `python -m image.train [flags]`; train_multi.sh calls this."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from image.options import ImageFit, at_size
from vov import cli
from vov.fitting.settings import refuse_disagreement
from vov.target import NO_TARGET


def main(settings: ImageFit, first: ImageFit, second: ImageFit) -> None:
    """Stage 1 into OUT_DIR/stage1, stage 2 (if its λ is above 0) into OUT_DIR/stage2, the .vov file into OUT_DIR."""
    from image.backbone import QwenBackbone
    from vov.training import Stage, train

    refuse_disagreement({"the common settings": settings, "stage1": first, "stage2": second})
    sources = settings.sources()
    folder = Path(settings.out_dir or "checkpoints/run")
    aim = NO_TARGET if second.lambda_rate > 0 else {}  # a fit that ends with stage 1 is rounded to its target
    stages = [Stage("stage1", dataclasses.replace(first, lambda_rate=0.0, **aim), folder / "stage1")]
    if second.lambda_rate > 0:
        stages.append(Stage("stage2", second, folder / "stage2"))
    if done := train(QwenBackbone, sources, stages, folder / f"{settings.run_name(sources)}.vov",
                     lambda stage, backbone: at_size(stage, sources, backbone.unit), round_at_end=True,
                     inputs=settings.files()):
        print(done)


if __name__ == "__main__":
    usage = ("[VARIABLE=value …] [STAGE1_VARIABLE=…] [STAGE2_VARIABLE=…] bash image/train_multi.sh [--flag value …]\n"
             "One picture: IMAGE=x.png CAPTION='what it shows' bash image/train_multi.sh")
    cli.run(ImageFit, main, usage, stages=("", "stage1", "stage2"))
