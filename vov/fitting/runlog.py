"""What a run tells: a progress bar, log.jsonl and TensorBoard curves."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from vov.files import write_bytes, write_problem


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
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trim(folder / "log.jsonl", start)
            self.file = (folder / "log.jsonl").open("a", buffering=1)
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)
        except OSError as error:
            raise write_problem(error, folder, "OUT_DIR") or error from error

    def step(self, step: int, read) -> None:
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
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
                self.shown[name] = f"{value:.4g}"
        except OSError as error:
            raise write_problem(error, self.folder / "log.jsonl", "OUT_DIR") or error from error
        self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        """Flushes and closes everything."""
        self.bar.close()
        if self.active:
            with suppress(OSError):  # a full disk has been told of, or stops the checkpoint
                self.file.close()
                self.board.close()


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
