"""Ray: a pool of processes that each keep their model. The only module that knows Ray; another scheduler goes here."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from vov import VovError
from vov.runtime import signals

log = logging.getLogger(__name__)
PATIENCE = 600  # seconds without any living worker after which the set is given up


@dataclass(frozen=True)
class Resources:
    """What a worker needs, how many there are (0: as many as the cluster has room for), and the cluster's address,
    host:port ("": Ray is started here)."""

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 0
    address: str = ""


@dataclass
class Pool:
    """Workers of one function, and the tasks that they are at.

    Attributes:
        function: "module:name", called in the workers with one task.
        lost: called with a task's number and how often it was tried, when its worker died.
    """

    function: str
    resources: Resources
    environ: Mapping[str, str]
    lost: Callable[[int, int], None]
    starting: dict = field(default_factory=dict)  # answer to come: worker
    idle: list = field(default_factory=list)
    busy: dict = field(default_factory=dict)  # answer to come: (worker, task's number, times tried before)

    @property
    def size(self) -> int:
        """Workers that are there or on their way."""
        return len(self.starting) + len(self.idle) + len(self.busy)

    def start(self) -> None:
        """One more worker; it gets a task once it has answered: one that finds no machine never does."""
        ray = _ray()
        kind = ray.remote(num_cpus=self.resources.cpus, num_gpus=self.resources.gpus)(Worker)
        # Ray shows a worker the GPUs that it was assigned, and one that was assigned none all that there are
        hidden = {} if self.resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        worker = kind.options(runtime_env={"env_vars": {**self.environ, **hidden}}).remote(self.function)
        self.starting[worker.ready.remote()] = worker

    def step(self, waiting: deque[tuple[int, int]], tasks: Sequence[Any], retries: int,
             done: Callable[[int, Any], None]) -> bool:
        """Hands out tasks and waits for an answer, a second at most; whether anything was heard."""
        ray = _ray()
        while waiting and self.idle:
            number, tried = waiting.popleft()
            worker = self.idle.pop()
            self.busy[worker.run.remote(tasks[number])] = worker, number, tried
        answers, _ = ray.wait([*self.busy, *self.starting], num_returns=1, timeout=1.0)
        for answer in answers:
            worker, number, tried = self.busy.pop(answer, (None, -1, 0))
            worker = worker or self.starting.pop(answer)
            try:
                found = ray.get(answer)
            except ray.exceptions.RayActorError:
                self.start()
                if number >= 0 and tried < retries:
                    self.lost(number, tried + 1)
                    waiting.appendleft((number, tried + 1))
                elif number >= 0:
                    done(number, {"error": f"its process died {tried + 1} times, out of memory perhaps; see log.txt"})
                continue
            self.idle.append(worker)
            if number >= 0:
                done(number, found)
        return bool(answers)


class Worker:
    """A process of the cluster."""

    def __init__(self, function: str):
        module, name = function.split(":")
        self.call = getattr(importlib.import_module(module), name)

    def ready(self) -> int:
        """Its process number, once it is there."""
        return os.getpid()

    def run(self, task: Any) -> Any:
        """What the function makes of a task."""
        return self.call(task)


def run(tasks: MutableSequence[Any], function: str, resources: Resources, retries: int, environ: Mapping[str, str],
        done: Callable[[int, Any], Iterable[Any] | None], lost: Callable[[int, int], None],
        wanted: Callable[[int], bool] = lambda number: True) -> None:
    """Runs `function` on every task; `done` gets a task's number and what came back, in the order of finishing.

    What `done` returns are further tasks: they are added to `tasks`, and come before those that wait. A task whose
    process dies is tried again in a new one, `retries` times, and then has come to {"error": why}. A function returns
    its own errors; one that raises ends everything.

    Args:
        environ: environment variables of the workers.
        wanted: whether a task that waits, by its number, is still to be done.
    Raises:
        VovError: Ray is missing, or the cluster cannot be reached or has no room.
        signals.Stopped: a signal came; what was finished is done, what was under way is not.
    """
    ray = _ray()
    # an exception inside Ray's own wait would be lost
    with _connected(ray, resources.address), signals.graceful() as signalled:
        pool, room = Pool(function, resources, environ, lost), resources.workers or _room(ray, resources)
        waiting, finished, silent = deque((number, 0) for number in range(len(tasks))), 0, 0

        def counted(number: int, found: Any) -> None:
            nonlocal finished
            finished += 1
            first = len(tasks)
            tasks.extend(done(number, found) or ())
            waiting.extendleft((more, 0) for more in reversed(range(first, len(tasks))))
            useless = [one for one in waiting if not wanted(one[0])]
            finished += len(useless)
            for one in useless:
                waiting.remove(one)

        while finished < len(tasks):
            if number := signalled():
                raise signals.Stopped(number, f"{finished} of {len(tasks)} done")
            while pool.size < min(room, len(tasks) - finished):
                pool.start()
            silent = 0 if pool.step(waiting, tasks, retries, counted) or pool.busy or pool.idle else silent + 1
            if silent > PATIENCE:
                raise VovError(f"no worker could be started in {PATIENCE} seconds; the cluster needs "
                               f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs for one (`cpus`, `gpus`)")


def _room(ray: Any, resources: Resources) -> int:
    """How many workers the cluster can hold."""
    have, needs = ray.cluster_resources(), {"CPU": resources.cpus, "GPU": resources.gpus}
    room = sum(min(int(node["Resources"].get(name, 0) / need) for name, need in needs.items() if need)
               for node in ray.nodes() if node["Alive"])  # a worker lives on one machine
    if not room:
        raise VovError(f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs; a worker needs "
                       f"{resources.cpus:g} and {resources.gpus:g}; lower `cpus` or `gpus`")
    return room


class _connected:
    """Ray, joined or started, for a `with` block; one that is there already is left as it is."""

    def __init__(self, ray: Any, address: str):
        self.ray, self.address, self.ours, self.signals = ray, address, not ray.is_initialized(), ExitStack()

    def __enter__(self) -> None:
        if not self.ours:
            return
        address = self.address
        _refuse_silent(address)
        try:
            self.ray.init(address=address or "local", include_dashboard=False if not address else None,
                          log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise VovError(f"`ray_address`={address}: no Ray cluster could be reached or started there "
                           f"({str(error).strip().splitlines()[0]:.200}); start one with `ray start --head` and set "
                           "the same RAY_AUTH_MODE and RAY_AUTH_TOKEN for both, or leave `ray_address` "
                           "unset") from error
        self.signals.enter_context(signals.on_signals())  # Ray has put a handler of its own for SIGTERM

    def __exit__(self, *_: object) -> None:
        self.signals.close()
        if self.ours:
            self.ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raises VovError where nobody answers at host:port, which Ray itself would wait minutes for."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise VovError(f"`ray_address`={address}: nobody answers there ({error}); start Ray with `ray start --head`, "
                       "or leave `ray_address` unset") from error


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers beside anything else
    try:
        import ray
    except ImportError:
        raise VovError("Ray is not installed; install it with: .venv/bin/pip install -r "
                       "requirements-cluster.txt") from None
    return ray
