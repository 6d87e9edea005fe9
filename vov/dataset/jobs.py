"""One item of a data set: whether it is done, and the record from which a later run knows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vov import VovError
from vov.runtime.files import content_hash, locked, path_hash, write_json

BY_CONTENT = ("collection", "roi", "scenes")  # settings that may name a file: what it holds counts, not where it is
PATIENCE = 60.0  # seconds
NUMBERS = ("bytes", "sound_bytes", "bpp", "kB_per_s", "psnr", "ms_ssim")  # of an encoder's result, kept in the record


@dataclass(frozen=True)
class Job:
    """What one item is to become.

    Attributes:
        path, name: the original; what its folder and its files are called.
        folder: gets NAME.vov, its decode, the encoder's result, job.json, log.txt.
        settings: every field of the command's configuration, by name.
        medium: image or video.
        split_from: groups of chunks from which on a video is shared out; 0: never.
        key: of everything that shapes the file, see `key_of`.
    """

    path: Path
    name: str
    folder: Path
    settings: Mapping[str, Any]
    medium: str
    split_from: int
    key: str

    @property
    def file(self) -> Path:
        """The .vov file."""
        return self.folder / f"{self.name}.vov"

    @property
    def record(self) -> Path:
        """What a finished run leaves; it begins without a file's hash, and then is a run that was stopped."""
        return self.folder / "job.json"

    def recorded(self) -> dict[str, Any]:
        """The record; empty where there is none."""
        try:
            found = json.loads(self.record.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def done(self) -> bool:
        """Whether the file was made from this content with these settings, and is as it was made."""
        found = self.recorded()
        return found.get("key") == self.key and self.file.is_file() and found.get("file_hash") == path_hash(self.file)

    def begin(self) -> bool:
        """Notes that the work has begun; whether outputs of earlier settings may be replaced: only those of ours.

        Nothing is noted beside a file of somebody else: the next run would take it for ours.
        """
        ours = bool(self.recorded())
        if ours or not self.file.exists():
            write_json(self.record, {"key": self.key, "path": str(self.path)})
        return ours

    def finish(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the record of a finished job and returns it."""
        row = {"key": self.key, "path": str(self.path), "name": self.name, "tree": self.medium,
               "file": str(self.file), "file_hash": path_hash(self.file), **numbers}
        write_json(self.record, row)
        return row


def key_of(path: Path, caption: str, settings: Any, managed: Sequence[str], model: Path | None = None) -> str:
    """The identity of a file: its original's content, its caption, the model, every setting that shapes it.

    Args:
        settings: a configuration.
        managed: its fields that say where things are.
        model: the model's folder, whose content counts; None: its name alone counts.
    """
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)
              if field.metadata["identity"] and field.name not in managed}
    fields |= {name: _content(str(getattr(settings, name))) for name in BY_CONTENT if hasattr(settings, name)}
    return content_hash(path_hash(path), caption, model_hash(model) if model else settings.model_id,
                        sorted(fields.items()))


@functools.cache
def model_hash(folder: Path) -> str:
    """Names a model by the size of each of its files and samples of its content: 64 blocks of 64 KB, evenly spread."""
    block, samples, parts = 1 << 16, 64, []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        last = max(0, size - block)
        places = [last * number // (samples - 1) for number in range(samples)]
        if size <= block * samples:
            places = list(range(0, size, block))
        parts += [path.relative_to(folder).as_posix(), size]
        with path.open("rb") as handle:
            for place in places:
                handle.seek(place)
                parts.append(handle.read(block))
    return content_hash(*parts)


@contextlib.contextmanager
def held(folder: Path, patience: float = PATIENCE, name: str = ".job") -> Iterator[None]:
    """Holds an item's folder, as `locked` does, but waits `patience` seconds for a process that is being ended.

    The workers of a command that was killed live on for a moment, while the same command may run again already.
    """
    with contextlib.ExitStack() as stack:
        end = time.monotonic() + patience
        while True:
            try:
                stack.enter_context(locked(folder, name))
                break
            except VovError as error:
                if "another run" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield


def _content(value: str) -> str:
    return path_hash(value) if value and Path(value).exists() else value


def refuse_missing(path: Path) -> None:
    """Raises VovError for an item that is not there."""
    if not path.exists():
        raise VovError(f"{path}: no such file or folder")
