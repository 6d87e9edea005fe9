"""What a run tells: a progress bar, log.jsonl and TensorBoard curves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vov.runtime.files import write_bytes, write_problem


class RunLog:
    """Log of one fit. Silent in all processes but the first.

    Args:
        folder: of the run; gets log.jsonl (appended to on resume) and tensorboard/.
        title: of the progress bar.
        total, start: steps in all and steps already done.
        every: steps between log lines.
    """

    def __init__(self, folder: Path, title: str, total: int, start: int = 0, active: bool = True, every: int = 10):
        self.active, self.every, self.total, self.started = active, every, total, time.monotonic()
        self.shown: dict[str, str] = {}
        self.bar = tqdm(total=total, initial=start, desc=title, unit="step", disable=not active, dynamic_ncols=True,
                        mininterval=0.5)
        if not active:
            return
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trim(folder / "log.jsonl", start)
            self.file = (folder / "log.jsonl").open("a", buffering=1)
            self.board = Board(folder / "tensorboard", start)
        except OSError as error:
            self.bar.close()  # the error gets a line of its own
            raise write_problem(error, folder, "out_dir") or error from error

    def step(self, step: int, read: Callable[..., dict[str, float]]) -> None:
        """Advances the bar to `step`; every few steps `read()` gives {name: float} to show and log."""
        if not self.active:
            return
        self.bar.update(step - self.bar.n)
        if step % self.every == 0 or step == self.total:
            self.write(step, read())

    def write(self, step: int, values: dict[str, float]) -> None:
        """Logs values at a step."""
        if not self.active:
            return
        seconds = round(time.monotonic() - self.started, 3)
        try:
            self.file.write(json.dumps({**values, "step": step, "seconds": seconds}) + "\n")
            self.board.add(step, values)
            self.shown |= {name: f"{value:.4g}" for name, value in values.items()}
        except OSError as error:
            raise write_problem(error, self.folder / "log.jsonl", "out_dir") or error from error
        self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        """Flushes and closes everything."""
        self.bar.close()
        if self.active:
            with suppress(OSError):  # a full disk has been told of, or stops the checkpoint
                self.file.close()
                self.board.close()


class Board:
    """TensorBoard's curves, written at once: its own writer does so in a thread, whose errors nobody can catch.

    folder: gets one file of events. start: steps already done; later ones of earlier files are not shown.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}").open("wb")
        self.records = RecordWriter(self.file)
        self._put(file_version="brain.Event:2")
        if start:
            self._put(step=start, session_log=SessionLog(status=SessionLog.START))

    def _put(self, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **what).SerializeToString())
        self.file.flush()

    def add(self, step: int, values: dict[str, float]) -> None:
        """One point of each curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._put(step=step, summary=Summary(value=[
            Summary.Value(tag=name, simple_value=value) for name, value in values.items()]))

    def close(self) -> None:
        """Nothing is pending."""
        self.file.close()


def trim(path: Path, step: int) -> None:
    """Drops the lines of a log.jsonl that are beyond `step`, or cut off: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_bytes(path, "".join(kept).encode())
