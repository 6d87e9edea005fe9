"""Decodes a .vov file, or a checkpoint with captions: `python -m image.reconstruct`, by reconstruct_multi.sh."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from image.options import EXAMPLES, ImageFit, QwenOptions, described, read_pictures
from vov import VovError, cli
from vov.bitstream.header import HIGHEST
from vov.config import option, override, read_by
from vov.media import Clip
from vov.scaling.settings import TextureOption

log = logging.getLogger(__name__)
SHARED = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "seed", "guidance",
          "decode_steps", "shift", "sampler", "caption_start", "caption_end")  # a checkpoint's own


@dataclass(frozen=True)
class Reconstruct(TextureOption, QwenOptions):
    """BITSTREAM: all the rest but folders is in the file. INIT_LORA_PATH: the variables below, and captions."""

    bitstream: str = option("", "a .vov file; then only OUTPUT_DIR, TEXTURE and CACHE_DIR matter")
    init_lora_path: str = option("", "a checkpoint, ours (which knows its settings) or the reference's")
    description_file: str = option(EXAMPLES, "one path|caption a line, for INIT_LORA_PATH")
    caption_start: int = option(1, "first line to decode", minimum=1)
    caption_end: int = option(0, "last line to decode; 0: all", minimum=0)
    data_root: str = option("./data", "where the originals are; where all are there, PSNR is printed")
    output_dir: str = option("./recon_out", "gets one PNG a picture", alias=("OUT_DIR",))
    theta_length: int = override(ImageFit, "theta_length", 65536)
    proj_seed: int = option(42, "seed of UniLoRA's indices", minimum=0, maximum=HIGHEST["proj_seed"])
    last_k: int = option(60, "the last K blocks are adapted", minimum=1, maximum=HIGHEST["last_k"])
    width: int = option(512, "pixels", minimum=1, maximum=HIGHEST["width"])
    height: int = option(512, "pixels", minimum=1, maximum=HIGHEST["height"])
    rank: int = option(4, "LoRA rank", minimum=1, maximum=HIGHEST["rank"])
    lora_preset: str = option("qkvo", "adapted linears", choices=("qkvo", "qkv", "qkvo_mlp"))
    guidance: float = override(ImageFit, "guidance", 1.0)
    seed: int = option(42, "of the noise", minimum=0, maximum=HIGHEST["seed"])
    decode_steps: int = option(50, "sampler steps", alias=("TEST_STEPS",), minimum=1, maximum=HIGHEST["decode_steps"])
    shift: float = option(0.0, "σ grid shift; 0: the model's own", minimum=0, maximum=HIGHEST["shift"])
    sampler: str = option("euler", "ODE solver", choices=("euler", "unipc"))
    overwrite: bool = option(False, "replace existing outputs")


def main(settings: Reconstruct) -> None:
    """Decodes to OUTPUT_DIR/NAME.png, or OUTPUT_DIR/NAME/….png when there are several pictures."""
    if bool(settings.bitstream) == bool(settings.init_lora_path):
        raise VovError("give either BITSTREAM (a .vov file) or INIT_LORA_PATH (a checkpoint)")
    from vov import results

    names, identity, decode = (from_file if settings.bitstream else from_checkpoint)(settings)
    stem = Path(settings.bitstream or settings.init_lora_path).stem
    read = read_by(settings) + [Path(settings.data_root) / name for name in names if settings.init_lora_path]
    (path,) = results.decode_to(Path(settings.output_dir), stem, names, 1, identity, settings.overwrite, decode, read)
    print(f"{len(names)} picture{'s' * (len(names) > 1)} in {path}")


def from_file(settings: Reconstruct) -> tuple[list[str], str, Callable[[], list[Clip]]]:
    """Names, identity and decoder of the pictures of a .vov file."""
    from image.backbone import QwenBackbone
    from vov import codec, results

    path = settings.bitstream
    stream = codec.read_file(path, QwenBackbone, settings.decode_limit, texture=settings.texture)  # before the model
    identity = results.made_from(settings, stream.header.dtype, path, *settings.textures)
    return [item.name for item in stream.items], identity, lambda: codec.decode_file(
        path, settings.load(QwenBackbone, stream.header, path), settings.decode_limit, settings.texture)


def from_checkpoint(settings: Reconstruct) -> tuple[list[str], str, Callable[[], list[Clip]]]:
    """The same of a checkpoint with captions; the decoder prints PSNR where all originals are there."""
    from image.backbone import QwenBackbone
    from vov import codec, metrics, results
    from vov.formats.reference import load_reference, told_settings

    path, root, found = settings.init_lora_path, Path(settings.data_root), load_reference(settings.init_lora_path)
    known = told_settings(found.metadata, (*SHARED, "resize"), ImageFit, path)
    values = {key: known.get(key, getattr(settings, key)) for key in SHARED}
    if known:
        log.info("settings are the checkpoint's: %s", " ".join(f"{k.upper()}={v}" for k, v in values.items()))
    fit = replace(ImageFit(), **values, resize=known.get("resize", "crop"))
    entries = described(settings.description_file, fit.caption_start, fit.caption_end)

    def decode() -> list[Clip]:
        backbone = settings.load(QwenBackbone, found.metadata, path)
        clips = codec.decode_checkpoint(path, found, backbone, fit, [caption for _, caption in entries])
        if all((root / name).is_file() for name, _ in entries):
            for item, clip in zip(read_pictures(entries, settings.data_root), clips, strict=True):
                target = item.fitted(fit.width, fit.height, fit.resize)
                print(f"{item.name}  PSNR {metrics.psnr(target, clip.frames):.2f} dB")
        return clips

    return [name for name, _ in entries], results.made_from(settings, "", path, entries, sorted(values.items())), decode


if __name__ == "__main__":
    cli.run(Reconstruct, main, "BITSTREAM=x.vov | INIT_LORA_PATH=x.safetensors bash image/reconstruct_multi.sh")
