"""What every piece of pretraining shares: budget, learning-rate schedule, moving average, saved state, several GPUs."""

from __future__ import annotations

import atexit
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from vov import VovError
from vov.runtime.files import atomic

from .muon import Muon

log = logging.getLogger(__name__)


@dataclass
class Budget:
    """How long a piece runs: `seconds` of wall clock, or exactly `steps` when that is not zero.

    Time used before a run was killed counts: `begin` is told of it.
    """

    seconds: float
    steps: int = 0
    used: float = 0.0
    _start: float = field(default_factory=time.monotonic)

    def begin(self, used: float) -> None:
        """Starts the clock with `used` seconds already on it."""
        self.used, self._start = used, time.monotonic()

    def elapsed(self) -> float:
        """Seconds used so far, earlier runs of the same piece included."""
        return self.used + time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """Share of the budget that is used before step `step`; 1 and above: the piece is over."""
        return step / self.steps if self.steps else self.elapsed() / max(self.seconds, 1e-9)


def rate_factor(progress: float, step: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up over `warmup` steps, cosine in `progress` down to 1 %."""
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Ema:
    """Exponential moving average of parameters; the decay warms up so that the first steps are forgotten."""

    def __init__(self, module: nn.Module, decay: float):
        self.live, self.decay, self.steps = list(module.parameters()), decay, 0
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters' present values in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrites the parameters with their average."""
        for p, m in zip(module.parameters(), self.mean, strict=True):
            p.copy_(m)


@dataclass
class Training:
    """Everything that a killed run needs to go on: weights, average, optimiser, generators, step and time."""

    model: nn.Module
    optimiser: Muon
    ema: Ema
    generators: tuple[torch.Generator, ...]
    step: int = 0

    def save(self, path: Path, elapsed: float) -> None:
        """Writes the state, whole or not at all."""
        state = {"model": self.model.state_dict(), "ema": self.ema.mean, "ema_steps": self.ema.steps,
                 "optimiser": self.optimiser.state_dict(), "generators": [g.get_state() for g in self.generators],
                 "step": self.step, "elapsed": elapsed}
        with atomic(path) as temporary:
            torch.save(state, temporary)
        self.export(path.with_suffix(".safetensors"))

    def export(self, path: Path) -> None:
        """Writes the averaged weights alone, in bfloat16: what is left should the machine be lost."""
        names = [n for n, _ in self.model.named_parameters()]
        save_file({n: m.to(torch.bfloat16) for n, m in zip(names, self.ema.mean, strict=True)}, path)

    @torch.no_grad()
    def load(self, path: Path) -> float:
        """Takes a saved state over; returns the seconds that it had used. Raises VovError when it does not fit."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            for mean, saved in zip(self.ema.mean, state["ema"], strict=True):
                mean.copy_(saved)
            self.optimiser.load_state_dict(state["optimiser"])
            for generator, saved in zip(self.generators, state["generators"], strict=True):
                generator.set_state(saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise VovError(f"{path}: not the state of this piece ({str(error).splitlines()[0]}); remove it, or run the "
                           "piece that wrote it with the same flags") from error
        self.ema.steps, self.step = state["ema_steps"], state["step"]
        return state["elapsed"]


def join_processes(device: str) -> tuple[int, int, str]:
    """(rank, number of processes, this process's device) under torchrun; (0, 1, device) without it."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if world == 1:
        return 0, 1, device
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    atexit.register(dist.destroy_process_group)
    return dist.get_rank(), world, f"cuda:{local}" if on_gpu else device


@torch.no_grad()
def average_gradients(optimiser: Muon) -> None:
    """Every gradient becomes its mean over the processes, in one message; does nothing in a single process."""
    if dist.is_initialized():
        dist.all_reduce(optimiser.gradient)
        optimiser.gradient /= dist.get_world_size()


class Captured:
    """A function of tensors that runs eagerly on a CPU; on a GPU each set of input shapes becomes a CUDA graph, because
    the many small kernels of these models are slow to launch. Its results are overwritten by the next call."""

    def __init__(self, function: Callable[..., tuple], kind: str):
        self.function, self.kind = function, kind
        self.graphs: dict[tuple, tuple] = {}

    def __call__(self, *inputs: torch.Tensor) -> tuple:
        if self.kind != "cuda" or dist.is_initialized():
            return self.function(*inputs)
        key = tuple(i.shape for i in inputs)
        if key not in self.graphs:
            self.graphs[key] = self._capture(inputs)
        graph, static, outputs = self.graphs[key]
        for kept, new in zip(static, inputs, strict=True):
            kept.copy_(new)
        graph.replay()
        return outputs

    def _capture(self, inputs: tuple) -> tuple:
        static, stream = tuple(i.clone() for i in inputs), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # real calls, which also let cuDNN choose its kernels and the compiler compile
                self.function(*static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*static)
        return graph, static, outputs


def agreed(progress: float, device: str) -> float:
    """The first process's progress: all processes must stop after the same step."""
    if not dist.is_initialized():
        return progress
    value = torch.tensor(progress, device=device)
    dist.broadcast(value, 0)
    return float(value)
