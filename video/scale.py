"""Codes noise for a fitted clip: `bash video/scaling/sample.sh NAME [STEPS]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video.options import MODEL_ALIAS
from vov import VovError, cli
from vov.config import option
from vov.scaling.settings import ScalingConfig


@dataclass(frozen=True)
class Sample(ScalingConfig):
    """A .vov file, the original, and where the result goes; RANK and LAST_K are the file's own."""

    name: str = option("HoneyBee", "name of the clip: first argument of sample.sh")
    bitstream: str = option("", "the fitted .vov file; default WEIGHTS_DIR/NAME.vov")
    weights_dir: str = option("", "folder of a fit, as left by run_two_stage.sh; default checkpoints/NAME/two_stage")
    original_frames_dir: str = option("", "the original clip: a folder of frames or a video (required)",
                                      alias=("FRAMES_DIR",))
    output: str = option("", "the new file; default scaled/NAME.vov. Frames, a video and a .json are put beside it")
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    model_id: str = option("", "folder of the model; default: found by the name in the header", alias=MODEL_ALIAS)
    rank: int = option(0, "the file knows it; a value that contradicts the file is an error", minimum=0)
    last_k: int = option(0, "likewise", minimum=0)
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Sample) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone and measures."""
    from vov import bitstream, codec, media, results
    from vov.scaling import command

    folder = Path(settings.weights_dir or f"checkpoints/{settings.name}/two_stage")
    path, output = Path(settings.bitstream or folder / f"{settings.name}.vov"), Path(
        settings.output or f"scaled/{settings.name}.vov")
    if not path.is_file():
        raise VovError(f"{path}: no such file; set BITSTREAM, or WEIGHTS_DIR to the folder of a finished stage 2 "
                       "(a checkpoint becomes a file with TRAIN_STEPS=1 INIT_LORA_PATH=… stage2_train.sh)")
    if not settings.original_frames_dir:
        raise VovError("ORIGINAL_FRAMES_DIR is not set; give the original clip that the noise is chosen for")
    stream = bitstream.read(path)
    header = stream.header
    for name in ("rank", "last_k"):
        if getattr(settings, name) not in (0, getattr(header, name)):
            raise VovError(f"{name.upper()}={getattr(settings, name)}, but {path} has {getattr(header, name)}; "
                           "leave it unset")
    results.check_outputs([output, output.with_suffix(""), output.with_suffix(".mp4")], settings.overwrite)
    clip = media.read_clip(settings.original_frames_dir, header.num_frames)
    source = codec.Source(clip.frames, header.fps, stream.items[0].caption, settings.name)

    from video.backbone import WanBackbone
    backbone = WanBackbone.load(settings.model_id or header.model_id, settings.cache_dir, settings.device, header.dtype,
                                trusted=bool(settings.model_id))
    result = command.scale_command(stream, backbone, [source], settings, output)
    print(results.table(result))
    print(f"encoder    {result['encoder_psnr']:.2f} dB (what it saw before writing)")


if __name__ == "__main__":
    cli.run(Sample, main, "[VARIABLE=value …] bash video/scaling/sample.sh NAME [STEPS] [--flag value …]")
