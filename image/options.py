"""What the image tree adds to the shared configuration: which pictures, and which captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from vov import VovError
from vov.bitstream import Item
from vov.config import FitConfig, option
from vov.files import REPO, read_text
from vov.media import read_image

from vov.codec import Source  # isort: skip

EXAMPLES = "./descriptions/example_descriptions.txt"
C = TypeVar("C", bound=FitConfig)


@dataclass(frozen=True)
class ImageFit(FitConfig):
    """Fitting θ to one picture, or to a set of captioned pictures."""

    config: str = option("qwen-image", "preset in configs/ or a YAML file")
    name: str = option("", "names the outputs; default: the picture's name, or the description file's")
    image: str = option("", "one picture, with CAPTION; over DESCRIPTION_FILE")
    caption: str = option("", "what IMAGE shows")
    description_file: str = option(EXAMPLES, "one path|caption a line; found here or in image/")
    caption_start: int = option(1, "first picture of DESCRIPTION_FILE, counted from 1", minimum=1)
    caption_end: int = option(1, "last picture of DESCRIPTION_FILE; 0: the last there is", minimum=0)
    data_root: str = option("./data", "what the paths in DESCRIPTION_FILE are relative to")
    model_id: str = option("Qwen/Qwen-Image", "hub id or folder of the model", alias=("QWEN_MODEL_ID",))
    width: int = option(512, "pixels, a multiple of 16; 0: the largest picture's, padded", minimum=0)
    height: int = option(512, "pixels, a multiple of 16; 0: the largest picture's, padded", minimum=0)
    rank: int = option(4, "LoRA rank r", minimum=1)
    theta_length: int = option(65536, "length d of the vector θ", alias=("THETA_D_LENGTH", "V_LENGTH"), minimum=1)
    last_k: int = option(60, "adapt the last K transformer blocks", minimum=1)
    train_steps: int = option(5000, "optimiser steps", minimum=1)
    batch_size: int = option(16, "samples of one forward pass; fewer when fewer pictures make a whole pass", minimum=1)
    accum_step: int = option(2, "forward passes of one step and process", alias=("GRAD_ACCUM_STEPS",), minimum=1)
    shift: float = option(0.0, "σ grid shift: σ' = s·σ / (1 + (s − 1)·σ); 0: the model's own, by size", minimum=0)
    save_every: int = option(50, "steps between checkpoints", minimum=1)

    def sources(self) -> list[Source]:
        """Reads the chosen pictures. Raises VovError for any that is missing, naming all of them."""
        if not self.image:
            if self.caption:
                raise VovError("CAPTION is set, but IMAGE is not; give a picture, or captions in DESCRIPTION_FILE")
            return read_pictures(described(self.description_file, self.caption_start, self.caption_end), self.data_root)
        caption = " ".join(self.caption.split())
        if not caption:
            raise VovError("CAPTION is not set; say what IMAGE shows")
        Item(caption, 1, 1)  # its bounds, checked before any time is spent
        return [Source(read_image(self.image)[None], 0.0, caption, Path(self.image).name)]

    def run_name(self, sources: Sequence[Source]) -> str:
        """NAME, else the stem of the only picture, else that of DESCRIPTION_FILE."""
        return self.name or Path(sources[0].name if len(sources) == 1 else self.description_file).stem


@dataclass(frozen=True)
class Reconstruct:
    """BITSTREAM: all the rest but folders is in the file. INIT_LORA_PATH: the variables below, and captions."""

    bitstream: str = option("", "a .vov file; then only OUTPUT_DIR and CACHE_DIR matter")
    init_lora_path: str = option("", "a checkpoint, ours (which knows its settings) or the reference's")
    description_file: str = option(EXAMPLES, "one path|caption a line, for INIT_LORA_PATH")
    caption_start: int = option(1, "first line to decode", minimum=1)
    caption_end: int = option(0, "last line to decode; 0: all", minimum=0)
    data_root: str = option("./data", "where the originals are; where all are there, PSNR is printed")
    output_dir: str = option("./recon_out", "gets one PNG a picture", alias=("OUT_DIR",))
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    model_id: str = option("", "hub id or folder of the model; default: as the file or checkpoint says, else "
                           "Qwen/Qwen-Image", alias=("QWEN_MODEL_ID",))
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
    dtype: str = option("auto", "arithmetic, for INIT_LORA_PATH", choices=("auto", "float32", "bfloat16", "float16"))
    quantize: str = option("none", "storage of the frozen weights, for INIT_LORA_PATH", choices=("none", "fp8", "nf4"))
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    offload: str = option("none", "none; blocks: for a GPU that cannot hold the model", choices=("none", "blocks"))
    overwrite: bool = option(False, "replace existing outputs")


def described(path: str, start: int = 1, end: int = 0) -> list[tuple[str, str]]:
    """The (path, caption) of lines `start` to `end` (from 1, inclusive; 0: the last) of a description file.

    Blank lines and lines that begin with # do not count. Raises VovError that names the line of every problem.
    """
    file = next((p for p in (Path(path), REPO / "image" / path) if p.is_file()), None)
    if file is None:
        raise VovError(f"{path}: no such description file; set DESCRIPTION_FILE, or IMAGE and CAPTION")
    lines = read_text(file).splitlines()
    entries, problems, seen = [], [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, bar, caption = (part.strip() for part in line.partition("|"))
        name, caption = PurePosixPath(name).as_posix() if name else "", " ".join(caption.split())
        entries.append((name, caption))
        if problem := _problem(name, bar, caption):
            problems.append(f"line {number}: {problem}")
            continue
        first = seen.setdefault(name.rpartition(".")[0] or name, number)  # both would decode to one PNG
        if first != number:
            problems.append(f"line {number}: {name} is already on line {first}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise VovError(f"{path}: {'; '.join(problems[:5])}{more}; a line is relative/path|caption")
    end = end or len(entries)
    if not 1 <= start <= end <= len(entries):
        raise VovError(f"CAPTION_START={start} CAPTION_END={end}: {path} has {len(entries)} captions; "
                       f"choose 1 <= start <= end <= {len(entries)}")
    return entries[start - 1:end]


def _problem(name: str, bar: str, caption: str) -> str:
    """What is wrong with a line, or nothing."""
    if not bar or not name:
        return "no path|" if not name else "no | between path and caption"
    if not caption:
        return f"the caption of {name} is empty"
    try:
        Item(caption, 1, 1, name)  # the file's own rules: lengths, no absolute path, no ..
    except VovError as error:
        return str(error)
    return ""


def read_pictures(entries: Sequence[tuple[str, str]], root: str) -> list[Source]:
    """The pictures of (path, caption) entries below `root`; VovError that lists all that are missing."""
    missing = [name for name, _ in entries if not (Path(root) / name).is_file()]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise VovError(f"DATA_ROOT={root}: {len(missing)} of {len(entries)} pictures are missing: "
                       f"{', '.join(missing[:10])}{more}")
    return [Source(read_image(Path(root) / name)[None], 0.0, caption, name) for name, caption in entries]


def at_size(settings: C, sources: Sequence[Source], unit: int) -> C:
    """The settings with WIDTH or HEIGHT 0 replaced by the largest picture's own, rounded up to `unit` and padded."""
    if settings.width and settings.height:
        return settings
    sizes = [max(source.frames.shape[axis] for source in sources) for axis in (2, 1)]
    width, height = (given or -(-size // unit) * unit
                     for given, size in zip((settings.width, settings.height), sizes, strict=True))
    return dataclasses.replace(settings, width=width, height=height, resize="pad")
