"""Fits θ to pictures: `python -m image.train [flags]`; train_multi.sh calls this."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from image.options import ImageFit, at_size
from vov import cli

log = logging.getLogger(__name__)


def main(settings: ImageFit, second: ImageFit, first: ImageFit) -> None:
    """Stage 1 into OUT_DIR/stage1, stage 2 (if its λ is above 0) into OUT_DIR/stage2, the .vov file into OUT_DIR."""
    sources = settings.sources()
    folder = Path(settings.out_dir or "checkpoints/run")
    path = folder / f"{settings.run_name(sources)}.vov"

    from image.backbone import QwenBackbone
    from vov import codec, results
    from vov.fitting.distributed import world

    results.check_outputs([path], settings.overwrite)
    start = codec.read_start(settings.init_lora_path)
    clock = results.Clock()
    with world() as here:
        backbone = QwenBackbone.load(settings.model_id, settings.cache_dir, settings.device, settings.precision,
                                     offload=settings.offload)
        first, second = (at_size(stage, sources, backbone.unit) for stage in (first, second))
        encoder = codec.Encoder(backbone, sources, first, here)
        last, first = second, dataclasses.replace(first, lambda_rate=0.0)
        fitted = clock.time("stage1", encoder.fit, first, folder / "stage1", start)
        if second.lambda_rate > 0:
            start = {"unilora_theta_d": fitted.theta}
            fitted = clock.time("stage2", encoder.fit, second, folder / "stage2", start)
        else:
            log.info("no rate term: θ is rounded after the fit, at %g bits per entry", first.init_bits)
            last, fitted = first, codec.rounded(fitted, first.init_bits)
        if here.first:
            print(results.finish(encoder, path, last, fitted, clock))


if __name__ == "__main__":
    usage = ("[VARIABLE=value …] [STAGE1_VARIABLE=…] [STAGE2_VARIABLE=…] bash image/train_multi.sh [--flag value …]\n"
             "One picture: IMAGE=x.png CAPTION='what it shows' bash image/train_multi.sh")
    cli.run(ImageFit, main, usage, stages=("", "stage2", "stage1"))
