"""The whole torture: `python -m tests.torture [--kills 200] [--typed 10] [--full 40] [--others 8] [--out FOLDER]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture import commands, trials

USAGE = "bash scripts/torture.sh [--kills 200] [--typed 10] [--full 40] [--others 4] [--only WORD] [--out FOLDER]"


def plan(benches: list[trials.Bench], given: argparse.Namespace) -> Iterator[tuple[str, str, int, Callable]]:
    """(kind, command, number, trial) of everything but kills, whose number depends on what happens."""
    count = len(benches)
    for index, bench in enumerate(benches):
        name = bench.command.name
        for number in range(-(-given.full // count)):
            yield "full disk", name, number, lambda b=bench, n=number: trials.full(b, n, -(-given.full // count))
        for number in range(given.others):
            yield "read-only", name, number, lambda b=bench, n=number: trials.read_only(b, n)
            yield "vanishing folder", name, number, lambda b=bench, n=number: trials.vanished(b, n)
        for number in range(given.typed // count + (index < given.typed % count)):
            yield "typed", name, number, lambda b=bench, n=number: trials.killed_as_typed(b, n)


class Book:
    """The trials that were made, one JSON line each: what is in it is not made again."""

    def __init__(self, path: Path):
        self.path, self.rows = path, []
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    self.rows.append(json.loads(line))
                except ValueError:  # the last line, cut off
                    continue

    def has(self, kind: str, command: str, number: int) -> bool:
        """Whether a trial was made."""
        return any((row["kind"], row["command"], row["number"]) == (kind, command, number) for row in self.rows)

    def add(self, trial: trials.Trial) -> None:
        """Writes a trial down, and says what is wrong."""
        self.rows.append(dataclasses.asdict(trial))
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        if trial.fault:
            print(f"FAULT {trial.kind}, {trial.command}, number {trial.number}: {trial.fault}", flush=True)

    def disturbed(self, kind: str, command: str) -> int:
        """How often a command was disturbed in a way."""
        return sum(row["disturbed"] for row in self.rows if (row["kind"], row["command"]) == (kind, command))

    def table(self) -> str:
        """Counts by kind and command."""
        made, hit, wrong = Counter(), Counter(), Counter()
        for row in self.rows:
            key = row["kind"], row["command"]
            made[key] += 1
            hit[key] += row["disturbed"]
            wrong[key] += bool(row["fault"])
        lines = [f"{'kind':<18} {'command':<18} {'trials':>7} {'disturbed':>10} {'faults':>7}"]
        lines += [
            f"{kind:<18} {name:<18} {made[kind, name]:>7} {hit[kind, name]:>10} {wrong[kind, name]:>7}"
            for kind, name in sorted(made)
        ]
        return "\n".join(
            [*lines, f"{'all':<37} {sum(made.values()):>7} {sum(hit.values()):>10} {sum(wrong.values()):>7}"]
        )


def main() -> int:
    """Makes the trials that are not in the book yet; returns 1 when one has a fault."""
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random moments, over all commands")
    parser.add_argument("--typed", type=int, default=10, help="commands typed into bash, killed and typed again")
    parser.add_argument("--full", type=int, default=40, help="sizes of a disk that becomes full, over all commands")
    parser.add_argument("--others", type=int, default=4, help="read-only and vanishing folders of each command")
    parser.add_argument("--only", default="", help="only commands whose name contains one of these words")
    parser.add_argument("--out", default="runs/torture", help="gets trials.jsonl; what is in it is not made again")
    given = parser.parse_args()
    out = Path(given.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "VOV_CACHE": str(out / "cache"),
        "FUZZ_MODELS": str(out / "models"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    logging.disable(logging.WARNING)
    book, media = Book(out / "trials.jsonl"), out / "media"
    commands.warm_up()
    commands.make_media(media)
    everything = commands.all_commands(media)
    fit = next(command for command in everything if command.entry == "fit:two_stage")
    if commands.wait(commands.start(fit, media / "fit", out / "said.txt")):
        print((out / "said.txt").read_text(), file=sys.stderr)
        return 1
    benches = [
        trials.Bench(command, out / "scratch")
        for command in everything
        if any(word in command.name for word in given.only.split(","))
    ]
    for bench in benches:
        print(
            f"{bench.command.name}: {bench.usual.seconds:.2f} s undisturbed, {bench.usual.size:,} bytes, "
            f"{len(bench.usual.contents)} files",
            flush=True,
        )
        number, wanted = 0, -(-given.kills // len(benches))
        while book.disturbed("kill", bench.command.name) < wanted:
            if not book.has("kill", bench.command.name, number):
                book.add(trials.killed(bench, number))
            number += 1
    for kind, name, number, trial in plan(benches, given):
        if not book.has(kind, name, number):
            book.add(trial())
    print(book.table())
    return 1 if any(row["fault"] for row in book.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
