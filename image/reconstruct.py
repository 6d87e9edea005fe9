"""Decodes a .vov file, or a checkpoint with captions: `python -m image.reconstruct`, by reconstruct_multi.sh."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image.options import EXAMPLES, ImageFit, QwenOptions, described, read_pictures
from vov import VovError, cli
from vov.config import option

log = logging.getLogger(__name__)
SHARED = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "seed", "guidance",
          "decode_steps", "shift", "sampler", "caption_start", "caption_end")  # a checkpoint's own


@dataclass(frozen=True)
class Reconstruct(QwenOptions):
    """BITSTREAM: all the rest but folders is in the file. INIT_LORA_PATH: the variables below, and captions."""

    bitstream: str = option("", "a .vov file; then only OUTPUT_DIR and CACHE_DIR matter")
    init_lora_path: str = option("", "a checkpoint, ours (which knows its settings) or the reference's")
    description_file: str = option(EXAMPLES, "one path|caption a line, for INIT_LORA_PATH")
    caption_start: int = option(1, "first line to decode", minimum=1)
    caption_end: int = option(0, "last line to decode; 0: all", minimum=0)
    data_root: str = option("./data", "where the originals are; where all are there, PSNR is printed")
    output_dir: str = option("./recon_out", "gets one PNG a picture", alias=("OUT_DIR",))
    theta_length: int = option(65536, "length d of θ", alias=("THETA_D_LENGTH", "V_LENGTH"), minimum=1)
    proj_seed: int = option(42, "seed of UniLoRA's indices", minimum=0)
    last_k: int = option(60, "the last K blocks are adapted", minimum=1)
    width: int = option(512, "pixels", minimum=1)
    height: int = option(512, "pixels", minimum=1)
    rank: int = option(4, "LoRA rank", minimum=1)
    lora_preset: str = option("qkvo", "adapted linears", choices=("qkvo", "qkv", "qkvo_mlp"))
    guidance: float = option(1.0, "classifier-free guidance; 1: off", alias=("CFG", "TEST_CFG"), minimum=1)
    seed: int = option(42, "of the noise", minimum=0)
    decode_steps: int = option(50, "sampler steps", alias=("TEST_STEPS",), minimum=1)
    shift: float = option(0.0, "σ grid shift; 0: the model's own", minimum=0)
    sampler: str = option("euler", "ODE solver", choices=("euler", "unipc"))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Reconstruct) -> None:
    """Decodes to OUTPUT_DIR/NAME.png, or OUTPUT_DIR/NAME/….png when there are several pictures."""
    if bool(settings.bitstream) == bool(settings.init_lora_path):
        raise VovError("give either BITSTREAM (a .vov file) or INIT_LORA_PATH (a checkpoint)")
    source, folder = Path(settings.bitstream or settings.init_lora_path), Path(settings.output_dir)
    from vov import results

    results.check_outputs([folder / source.stem, folder / f"{source.stem}.png"], settings.overwrite, "OUTPUT_DIR")
    names, clips = from_file(settings) if settings.bitstream else from_checkpoint(settings)
    results.save_items(folder, source.stem, names, clips)
    many, size = len(clips) > 1, "×".join(map(str, clips[0].size))
    print(f"{len(clips)} picture{'s' * many} of {size} in {folder / source.stem}{'' if many else '.png'}")


def from_file(settings: Reconstruct) -> tuple[list[str], list]:
    """Names and pictures of a .vov file."""
    from image.backbone import QwenBackbone
    from vov import bitstream, codec

    stream = bitstream.read(settings.bitstream)  # before the model: a bad file fails in milliseconds
    backbone = settings.load(QwenBackbone, stream.header, settings.bitstream)
    return [item.name for item in stream.items], codec.decode_file(settings.bitstream, backbone)


def from_checkpoint(settings: Reconstruct) -> tuple[list[str], list]:
    """Names and pictures that a checkpoint regenerates from captions."""
    from image.backbone import QwenBackbone
    from vov import codec, media, metrics
    from vov.fitting.settings import as_told
    from vov.formats.reference import load_reference, refuse_stranger, told_hash, told_settings

    path = settings.init_lora_path
    found = load_reference(path)
    known = told_settings(found.metadata)
    values = {key: known.get(key, getattr(settings, key)) for key in SHARED}
    if known:
        log.info("settings are the checkpoint's: %s", " ".join(f"{k.upper()}={v}" for k, v in values.items()))
    fit = as_told(ImageFit, values | {"resize": known.get("resize", "crop")}, path)
    entries = described(settings.description_file, fit.caption_start, fit.caption_end)
    backbone = settings.load(QwenBackbone, found.metadata, path)
    refuse_stranger(found.metadata, backbone, path)
    blank = codec.Source(np.zeros((1, fit.height, fit.width, 3), np.uint8), 0.0, "")
    with codec.Decoder.for_theta(backbone, found.theta, fit, blank, told_hash(found.metadata, path)) as decoder:
        conditions = backbone.embed([caption for _, caption in entries])
        clips = [media.Clip(decoder.frames(found.theta_hat, condition, index), 0.0)
                 for index, condition in enumerate(conditions)]
    if all((Path(settings.data_root) / name).is_file() for name, _ in entries):
        for item, clip in zip(read_pictures(entries, settings.data_root), clips, strict=True):
            target = item.fitted(fit.width, fit.height, fit.resize)
            print(f"{item.name}  PSNR {metrics.psnr(target, clip.frames):.2f} dB")
    return [name for name, _ in entries], clips


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov | INIT_LORA_PATH=x.safetensors bash image/reconstruct_multi.sh")
