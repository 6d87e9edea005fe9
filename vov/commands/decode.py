"""`reconstruct`: a .vov file, or a checkpoint with captions, to frames."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.bitstream.header import HIGHEST
from vov.commands.options import EXAMPLES, ImageFit, QwenOptions, WanOptions
from vov.commands.pictures import described, read_pictures
from vov.config import option, override, read_by
from vov.model.registry import backbone_class
from vov.noise.options import TextureOption

log = logging.getLogger(__name__)
SHARED = ("rank", "theta_length", "last_k", "lora_preset", "proj_seed", "width", "height", "seed", "guidance",
          "decode_steps", "shift", "sampler", "caption_start", "caption_end")  # a checkpoint's own


@dataclass(frozen=True)
class DecodeVideo(TextureOption, WanOptions):
    """Where the file and the model are; how to decode is in the file's header."""

    bitstream: str = option("", "the .vov file (required)")
    output_dir: str = option("./recon_out", "gets NAME/00000.png … and NAME.mp4", name="OUT_DIR",
                             alias=("OUTPUT_DIR",))
    start_at: int = option(0, "first frame to decode; of a long video only the chunks that are needed are",
                           name="START", alias=("START_AT",), minimum=0)
    frames: int = option(0, "how many frames; 0: to the end", minimum=0)
    overwrite: bool = option(False, "replace existing outputs")


@dataclass(frozen=True)
class DecodePictures(TextureOption, QwenOptions):
    """BITSTREAM: all the rest but folders is in the file. INIT_LORA_PATH: the variables below, and captions."""

    bitstream: str = option("", "a .vov file; then only OUT_DIR, TEXTURE and CACHE_DIR matter")
    init_lora_path: str = option("", "a checkpoint, ours (which knows its settings) or the reference's")
    description_file: str = option(EXAMPLES, "one path|caption a line, for INIT_LORA_PATH")
    caption_start: int = option(1, "first line to decode", minimum=1)
    caption_end: int = option(0, "last line to decode; 0: all", minimum=0)
    data_root: str = option("./data", "where the originals are; where all are there, PSNR is printed")
    output_dir: str = option("./recon_out", "gets one PNG a picture", name="OUT_DIR", alias=("OUTPUT_DIR",))
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
    sampler: str = option("euler", "ODE solver", choices=("euler", "unipc"), rare=True)
    overwrite: bool = option(False, "replace existing outputs")


def decode_video(settings: DecodeVideo) -> None:
    """Reads, checks, decodes, writes."""
    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a .vov file")
    paths = _decode_file(settings, "video", settings.start_at, settings.frames or None)
    print(" and ".join(map(str, paths)))


def decode_pictures(settings: DecodePictures) -> None:
    """Decodes to OUT_DIR/NAME.png, or OUT_DIR/NAME/….png when there are several pictures."""
    if bool(settings.bitstream) == bool(settings.init_lora_path):
        raise VovError("give either BITSTREAM (a .vov file) or INIT_LORA_PATH (a checkpoint)")
    (path,) = _decode_file(settings, "image") if settings.bitstream else _decode_checkpoint(settings)
    count = len(list(path.rglob("*.png"))) if path.is_dir() else 1
    print(f"{count} picture{'s' * (count > 1)} in {path}")


def _decode_file(settings: DecodeVideo | DecodePictures, medium: str, start: int = 0,
                 count: int | None = None) -> list[Path]:
    """Decodes BITSTREAM unless that is there; returns what was written."""
    from vov.commands.run_report import made_from
    from vov.commands.saving import decoded_paths, save, save_outputs
    from vov.decoding.decode import end_of, read
    from vov.runtime.files import refuse_overlap
    from vov.runtime.resumable import Outputs

    path, folder = Path(settings.bitstream), Path(settings.output_dir)
    stream = read(path, medium, settings.decode_limit, settings.texture)  # a bad file fails before the model is loaded
    end_of(stream, start, count)
    part = (start, count or 0) if start or count else ()
    identity = made_from(settings, stream.header.dtype, path, *part, *settings.textures)
    paths = decoded_paths(folder, path.stem, stream)
    refuse_overlap(paths, read_by(settings))
    with Outputs(path.stem, paths, identity, settings.overwrite, "out_dir") as outputs:
        save_outputs(outputs, stream, lambda: settings.load(backbone_class(medium), stream.header, str(path)), paths,
                     lambda decoder: save(decoder, folder, path.stem, (), start, count), settings.texture,
                     settings.collection)
        outputs.finish()
    return paths


def _decode_checkpoint(settings: DecodePictures) -> list[Path]:
    """Pictures that a checkpoint regenerates from captions: it becomes a file in memory, which is decoded as any."""
    from vov.commands.run_report import made_from
    from vov.commands.saving import decoded_paths, save, save_outputs
    from vov.formats.checkpoint_file import as_file
    from vov.formats.reference import load_reference, told_settings
    from vov.runtime.files import refuse_overlap
    from vov.runtime.resumable import Outputs

    path, found = settings.init_lora_path, load_reference(settings.init_lora_path)
    known = told_settings(found.metadata, (*SHARED, "resize"), ImageFit, path)
    values = {key: known.get(key, getattr(settings, key)) for key in SHARED}
    if known:
        log.info("settings are the checkpoint's: %s", " ".join(f"{k.upper()}={v}" for k, v in values.items()))
    fit = dataclasses.replace(ImageFit(), **values, resize=known.get("resize", "crop"))
    entries = described(settings.description_file, fit.caption_start, fit.caption_end)
    stem, folder = Path(path).stem, Path(settings.output_dir)
    paths = [folder / stem] if len(entries) > 1 else [folder / f"{stem}.png"]
    refuse_overlap(paths, [*read_by(settings), *(Path(settings.data_root) / name for name, _ in entries)])
    identity = made_from(settings, "", path, entries, sorted(values.items()))
    with Outputs(stem, paths, identity, settings.overwrite, "out_dir") as outputs:
        if not outputs.complete:
            backbone = settings.load(backbone_class("image"), found.metadata, path)
            stream = as_file(found, path, backbone, fit, entries)
            assert paths == decoded_paths(folder, stem, stream)
            save_outputs(outputs, stream, lambda: backbone, paths, lambda decoder: save(decoder, folder, stem))
            outputs.finish()
            _compare(settings, fit, entries, paths[0])
    return paths


def _compare(settings: DecodePictures, fit: ImageFit, entries: list[tuple[str, str]], path: Path) -> None:
    """Prints PSNR where all originals are there."""
    from vov.commands.saving import item_names
    from vov.media import read_image
    from vov.metrics import psnr

    if not all((Path(settings.data_root) / name).is_file() for name, _ in entries):
        return
    files = [path / f"{name}.png" for name in item_names([name for name, _ in entries])] if path.is_dir() else [path]
    for item, file in zip(read_pictures(entries, settings.data_root), files, strict=True):
        target = item.fitted(fit.width, fit.height, fit.resize)
        print(f"{item.name}  PSNR {psnr(target, read_image(file)[None]):.2f} dB")
