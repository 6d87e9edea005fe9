"""One trial each: a command is disturbed, given again until it ends well, and what is left must be the usual bytes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.torture.commands import Command, contents, kill, start, typed, wait


@dataclass
class Trial:
    """What happened: how often the command was disturbed, where (seconds), and what is wrong, if anything."""

    kind: str
    command: str
    number: int
    disturbed: int = 0
    moments: list[float] = field(default_factory=list)
    fault: str = ""


@dataclass(frozen=True)
class Usual:
    """The undisturbed run: seconds, contents, and the bytes that it needs on disk."""

    seconds: float
    contents: dict[str, str]
    size: int


class Bench:
    """Where trials of one command happen. scratch: a folder that is emptied for each of them."""

    def __init__(self, command: Command, scratch: Path):
        self.command, self.scratch = command, scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self.said = scratch / "said.txt"
        self.usual = self._undisturbed()

    def folder(self) -> Path:
        """A new, empty place for a run."""
        place = self.scratch / "run"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place / "out"

    def run(self, out: Path, before: Callable[[], None] | None = None) -> int:
        """The command to its end; its exit code."""
        return wait(start(self.command, out, self.said, before))

    def _undisturbed(self) -> Usual:
        out, begun = self.folder(), time.monotonic()
        code = self.run(out)
        if code:
            raise SystemExit(f"{self.command.name}: fails undisturbed: {self.said.read_text()[-2000:]}")
        shutil.copytree(out, self.scratch / f"usual {self.command.name}", dirs_exist_ok=True)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        return Usual(time.monotonic() - begun, contents(out), size)

    def complaint(self, code: int) -> str:
        """What is wrong with how a disturbed run ended: nothing, if it ended well or with one line and code 1."""
        text = self.said.read_text(errors="replace")
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if code == 0 or (code == 1 and len(errors) == 1 and "Traceback" not in text):
            return ""
        return f"exit code {code}: {text[-600:]}"

    def finish(self, trial: Trial, out: Path, lost: tuple[str, ...] = ()) -> Trial:
        """Gives the command once more, undisturbed, and compares; names with a part of `lost` in them may differ."""
        code = self.run(out)
        if code:
            trial.fault = trial.fault or f"the same command ends with {code}: {self.said.read_text()[-300:].strip()}"
            return trial
        found = contents(out)
        wrong = sorted(
            name
            for name in found.keys() | self.usual.contents.keys()
            if found.get(name) != self.usual.contents.get(name) and not any(part in name for part in lost)
        )
        if wrong:  # to be looked at beside `usual`
            shutil.copytree(out, self.scratch / f"{trial.kind} {trial.command} {trial.number}", dirs_exist_ok=True)
            trial.fault = trial.fault or f"differs: {', '.join(wrong[:5])}"
        return trial


def killed(bench: Bench, number: int) -> Trial:
    """One to four SIGKILLs at random moments of one run."""
    random, out = Random(f"{bench.command.name} {number}"), bench.folder()
    trial = Trial("kill", bench.command.name, number)
    for _ in range(random.randrange(1, 5)):
        pid, moment = start(bench.command, out, bench.said), random.uniform(0, bench.usual.seconds)
        time.sleep(moment)
        kill(pid)
        code = wait(pid)
        if code == -signal.SIGKILL:
            trial.disturbed += 1
            trial.moments.append(round(moment, 3))
        elif complaint := bench.complaint(code):
            trial.fault = complaint
    return bench.finish(trial, out)


def killed_as_typed(bench: Bench, number: int) -> Trial:
    """One SIGKILL to all processes of a command that bash has started; it is then typed again."""
    random, out = Random(f"typed {bench.command.name} {number}"), bench.folder()
    trial = Trial("typed", bench.command.name, number)
    begun = time.monotonic()
    process = typed(bench.command, out, bench.said)
    while not out.exists() and process.poll() is None and time.monotonic() - begun < 120:  # imports take longest
        time.sleep(0.05)
    time.sleep(random.uniform(0, 3 * bench.usual.seconds))
    os.killpg(process.pid, signal.SIGKILL)
    trial.disturbed = int(process.wait() == -signal.SIGKILL)
    again = typed(bench.command, out, bench.said)
    if again.wait(timeout=300):
        trial.fault = f"typed again, it ends with {again.returncode}: {bench.said.read_text()[-300:].strip()}"
    return bench.finish(trial, out)


@contextmanager
def disk(place: Path, size: int) -> Iterator[Callable[[str], None] | None]:
    """A file system of `size` bytes at `place`; yields a function that mounts it anew with other options.

    None where mounting is not allowed.
    """
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "vov-torture", str(place)], check=False, capture_output=True
    )

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)

    try:
        yield change if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def full(bench: Bench, number: int, of: int) -> Trial:
    """A disk that is full after number + 1 of `of` + 1 parts of what the run writes; then there is room."""
    trial = Trial("full disk", bench.command.name, number)
    room = max(4096, (number + 1) * (bench.usual.size + (1 << 16)) // (of + 1))
    bench.folder()
    place = bench.scratch / "run"
    with disk(place, room) as change:
        if change:
            code = bench.run(place / "out")
        else:  # no mount: no file may grow beyond a part of the largest
            place.mkdir(exist_ok=True)
            code = bench.run(place / "out", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room // 4, room // 4)))
        trial.disturbed, trial.moments = int(code != 0), [float(room)]
        trial.fault = bench.complaint(code)
        if change:
            change("size=256m")
        trial = bench.finish(trial, place / "out")
    shutil.rmtree(place, ignore_errors=True)
    return trial


def read_only(bench: Bench, number: int) -> Trial:
    """A disk that becomes read-only at a random moment (for number 0 before the start); then it can be written."""
    random = Random(f"read-only {bench.command.name} {number}")
    trial = Trial("read-only", bench.command.name, number)
    place = bench.scratch / "run"
    bench.folder()
    with disk(place, 1 << 28) as change:
        if change is None:
            trial.fault = "needs mount"
            return trial
        if number == 0:
            change("ro")
        pid = start(bench.command, place / "out", bench.said)
        deadline = time.monotonic() + random.uniform(0, bench.usual.seconds)
        closed = number == 0
        while not closed and time.monotonic() < deadline + 5:
            time.sleep(max(0.0, deadline - time.monotonic()) or 0.002)
            try:
                change("ro")
                closed = True
            except subprocess.CalledProcessError:  # a file is open for writing at this moment
                os.kill(pid, signal.SIGSTOP)
                os.kill(pid, signal.SIGCONT)
        code = wait(pid)
        trial.disturbed = int(code != 0)
        trial.fault = bench.complaint(code)
        change("rw")
        trial = bench.finish(trial, place / "out")
    shutil.rmtree(place, ignore_errors=True)
    return trial


def vanished(bench: Bench, number: int) -> Trial:
    """The folder is removed at a random moment; the command is then given again.

    What a fit had said before that (log and previews), and frames that an evaluation had decoded and read, are gone
    with the folder; the result must be the same.
    """
    random, out = Random(f"vanished {bench.command.name} {number}"), bench.folder()
    trial = Trial("vanishing folder", bench.command.name, number)
    pid = start(bench.command, out, bench.said)
    moment = random.uniform(0.2, 1) * bench.usual.seconds
    time.sleep(moment)
    trial.disturbed, trial.moments = int(out.exists()), [round(moment, 3)]
    shutil.rmtree(out, ignore_errors=True)
    trial.fault = bench.complaint(wait(pid))
    return bench.finish(trial, out, ("log.jsonl", "previews/", "work/"))
