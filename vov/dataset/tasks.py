"""What is handed out: an item at a time, or the groups of a long video and then the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vov.dataset.jobs import Job
from vov.dataset.progress import Progress


@dataclass(frozen=True)
class Task:
    """An item, as a process is handed it.

    Attributes:
        group: number of the group of chunks to code; None: the item, or {"groups": how many} if it is to be shared out.
        groups: how many were coded before, all that it has; 0: nothing was.
        seconds: that these took.
    """

    job: Job
    group: int | None = None
    groups: int = 0
    seconds: float = 0.0

    @property
    def lock(self) -> str:
        """What a process holds in the item's folder: several may be at different groups."""
        return ".job" if self.group is None else f".group{self.group}"

    @property
    def log(self) -> Path:
        """Where what encode.sh would print goes: processes on several machines cannot add to one file."""
        return self.job.folder / ("log.txt" if self.group is None else f"chunks/group{self.group:06d}.txt")

    @property
    def title(self) -> str:
        """For lines about it."""
        return self.job.name + ("" if self.group is None else f", group {self.group}")


class Tasks:
    """The tasks of a set, in the order of handing out; a video that turns out to be long brings more.

    Attributes:
        tasks: is extended by whoever hands them out, with what `done` returns.
    """

    def __init__(self, jobs: Sequence[Job], progress: Progress):
        self.tasks, self.progress = [Task(job) for job in jobs], progress
        self.left: dict[str, int] = {}  # groups to be coded, by the item's name
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def done(self, number: int, found: dict[str, Any]) -> list[Task]:
        """What a task came to; returns the tasks that follow from it."""
        task = self.tasks[number]
        name = task.job.name
        if name in self.failed:
            return []
        if "error" in found:
            self.failed.add(name)
        elif "groups" in found:
            self.left[name], self.seconds[name] = found["groups"], found["seconds"]
            self.progress.say(f"{name}  is shared out in {found['groups']} groups")
            return [replace(task, group=group, groups=found["groups"]) for group in range(found["groups"])]
        elif task.group is not None:
            self.left[name] -= 1
            self.seconds[name] += found["seconds"]
            self.progress.say(f"{task.title}  coded, {found['seconds']:.0f} s; {self.left[name]} to go")
            whole = replace(task, group=None, seconds=self.seconds[name])
            return [] if self.left[name] else [whole]
        self.progress.done(task.job, found)
        return []

    def lost(self, number: int, times: int) -> None:
        """A task whose process died."""
        self.progress.say(f"{self.tasks[number].title}: its process died; try {times + 1}")

    def wanted(self, number: int) -> bool:
        """Whether a task still has a use: not after another group of its video has failed."""
        return self.tasks[number].job.name not in self.failed
