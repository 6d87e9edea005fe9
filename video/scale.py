"""Codes noise for a fitted clip: `bash video/scaling/sample.sh NAME [STEPS]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video.options import REFERENCE_CLIP, WanOptions, named
from vov import VovError, cli
from vov.config import option
from vov.roi import with_region
from vov.scaling.settings import ScalingConfig


@dataclass(frozen=True)
class Scale(ScalingConfig, WanOptions):
    """A .vov file, the original, and where the result goes; RANK and LAST_K are the file's own."""

    name: str = option("", "name of the clip: first argument of sample.sh; default: that of ORIGINAL_FRAMES_DIR, "
                       f"without one {REFERENCE_CLIP}")
    bitstream: str = option("", "the fitted .vov file; default WEIGHTS_DIR/NAME.vov")
    weights_dir: str = option("", "folder of a fit, as left by run_two_stage.sh; default checkpoints/NAME/two_stage")
    original_frames_dir: str = option("", "the original clip: a folder of frames or a video (required)",
                                      alias=("FRAMES_DIR",))
    output: str = option("", "the new file; default scaled/NAME.vov. Frames, a video and a .json are put beside it")
    rank: int = option(0, "the file knows it; a value that contradicts the file is an error", minimum=0)
    last_k: int = option(0, "likewise", minimum=0)
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Scale) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone and measures."""
    from video.backbone import WanBackbone
    from vov import codec, media, results
    from vov.scaling import command

    name = named(settings.name, settings.original_frames_dir)
    folder = Path(settings.weights_dir or f"checkpoints/{name}/two_stage")
    path, output = Path(settings.bitstream or folder / f"{name}.vov"), Path(settings.output or f"scaled/{name}.vov")
    if not path.is_file():
        raise VovError(f"{path}: no such file; set BITSTREAM, or WEIGHTS_DIR to the folder of a finished stage 2 "
                       "(a checkpoint becomes a file with TRAIN_STEPS=1 INIT_LORA_PATH=… stage2_train.sh)")
    if not settings.original_frames_dir:
        raise VovError("ORIGINAL_FRAMES_DIR is not set; give the original clip that the noise is chosen for")
    stream = codec.read_file(path, WanBackbone, settings.decode_limit)
    header = stream.header
    for key in ("rank", "last_k"):
        if getattr(settings, key) not in (0, getattr(header, key)):
            raise VovError(f"{key.upper()}={getattr(settings, key)}, but {path} has {getattr(header, key)}; "
                           "leave it unset")
    clip = media.read_clip(settings.original_frames_dir, header.num_frames, fps=header.fps)
    media.refuse_other_size(settings.original_frames_dir, clip.frames, stream.items[0].original_width,
                            stream.items[0].original_height, "ORIGINAL_FRAMES_DIR")
    source = codec.Source(clip.frames, header.fps, stream.items[0].caption, name)
    (source,) = with_region([source], settings)
    with command.outputs_of(path, header.dtype, [source], settings, output) as outputs:
        result = command.scale_command(stream, lambda: settings.load(WanBackbone, header, str(path)), [source],
                                       settings, output, outputs)
    print(results.table(result))
    print(f"encoder    {result['encoder_psnr']:.2f} dB (what it saw before writing)")


if __name__ == "__main__":
    cli.run(Scale, main, "[VARIABLE=value …] bash video/scaling/sample.sh NAME [STEPS] [--flag value …]")
