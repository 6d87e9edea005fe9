"""λ → bytes → PSNR of one picture, for some learning rates of the quantiser step: stage 1 once, stage 2 for each."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vov import VovError, config
from vov.config import cli, number_list, option


@dataclass(frozen=True)
class Lambdas:
    """Which picture, and what to try; the fit's settings come from CONFIG and the environment."""

    image: str = option("", "one picture (required)")
    lambdas: str = option("0.003,0.01,0.03,0.1,0.3", "LAMBDA_RATE of stage 2")
    rates: str = option("0.002,0.02,0.05", "STEP_LR of stage 2")


def main(settings: Lambdas) -> None:
    """Fits and prints a row for each."""
    from vov import bitstream
    from vov.adapter.quantiser import from_symbols
    from vov.commands.options import ImageFit
    from vov.fitting.encoder import Encoder
    from vov.model.qwen import QwenBackbone

    if not settings.image:
        raise VovError("IMAGE is not set; give a picture")
    environ = {"CONFIG": "nano-image"} | {k: v for k, v in os.environ.items() if v}
    given = {"image": settings.image, "caption": "a picture", "preview_every": "0"}
    first, second = (config.load(ImageFit, given, environ, stage) for stage in config.STAGES)
    print("STEP_LR | λ | step | bytes | PSNR dB")
    with (Encoder(first.load(QwenBackbone), first.originals(), first) as encoder,
          tempfile.TemporaryDirectory() as place):
        start = {"unilora_theta_d": encoder.fit(dataclasses.replace(first, lambda_rate=0.0), Path(place) / "stage1",
                                                preview=False).theta}
        for rate in number_list("RATES", settings.rates):
            for weight in number_list("LAMBDAS", settings.lambdas):
                stage = dataclasses.replace(second, lambda_rate=weight, step_lr=rate)
                fitted = encoder.fit(stage, Path(place) / f"{rate} {weight}", start, preview=False)
                stream = encoder.bitstream(stage, fitted)
                psnr = encoder.quality(stage)(from_symbols(stream.symbols, stream.header.step))
                print(f"{rate:g} | {weight:g} | {fitted.step:.3f} | {len(bitstream.to_bytes(stream))} | {psnr:.2f}",
                      flush=True)


if __name__ == "__main__":
    cli.run(Lambdas, main, "IMAGE=x.png python -m studies.lambdas.run [--flag value …]")
