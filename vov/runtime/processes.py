"""The processes of one run on this machine: where they meet, what they are told, how they end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vov import VovError

GRACE = 3.0  # seconds in which the other processes may end by themselves after one has failed
PATIENCE = 60.0  # seconds for saving the state after a signal
POLL = 0.05
PEER_LOST = 70  # exit code of a process that only lost another one, see vov.fitting.distributed
DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")))  # NVIDIA, WSL, AMD


@dataclass(frozen=True)
class Plan:
    """How many processes run where."""

    processes: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def world(self) -> int:
        """Processes on all machines."""
        return self.processes * self.nodes

    def environment(self, local: int, environ: Mapping[str, str]) -> dict[str, str]:
        """What process `local` of this machine gets; the LoRA's RANK moves to VOV_RANK."""
        threads = max(1, len(os.sched_getaffinity(0)) // self.processes)
        return {"OMP_NUM_THREADS": str(threads), **environ, "VOV_RANK": environ.get("RANK", ""),
                "RANK": str(self.node * self.processes + local), "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(self.world), "LOCAL_WORLD_SIZE": str(self.processes),
                "MASTER_ADDR": self.address, "MASTER_PORT": str(self.port), "TORCHELASTIC_RUN_ID": "vov"}


def gpus() -> int:
    """GPUs that PyTorch sees; asked in a process of its own, so that this one stays small, and only with a driver."""
    if not any(map(Path.exists, DRIVERS)):
        return 0
    done = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
                          capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdecimal() else 0


def meeting_point(chosen: Plan) -> tuple[Plan, list[socket.socket]]:
    """The plan with a port that is free, and what must stay open while it runs (a lock on the port).

    Raises VovError when MASTER_PORT is taken, also by a run that has not opened it yet.
    """
    if chosen.node > 0:
        return chosen, []
    held = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PyTorch's store does
        try:
            if chosen.port and sys.platform == "linux":
                held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                held[0].bind(f"\0vov-master-port-{chosen.port}")  # abstract: gone when this process is
            probe.bind(("", chosen.port))
        except OSError as error:
            raise VovError(f"MASTER_PORT={chosen.port} cannot be used ({error.strerror}); another run has it: "
                              "choose another port, or leave MASTER_PORT unset") from None
        port = probe.getsockname()[1]
    return replace(chosen, port=port), held


class Crew:
    """The processes of this machine. The first shares our terminal; what the others say on stderr is kept for later."""

    def __init__(self, command: Sequence[str], chosen: Plan, environ: Mapping[str, str]):
        self.signal = 0
        self.said: dict[int, list[str]] = {}
        self.members: list[subprocess.Popen] = []
        self.readers: list[threading.Thread] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.stop)
        for local in range(chosen.processes):
            out, errors = (None, None) if local == 0 else (subprocess.DEVNULL, subprocess.PIPE)
            member = subprocess.Popen(command, env=chosen.environment(local, environ), start_new_session=True,
                                      stdout=out, stderr=errors)
            self.members.append(member)
            if local:
                self.readers.append(threading.Thread(target=self.listen, args=(local, member), daemon=True))
                self.readers[-1].start()
        if self.signal:  # it came while they were being started
            self.send(self.signal)

    def listen(self, local: int, member: subprocess.Popen) -> None:
        """Keeps the last lines that a process writes, so that its pipe never fills."""
        lines = self.said.setdefault(local, [])
        for line in member.stderr or ():
            lines.append(line.decode(errors="replace"))
            del lines[:-200]

    def send(self, number: int) -> None:
        """A signal to every process that still runs, and to its children."""
        for member in self.members:
            if member.poll() is None:
                os.killpg(member.pid, number)

    def stop(self, number: int, _frame: object = None) -> None:
        """Handler: the processes get the signal once and save their state; `wait` does the rest."""
        if not self.signal:
            self.signal = number
            self.send(signal.SIGTERM if number == signal.SIGHUP else number)

    def wait(self) -> int:
        """Until all have ended. Returns 0, or the exit code of the first that failed (128 + n for signal n)."""
        failed: int | None = None
        deadline, last = None, signal.SIGTERM
        while any(member.poll() is None for member in self.members):
            if failed is None:
                failed = next((i for i, member in enumerate(self.members) if member.poll()), None)
            if deadline is None and (failed is not None or self.signal):
                deadline = time.monotonic() + (PATIENCE if self.signal else GRACE)
            if deadline is not None and time.monotonic() > deadline:
                self.send(last)
                deadline, last = time.monotonic() + GRACE, signal.SIGKILL
            time.sleep(POLL)
        for reader in self.readers:
            reader.join(timeout=1)
        if failed is None or self.members[failed].returncode == PEER_LOST:
            ended = [i for i, member in enumerate(self.members) if member.returncode]  # between two looks, perhaps
            failed = min(ended, key=lambda i: self.members[i].returncode == PEER_LOST, default=None)
        return self.verdict(failed)

    def verdict(self, failed: int | None) -> int:
        """The exit code; says what the terminal has not shown yet."""
        if self.signal:
            if self.members[0].returncode in (-self.signal, -signal.SIGKILL):  # it could not say so itself
                print(f"stopped by {signal.Signals(self.signal).name}; run the same command again to go on from the "
                      "last checkpoint", file=sys.stderr)
            return 128 + self.signal
        if failed is None:
            return 0
        code = self.members[failed].returncode
        if code == PEER_LOST:
            print("error: a process on another machine has ended; its terminal says why", file=sys.stderr)
            return 1
        first = self.members[0].returncode
        lines = self.said.get(failed, [])
        if code < 0 and not lines:
            print(f"error: process {failed} was killed by {signal.Signals(-code).name}; if memory ran out, use fewer "
                  "processes (NUM_GPUS)", file=sys.stderr)
        elif failed > 0 and (first <= 0 or first == PEER_LOST):  # the terminal has shown no error yet
            ours = [line for line in lines if line.startswith("error: ")]
            sys.stderr.write("".join(ours[-1:] or lines) or f"error: process {failed} ended with {code}\n")
        return code if code > 0 else 128 - code
