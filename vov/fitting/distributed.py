"""Several processes, one θ: the gradient of all LoRA entries is exchanged, never a frozen weight or buffer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from vov import VovError
from vov.runtime.processes import PEER_LOST


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

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of every process, in the order of their ranks: whoever adds them up gets the same sum."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with together():
            dist.all_gather(found, tensor.contiguous())
        return found

    def numbers(self, number: int) -> list[int]:
        """The number (int64) of every process, in the order of their ranks."""
        if self.size == 1:
            return [number]
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return [int(one) for one in self.gather(torch.tensor([number], device=device))]

    def agree(self, what: str, *tensors: Tensor) -> None:
        """Raises VovError in every process unless the tensors are equal to the bit in all of them."""
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        found = self.numbers(int.from_bytes(digest.digest()[:8], "little", signed=True))
        if len(set(found)) > 1:
            odd = [rank for rank, value in enumerate(found) if value != found[0]]
            raise VovError(f"{what} differ between process 0 and {', '.join(map(str, odd))}; the GPUs are not of one "
                           "kind, or one is faulty; set NUM_GPUS=1, or use GPUs of one kind")

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            with together():
                dist.barrier()


@contextmanager
def world() -> Iterator[World]:
    """Joins the group that vov/runtime/launch.py or torchrun announces (NCCL on GPU, gloo on CPU); alone otherwise.

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
