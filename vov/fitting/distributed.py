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

from vov import VovError

PEER_LOST = 70  # exit code when another process has ended first; scripts/launch.py then shows what that one said


@contextmanager
def together() -> Iterator[None]:
    """Ends this process quietly when an exchange fails because another process is gone: the cause is told there."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "peer" in str(error).lower():
            raise SystemExit(PEER_LOST) from None
        raise


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
            with together():
                dist.all_reduce(tensor)
            tensor /= self.size

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            with together():
                dist.barrier()


@contextmanager
def world() -> Iterator[World]:
    """Joins the group that scripts/launch.py or torchrun announces (NCCL on GPU, gloo on CPU); alone otherwise.

    Raises VovError when MASTER_PORT is taken.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=2))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise SystemExit(PEER_LOST) from None
        raise VovError(f"MASTER_PORT={os.environ.get('MASTER_PORT')} is in use by another run; choose another port, or "
                       "leave MASTER_PORT unset") from None
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
