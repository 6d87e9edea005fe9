"""What a run tells: a progress bar, log.jsonl and TensorBoard curves."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tqdm import tqdm


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

        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "log.jsonl").open("a", buffering=1)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)

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
        self.file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
            self.shown[name] = f"{value:.4g}"
        self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        """Flushes and closes everything."""
        self.bar.close()
        if self.active:
            self.file.close()
            self.board.close()
