"""What must hold for every input, and the limits under which it is tried."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from vov import VovError

SECONDS, BYTES = 10.0, 1 << 30
NEIGHBOURS = 9


class Broken(Exception):
    """A claim about refusals that does not hold."""


class TooSlow(BaseException):
    """A case took longer than SECONDS; no `except Exception` may swallow it."""


@dataclass(frozen=True)
class Target:
    """Something that reads what a stranger or a user wrote.

    inputs: strategy of values. run: (value, folder) → None reads the value; it may write into `folder`, unless it
    refuses. share: cases of every 1,000 of a campaign. near: (value, random) → a value beside it: drawing a whole
    structure takes longer than most readers, so every drawn value is tried with a few of its neighbours.
    """

    name: str
    inputs: SearchStrategy
    run: Callable[[Any, Path], object]
    share: int
    near: Callable[[Any, Random], Any] | None = None


@dataclass
class Tally:
    """What became of a target's cases: accepted, refused, and for which reasons; the slowest; failures as text."""

    cases: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


def _told(error: BaseException) -> str:
    """Where a case failed, and with which input, in a few lines."""
    while getattr(error, "exceptions", ()):  # a group
        error = error.exceptions[0]
    notes = "\n".join(getattr(error, "__notes__", ()))
    where = "".join(traceback.format_tb(error.__traceback__)[-6:])
    return f"{where}{type(error).__name__}: {str(error)[:800]}\n{notes[:1500]}"


@contextmanager
def limits() -> Iterator[None]:
    """Inside, this process may map at most BYTES more than it has: what asks for more gets a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + BYTES, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


@contextmanager
def hurried(allowed: float) -> Iterator[None]:
    """Raises TooSlow after so many seconds, as soon as Python code runs again."""

    def ring(*_: object) -> None:
        raise TooSlow(f"took more than {allowed:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, allowed)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(target: Target, value: object, folder: Path, tally: Tally) -> None:
    """Runs one case in an empty folder. Raises whatever is no VovError, Broken, or TooSlow."""
    start = time.monotonic()
    try:
        with hurried(SECONDS):
            outcome = outcome_of(target, value, folder, tally)
    finally:  # also after a failure: what it left must not be laid to the cases that Hypothesis tries next
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    tally.cases[outcome] += 1
    tally.slowest = max(tally.slowest, time.monotonic() - start)


def outcome_of(target: Target, value: object, folder: Path, tally: Tally) -> str:
    """"accepted" or "refused"; raises as `judge`."""
    try:
        target.run(value, folder)
    except VovError as error:
        tally.reasons[re.sub(r"\S*/\S*|['\"].*?['\"]|-?[0-9][^ ]*", "…", str(error))[:70]] += 1
        if not str(error).strip() or "\n" in str(error):
            raise Broken(f"not one line: {str(error)!r}") from error
        if left := sorted(path.name for path in folder.iterdir()):
            raise Broken(f"refused ({error}) but left {left}") from error
        return "refused"
    return "accepted"


def campaign(
    target: Target, folder: Path, cases: int, first_seed: int = 0, batch: int = 500, derandomize: bool = False
) -> Tally:
    """Tries `cases` inputs, `batch` draws to a seed; a failure is kept, shrunk, and the next seed goes on."""
    tally = Tally()
    folder.mkdir(parents=True, exist_ok=True)
    each = 1 + NEIGHBOURS if target.near else 1
    draws = -(-cases // each)
    for number in range(-(-draws // batch)):

        def one(value: object, whim: int) -> None:
            judge(target, value, folder, tally)
            random = Random(whim)
            for _ in range(each - 1):
                judge(target, target.near(value, random), folder, tally)

        wrapped = given(target.inputs, st.integers(0, 1 << 32))(one)
        wrapped = settings(
            max_examples=min(batch, draws),
            deadline=None,
            database=None,
            derandomize=derandomize,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
        )(wrapped)
        if not derandomize:
            wrapped = seed(first_seed + number)(wrapped)
        try:
            with limits():
                wrapped()
        except (Exception, TooSlow) as error:
            tally.failures.append(_told(error))
            shutil.rmtree(folder)
            folder.mkdir()
        if sum(tally.cases.values()) >= cases:
            break
    return tally
