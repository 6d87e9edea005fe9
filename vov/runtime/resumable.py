"""The outputs of one command: kept where they are whole and from the same inputs, made where they are missing.

Beside the outputs lies a small record, `.made-….json`: the identity of what they are made from, the hash of each that
is finished, and the names of all files that are ours. It is written before the first output, so whatever ends a run,
the same command goes on. OVERWRITE replaces what a record of the folder lists, and nothing else: a file that no run
made is never replaced. What was changed since is still ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from vov import VovError
from vov.runtime.files import content_hash, locked, path_hash, refuse_unwritable, taken, write_json

FIT = ("checkpoint.safetensors", "config.yaml", "log.jsonl", "previews", "tensorboard")
SET = ("results.json", "results.csv", "manifest.csv", "failed.csv", "report.log")


class Outputs:
    """What a command writes; use it in a `with` block, which holds a lock on these outputs.

    Args:
        name: of the outputs, to tell them from others of their folder.
        paths: files and folders that may be written, all in one folder, which gets the record.
        identity: hash of everything that the outputs are made from.
        overwrite: make all of them anew, if what is there is ours.
        variable: the setting that a user would change to write elsewhere.
        known: {path: hash} of outputs whose content is known beforehand; one that is there is kept.
    Raises:
        VovError: an output is there that no run made, is not from these inputs, or was changed since; or it cannot be
            written.
    Attributes:
        notes: JSON values that outlive a kill together with the outputs made so far.
    """

    def __init__(self, name: str, paths: Sequence[Path], identity: str, overwrite: bool, variable: str = "out_dir",
                 known: Mapping[Path, str] | None = None):
        self.paths, self.identity, self.overwrite, self.variable = list(paths), identity, overwrite, variable
        self.folder, self.known = self.paths[0].parent, {self._key(k): v for k, v in (known or {}).items()}
        self.mark = content_hash(name)[:8]
        self.record = self.folder / f".made-{self.mark}.json"
        self.made: dict[str, str] = {}
        self.ours: set[str] = set()
        self.kept: set[str] = set()
        self.notes: dict[str, Any] = {}
        self.complete = False
        self._stack = ExitStack()
        refuse_unwritable(self.paths, variable)
        self._look()

    @staticmethod
    def _key(path: Path) -> str:
        return Path(path).name

    def _look(self) -> None:
        """Reads the record and what is there; see the class."""
        found = read_record(self.record)
        self.made, self.kept, self.ours = {}, set(), listed(found)
        same = found.get("identity") == self.identity and not self.overwrite
        self.notes = found.get("notes", {}) if same else {}
        if same and "ours" not in found:  # of an earlier version, which did not note what it had begun
            self.ours |= {self._key(path) for path in self.paths}
        everywhere = ours(self.folder) | self.ours
        for path in filter(taken, self.paths):
            key = self._key(path)
            content = None if self.overwrite else path_hash(path)
            if content and content in (self.known.get(key), found.get("made", {}).get(key) if same else None):
                self.made[key] = content
                self.kept.add(key)
                continue
            refuse_foreign([path], self.variable, everywhere)
            if not same and not self.overwrite:
                raise VovError(f"{path} exists; set `overwrite`=1 to replace it (it is of other inputs or settings), "
                               f"or choose another `{self.variable}`")
            if same and key in found.get("made", {}):
                raise VovError(f"{path} has been changed since it was made; set `overwrite`=1 to make it anew, or "
                               f"choose another `{self.variable}`")
        finished = found.get("made", {}) if same else {}
        self.complete = same and bool(found.get("complete")) and set(finished) <= self.kept

    def __enter__(self) -> Outputs:
        if not self.complete:
            self._stack.enter_context(locked(self.folder, f".lock-{self.mark}", self.variable))
            self._look()  # another run may have ended just before
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has(self, path: Path) -> bool:
        """Whether an output is there, whole and from the same inputs."""
        return self._key(path) in self.kept

    def make(self, path: Path, work: Callable[[], object]) -> None:
        """Lets `work` write an output, unless it is there already. Files of ours in a folder that are not written anew,
        such as frames of a longer clip, go."""
        if self.has(path):
            return
        self.ours |= {self._key(one) for one in self.paths}
        self._write(False)
        before = {file: _stamp(file) for file in _files(path)} if path.is_dir() else {}
        try:
            work()
        except BaseException:
            if not self.notes and not any(map(taken, self.paths)):  # refused before anything was written
                self.record.unlink(missing_ok=True)
            elif not self.record.is_file():  # the folder was taken away meanwhile, and what is there now is ours
                with suppress(VovError, OSError):
                    self._write(False)
            raise
        for file in (file for file, stamp in before.items() if _stamp(file) == stamp):
            _remove(file)
        self.made[self._key(path)] = path_hash(path)
        self.kept.add(self._key(path))
        self._write(False)

    def forget(self, *paths: Path) -> None:
        """These outputs, by default all, are made anew: they are written together."""
        for key in map(self._key, paths or self.paths):
            self.made.pop(key, None)
            self.kept.discard(key)

    def finish(self) -> None:
        """All outputs are made: the same command has nothing more to do. What an earlier run with this record left and
        this one has not made goes."""
        whole = {file.relative_to(self.folder).as_posix() for path in self.paths if self._key(path) in self.made
                 for file in _files(path)}
        for name in self.ours - whole - set(self.made):
            for file in _files(self.folder / name):
                if file.relative_to(self.folder).as_posix() not in whole:
                    _remove(file)
        self.ours = whole
        self._write(True)
        self.complete = True

    def _write(self, complete: bool) -> None:
        write_json(self.record, {"identity": self.identity, "made": self.made, "ours": sorted(self.ours),
                                 "notes": self.notes, "complete": complete})


def ours(folder: Path) -> set[str]:
    """What runs made in a folder: names relative to it; that of a folder stands for all that is in it.

    Files of versions that kept no record are ours by what they say: result.json of a video names its file, results.json
    lists a data set, and a checkpoint tells its format.
    """
    found = set().union(*(listed(read_record(path)) for path in folder.glob(".made-*.json")))
    result, whole = read_record(folder / "result.json", "bytes_by_part"), read_record(folder / "results.json", "totals")
    if isinstance(name := result.get("file"), str):
        stem = Path(name).stem
        found |= {name, stem, f"{stem}.mp4", "result.json"}
    with suppress(OSError), (folder / FIT[0]).open("rb") as file:
        found |= set(FIT) if b"vov-checkpoint-" in file.read(1 << 20) else set()
    return found | set(SET if "items" in whole else ())


def refuse_foreign(paths: Iterable[Path], variable: str = "out_dir", known: set[str] | None = None) -> None:
    """Raises VovError when something is at one of `paths`, or in a folder there, that no run made.

    known: what `ours` says of their folder, where that is at hand.
    """
    for path in map(Path, paths):
        mine = ours(path.parent) if known is None else known
        for file in (_files(path) if taken(path) else ()):
            name = PurePosixPath(file.relative_to(path.parent).as_posix())
            if mine.isdisjoint({str(name), *map(str, name.parents)}):
                raise VovError(f"{file} exists, and no run made it: with `overwrite`=1 it stays, too; move it away, or "
                               f"choose another `{variable}`")


def claim(folder: Path, names: Sequence[str], variable: str = "out_dir") -> None:
    """Notes, before they are written, that files of `folder` are ours; raises VovError where one is not."""
    known = ours(folder)
    refuse_foreign([folder / name for name in names], variable, known)
    if not known.issuperset(names):
        write_json(folder / f".made-{content_hash(*names)[:8]}.json", {"made": {}, "ours": sorted(names)})


def read_record(path: Path, key: str = "made") -> dict:
    """A record, or another JSON file that holds a mapping under `key`; empty where there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) and isinstance(found.get(key), dict) else {}
    except (OSError, ValueError):
        return {}


def listed(record: Mapping[str, Any]) -> set[str]:
    """The names that a record says are ours; one of an earlier version has those that were finished."""
    names = record.get("ours", list(record.get("made", {})))
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _files(path: Path) -> list[Path]:
    """A file, or all files in a folder but hidden ones."""
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.rglob("*")) if not file.is_dir() and not file.name.startswith(".")]


def _stamp(path: Path) -> tuple[int, int]:
    """Differs once a file has been written anew."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return 0, 0


def _remove(file: Path) -> None:
    """Removes a file, and its folder if that is then empty."""
    file.unlink(missing_ok=True)
    with suppress(OSError):
        file.parent.rmdir()
