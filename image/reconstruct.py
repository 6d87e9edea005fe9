"""Decodes a .vov file, or a checkpoint with captions: `python -m image.reconstruct`, by reconstruct_multi.sh."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from image.options import ImageFit, Reconstruct, described, read_pictures
from vov import VovError, cli

log = logging.getLogger(__name__)
SHARED = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "seed", "guidance",
          "decode_steps", "shift", "sampler", "dtype", "quantize", "caption_start", "caption_end")  # a checkpoint's own


def main(settings: Reconstruct) -> None:
    """Decodes to OUTPUT_DIR/NAME.png, or OUTPUT_DIR/NAME/….png when there are several pictures."""
    if bool(settings.bitstream) == bool(settings.init_lora_path):
        raise VovError("give either BITSTREAM (a .vov file) or INIT_LORA_PATH (a checkpoint)")
    source, folder = Path(settings.bitstream or settings.init_lora_path), Path(settings.output_dir)
    from vov import results

    results.check_outputs([folder / source.stem, folder / f"{source.stem}.png"], settings.overwrite)
    names, clips = from_file(settings) if settings.bitstream else from_checkpoint(settings)
    results.save_items(folder, source.stem, names, clips)
    size = "×".join(map(str, clips[0].size))
    print(f"{len(clips)} picture{'s' * (len(clips) > 1)} of {size} in {folder / source.stem}"
          f"{'' if len(clips) > 1 else '.png'}")


def from_file(settings: Reconstruct) -> tuple[list[str], list]:
    """Names and pictures of a .vov file."""
    from image.backbone import QwenBackbone
    from vov import bitstream, codec

    stream = bitstream.read(settings.bitstream)  # before the model: a bad file fails in milliseconds
    backbone = QwenBackbone.load(settings.model_id or stream.header.model_id, settings.cache_dir, settings.device,
                                 stream.header.dtype, bool(settings.model_id), settings.offload)
    return [item.name for item in stream.items], codec.decode_file(settings.bitstream, backbone)


def from_checkpoint(settings: Reconstruct) -> tuple[list[str], list]:
    """Names and pictures that a checkpoint regenerates from captions."""
    from image.backbone import QwenBackbone
    from vov import codec, media, metrics
    from vov.formats import reference

    found = reference.load_reference(settings.init_lora_path)
    known = found.metadata.get("config", {})
    values = {key: known.get(key, getattr(settings, key)) for key in SHARED}
    if known:
        log.info("settings are the checkpoint's: %s", " ".join(f"{k.upper()}={v}" for k, v in values.items()))
    fit = dataclasses.replace(ImageFit(), **values)
    entries = described(settings.description_file, fit.caption_start, fit.caption_end)
    backbone = QwenBackbone.load(settings.model_id or known.get("model_id") or fit.model_id, settings.cache_dir,
                                 settings.device, fit.precision, offload=settings.offload)
    blank = codec.Source(np.zeros((1, fit.height, fit.width, 3), np.uint8), 0.0, "")
    with codec.Decoder.for_theta(backbone, found.theta, fit, blank) as decoder:
        conditions = backbone.embed([caption for _, caption in entries])
        clips = [media.Clip(decoder.frames(found.theta_hat, condition, index), 0.0)
                 for index, condition in enumerate(conditions)]
    names = [name for name, _ in entries]
    if all((Path(settings.data_root) / name).is_file() for name in names):
        for item, clip in zip(read_pictures(entries, settings.data_root), clips, strict=True):
            target = item.fitted(fit.width, fit.height, known.get("resize", fit.resize))
            print(f"{item.name}  PSNR {metrics.psnr(target, clip.frames):.2f} dB")
    return names, clips


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov | INIT_LORA_PATH=x.safetensors bash image/reconstruct_multi.sh")
