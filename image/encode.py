"""Pictures to one .vov file of coded noise: `IMAGE=x.png OUT_DIR=runs/x bash image/encode.sh`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from image.options import EXAMPLES, ImageFit, QwenOptions, at_size
from vov import VovError, cli
from vov.config import option, override
from vov.scaling.settings import ScalingConfig


@dataclass(frozen=True)
class Encode(ScalingConfig, QwenOptions):
    """Which pictures, and where the file goes."""

    config: str = option("qwen-image", "preset in configs/ or a YAML file", alias=("CONFIG",))
    image: str = option("", "one picture; over DESCRIPTION_FILE")
    caption: str = option("", "what IMAGE shows; may be empty")
    description_file: str = option(EXAMPLES, "one path|caption a line, for several pictures in one file")
    caption_start: int = option(1, "first picture of DESCRIPTION_FILE, counted from 1", minimum=1)
    caption_end: int = option(0, "last picture of DESCRIPTION_FILE; 0: the last there is", minimum=0)
    data_root: str = option("./data", "what the paths in DESCRIPTION_FILE are relative to")
    out_dir: str = option("", "gets NAME.vov, its decode, NAME.json (required)")
    name: str = option("", "names the outputs; default: the picture's name, or the description file's")
    width: int = option(0, "pixels; 0: the largest picture's, padded", minimum=0)
    height: int = option(0, "pixels; 0: the largest picture's, padded", minimum=0)
    shift: float = override(ImageFit, "shift", 0.0)
    seed: int = option(42, "of the decoder's noise", minimum=0)
    steps: int = override(ScalingConfig, "steps", 50, help="sampler steps", minimum=2)
    scaling_bytes: int = override(ScalingConfig, "scaling_bytes", 2000)
    score: str = override(ScalingConfig, "score", "blend")
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Encode) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone, measures."""
    if not settings.out_dir:
        raise VovError("OUT_DIR is not set; see --help")
    from image.backbone import QwenBackbone
    from vov import results
    from vov.scaling import command
    from vov.scaling.bare import bare

    asked = {name: getattr(settings, name) for name in (
        "image", "caption", "description_file", "caption_start", "caption_end", "data_root", "name", "width", "height",
        "shift", "seed", "roi", "roi_weight")}
    fit = dataclasses.replace(ImageFit(), decode_steps=settings.steps, **asked)
    sources = fit.sources(caption_needed=False)
    path = Path(settings.out_dir) / f"{fit.run_name(sources)}.vov"
    with command.outputs_of(None, "", sources, settings, path, fit.width, fit.height, fit.shift, fit.seed,
                            inputs=fit.files()) as outputs:
        if outputs.complete:
            print(results.table(json.loads(path.with_suffix(".json").read_bytes())))
            return
        backbone = settings.load(QwenBackbone)
        stream = bare(backbone, sources, at_size(fit, sources, backbone.unit))
        print(results.table(command.scale_command(stream, lambda: backbone, sources, settings, path, outputs)))


if __name__ == "__main__":
    cli.run(Encode, main, "IMAGE=x.png OUT_DIR=runs/x [VARIABLE=value …] bash image/encode.sh", stages=("encode",))
