"""Stopping on a signal: at once, or where a loop can save its state first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_state = {"graceful": False, "wanted": 0}


def close_output() -> None:
    """After a BrokenPipeError: whoever reads the output, `head` say, has enough, and what is still to come goes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Stopped(BaseException):
    """A signal ended the run. `code` is the exit code, 128 + the signal's number."""

    def __init__(self, number: int, saved: str = ""):
        self.code, self.saved = 128 + number, saved
        super().__init__(saved)

    @property
    def line(self) -> str:
        """What the user reads."""
        name = signal.Signals(self.code - 128).name
        return f"stopped by {name}{f', {self.saved}' if self.saved else ''}; run the same command again to go on"


@contextmanager
def on_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `Stopped`, or wait for a `graceful` loop to ask."""
    before = {number: signal.signal(number, _handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, _frame: object) -> None:
    if _state["graceful"] and not _state["wanted"]:
        _state["wanted"] = number  # a second signal does not wait
        return
    raise Stopped(number)


@contextmanager
def graceful() -> Iterator[Callable[[], int]]:
    """A loop that asks after each step whether to stop: yields a function that gives the signal's number, or 0."""
    _state.update(graceful=True, wanted=0)
    try:
        yield lambda: _state["wanted"]
    finally:
        wanted = _state["wanted"]
        _state.update(graceful=False, wanted=0)
    if wanted:  # it came after the loop asked for the last time
        raise Stopped(wanted)
