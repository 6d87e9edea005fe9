"""The outputs of one command: kept where they are whole and from the same inputs, made where they are missing.

Beside the outputs lies a small record, `.made-….json`: the identity of what they are made from, and the hash of each
that is finished. It is written before the first output, so whatever ends a run, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vov import VovError
from vov.runtime.files import content_hash, locked, path_hash, refuse_unwritable, taken, write_json


class Outputs:
    """What a command writes; use it in a `with` block, which holds a lock on these outputs.

    Args:
        name: of the outputs, to tell them from others of their folder.
        paths: files and folders that may be written, the first in the folder that gets the record.
        identity: hash of everything that the outputs are made from.
        overwrite: make all of them anew, whatever is there.
        variable: the setting that a user would change to write elsewhere.
        known: {path: hash} of outputs whose content is known beforehand; one that is there is kept.
    Raises:
        VovError: an output is there that is not from these inputs, or was changed since; or it cannot be written.
    Attributes:
        notes: JSON values that outlive a kill together with the outputs made so far.
    """

    def __init__(self, name: str, paths: Sequence[Path], identity: str, overwrite: bool, variable: str = "OUT_DIR",
                 known: Mapping[Path, str] | None = None):
        self.paths, self.identity, self.overwrite, self.variable = list(paths), identity, overwrite, variable
        self.folder, self.known = self.paths[0].parent, {self._key(k): v for k, v in (known or {}).items()}
        self.mark = content_hash(name)[:8]
        self.record = self.folder / f".made-{self.mark}.json"
        self.made: dict[str, str] = {}
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
        found = self._read()
        self.made, self.kept = {}, set()
        same = found.get("identity") == self.identity and not self.overwrite
        self.notes = found.get("notes", {}) if same else {}
        for path in self.paths:
            if not taken(path) or self.overwrite:
                continue
            key, content = self._key(path), path_hash(path)
            if content in (self.known.get(key), found.get("made", {}).get(key) if same else None):
                self.made[key] = content
                self.kept.add(key)
            elif not same:
                raise VovError(f"{path} exists; set OVERWRITE=1 to replace it (it is of other inputs or settings), or "
                               f"choose another {self.variable}")
            elif key in found.get("made", {}):
                raise VovError(f"{path} has been changed since it was made; set OVERWRITE=1 to make it anew, or "
                               f"choose another {self.variable}")
        listed = found.get("made", {}) if same else {}
        self.complete = same and bool(found.get("complete")) and set(listed) <= self.kept

    def _read(self) -> dict:
        try:
            found = json.loads(self.record.read_bytes())
            return found if isinstance(found, dict) and isinstance(found.get("made"), dict) else {}
        except (OSError, ValueError):
            return {}

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
        """Lets `work` write an output, unless it is there already."""
        if self.has(path):
            return
        self._write(False)
        try:
            work()
        except BaseException:
            if not self.notes and not any(map(taken, self.paths)):  # refused before anything was written
                self.record.unlink(missing_ok=True)
            raise
        self.made[self._key(path)] = path_hash(path)
        self.kept.add(self._key(path))
        self._write(False)

    def forget(self, *paths: Path) -> None:
        """These outputs, by default all, are made anew: they are written together."""
        for key in map(self._key, paths or self.paths):
            self.made.pop(key, None)
            self.kept.discard(key)

    def finish(self) -> None:
        """All outputs are made: the same command has nothing more to do."""
        self._write(True)
        self.complete = True

    def _write(self, complete: bool) -> None:
        write_json(self.record, {"identity": self.identity, "made": self.made, "notes": self.notes,
                                 "complete": complete})
