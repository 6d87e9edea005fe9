"""Several processes, one θ: only its gradient is exchanged (0.5 MB), never a frozen weight or buffer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True in the process that writes files and talks to the user."""
        return self.rank == 0

    def mean(self, *tensors: Tensor) -> None:
        """Replaces each tensor by its mean over all processes, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.size

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world() -> Iterator[World]:
    """Joins the group that torchrun announces in the environment (NCCL on GPU, gloo on CPU); alone otherwise."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=2))
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
