"""What the image tree adds to the shared configuration: which pictures, and which captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from vov import VovError
from vov.bitstream import Item
from vov.config import option, override
from vov.files import REPO, read_text
from vov.fitting.settings import FitConfig
from vov.media import read_image
from vov.model.options import ModelOptions
from vov.roi import with_region

if TYPE_CHECKING:  # --help, and a signal in its first seconds, need no torch
    from vov.codec import Source

EXAMPLES = "./descriptions/example_descriptions.txt"
C = TypeVar("C", bound=FitConfig)


@dataclass(frozen=True)
class QwenOptions(ModelOptions):
    """The model of a command that reads a file."""

    model_id: str = override(ModelOptions, "model_id", "", alias=("QWEN_MODEL_ID",))


@dataclass(frozen=True)
class ImageFit(FitConfig):
    """Fitting θ to one picture, or to a set of captioned pictures."""

    config: str = override(FitConfig, "config", "qwen-image")
    name: str = option("", "names the outputs; default: the picture's name, or the description file's", identity=False)
    image: str = option("", "one picture, with CAPTION; over DESCRIPTION_FILE", identity=False)
    caption: str = option("", "what IMAGE shows", identity=False)
    description_file: str = option(EXAMPLES, "one path|caption a line; found here or in image/", identity=False)
    caption_start: int = option(1, "first picture of DESCRIPTION_FILE, counted from 1", minimum=1, identity=False)
    caption_end: int = option(1, "last picture of DESCRIPTION_FILE; 0: the last there is", minimum=0, identity=False)
    data_root: str = option("./data", "what the paths in DESCRIPTION_FILE are relative to", identity=False)
    model_id: str = override(FitConfig, "model_id", "Qwen/Qwen-Image", help="hub id or folder of the model",
                             alias=("QWEN_MODEL_ID",))
    width: int = override(FitConfig, "width", 512, help="pixels, a multiple of 16; 0: the largest picture's, padded",
                          minimum=0)
    height: int = override(FitConfig, "height", 512,
                           help="pixels, a multiple of 16; 0: the largest picture's, padded", minimum=0)
    rank: int = override(FitConfig, "rank", 4)
    theta_length: int = override(FitConfig, "theta_length", 65536)
    last_k: int = override(FitConfig, "last_k", 60)
    train_steps: int = override(FitConfig, "train_steps", 5000)
    batch_size: int = override(FitConfig, "batch_size", 16,
                               help="samples of one forward pass; fewer when fewer pictures make a whole pass")
    accum_step: int = override(FitConfig, "accum_step", 2)
    shift: float = override(FitConfig, "shift", 0.0,
                            help="σ grid shift: σ' = s·σ / (1 + (s − 1)·σ); 0: the model's own, by size")
    save_every: int = override(FitConfig, "save_every", 50)

    def sources(self, caption_needed: bool = True) -> list[Source]:
        """Reads the chosen pictures. Raises VovError for any that is missing, naming all of them."""
        if not self.image:
            if self.caption:
                raise VovError("CAPTION is set, but IMAGE is not; give a picture, or captions in DESCRIPTION_FILE")
            entries = described(self.description_file, self.caption_start, self.caption_end)
            return with_region(read_pictures(entries, self.data_root), self)
        caption = " ".join(self.caption.split())
        if not caption and caption_needed:
            raise VovError("CAPTION is not set; say what IMAGE shows")
        Item(caption, 1, 1)  # its bounds, checked before any time is spent
        from vov.codec import Source

        return with_region([Source(read_image(self.image)[None], 0.0, caption, Path(self.image).name)], self)

    def files(self) -> list[Path]:
        """Where the chosen pictures are."""
        if self.image:
            return [Path(self.image)]
        entries = described(self.description_file, self.caption_start, self.caption_end)
        return [Path(self.data_root) / name for name, _ in entries]

    def run_name(self, sources: Sequence[Source]) -> str:
        """NAME, else the stem of the only picture, else that of DESCRIPTION_FILE."""
        return self.name or Path(sources[0].name if len(sources) == 1 else self.description_file).stem


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
    from vov.codec import Source

    return [Source(read_image(Path(root) / name)[None], 0.0, caption, name) for name, caption in entries]


def at_size(settings: C, sources: Sequence[Source], unit: int) -> C:
    """The settings with WIDTH or HEIGHT 0 replaced by the largest picture's own, rounded up to `unit` and padded."""
    if settings.width and settings.height:
        return settings
    sizes = [max(source.frames.shape[axis] for source in sources) for axis in (2, 1)]
    width, height = (given or -(-size // unit) * unit
                     for given, size in zip((settings.width, settings.height), sizes, strict=True))
    return dataclasses.replace(settings, width=width, height=height, resize="pad")
