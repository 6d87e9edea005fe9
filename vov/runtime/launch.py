"""Starts a module in one process, or in NUM_GPUS processes on each of NNODES machines; common.sh calls this.

    python -m vov.runtime.launch MODULE [flags]

The exit code is that of the process that failed first: 1 (its one line is on the terminal), 130 interrupted, 143
terminated.

PyTorch's elastic launcher (torchrun), called through its Python API, cannot end in one line: after an error it sends
SIGTERM to the others at once, so the line is shown twice or the exit code is that of the SIGTERM, and after a signal it
does not tell who ended how. It also imports PyTorch before it starts anything, gives a process that hangs 30 seconds
whatever it is told, and does not hear a signal while it waits for another machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from vov import VovError
from vov.runtime import signals
from vov.runtime.processes import Crew, Plan, gpus, meeting_point

HELP = (("NUM_GPUS", "2", "processes on this machine, at most one a GPU; without a GPU: 1, or so many CPU processes"),
        ("NNODES", "1", "machines that take part; start the same command on each, with OUT_DIR on a shared disk"),
        ("NODE_RANK", "0", "number of this machine, from 0"),
        ("MASTER_ADDR", "127.0.0.1", "address of machine 0; needed when NNODES is above 1"),
        ("MASTER_PORT", "(free one)", "port of machine 0 where all processes meet; needed when NNODES is above 1"),
        ("OMP_NUM_THREADS", "(cores / processes)", "CPU threads of each process"),
        ("OMP_WAIT_POLICY", "PASSIVE", "what CPU threads without work do: PASSIVE sleeps, ACTIVE spins"),
        ("GOMP_SPINCOUNT", "10000", "how often they look for work before they sleep"))


def whole(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A variable as a whole number from `low` to `high`; empty counts as unset."""
    text = environ.get(name, "") or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise VovError(f"{name}={text}: must be a whole number from {low} to {high}")
    return int(text)


def plan(environ: Mapping[str, str], count_gpus: Callable[[], int] = gpus) -> Plan:
    """The plan that the variables ask for. Raises VovError for values that cannot work together."""
    nodes = whole(environ, "NNODES", 1, 1, 4096)
    node = whole(environ, "NODE_RANK", 0, 0, 4095)
    port = whole(environ, "MASTER_PORT", 0, 0, 65535)
    if node >= nodes:
        raise VovError(f"NODE_RANK={node}: must be below NNODES={nodes}; machines are counted from 0")
    if nodes > 1 and not (port and environ.get("MASTER_ADDR")):
        raise VovError(f"NNODES={nodes}: MASTER_ADDR and MASTER_PORT must be set, to the same on every machine")
    asked = whole(environ, "NUM_GPUS", 0, 0, 1024)
    processes, there = asked or 2, count_gpus() if asked != 1 else 0
    if asked != 1 and processes > there:
        processes = there or asked or 1
        if asked and there:
            if nodes > 1:
                raise VovError(f"NUM_GPUS={asked}, but this machine has {there}; every machine must start as many")
            print(f"NUM_GPUS={asked} but this machine has {there}: using {there}", file=sys.stderr)
    return Plan(processes, nodes, node, environ.get("MASTER_ADDR") or "127.0.0.1", port)


def help_text(environ: Mapping[str, str]) -> str:
    """The variables of this file, and those that an entry script adds as tab-separated lines of VOV_HELP."""
    extra = [tuple(line.split("\t")) for line in environ.get("VOV_HELP", "").splitlines() if line.count("\t") == 2]
    rows = [(name, environ.get(name, "") or value, text) for name, value, text in (*extra, *HELP)]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join(["", "Variables of this script and of its processes (environment only), their value now, meaning:",
                      *lines])


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the module; returns the exit code."""
    command = [sys.executable, "-m", *arguments]
    if {"--help", "-h", "--help-all"} & set(arguments):
        code = subprocess.run(command, check=False).returncode
        if code == 0:
            try:
                print(help_text(environ), flush=True)
            except BrokenPipeError:
                signals.close_output()
        return code
    try:
        chosen = plan(environ)
        if chosen.world == 1:
            os.execv(sys.executable, command)
        chosen, held = meeting_point(chosen)
    except VovError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if chosen.nodes > 1:
        print(f"machine {chosen.node} of {chosen.nodes}: meeting the others at {chosen.address}:{chosen.port}",
              file=sys.stderr)
    try:
        return Crew(command, chosen, environ).wait()
    finally:
        for lock in held:
            lock.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
