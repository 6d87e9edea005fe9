"""What all benches share: their variables, a stopwatch, and how near a step comes to what the chip was seen to do."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov.config import option

if TYPE_CHECKING:  # --help needs no torch
    import torch

KINDS = (  # what a kernel's name holds, in the order in which it is asked
    ("attention", ("sdpa", "flash", "fmha", "attention", "cudnn_generated")),
    ("convolution", ("conv", "fprop", "dgrad", "wgrad", "implicit")),
    ("matrix product", ("gemm", "cutlass", "cublas", "nvjet", "splitkreduce", "matmul")),
    ("fused (Triton)", ("triton",)),
    ("copy", ("memcpy", "memset", "copy", "cat")),
    ("reduction, norm", ("reduce", "norm", "softmax")),
)
OTHER = "one operation each"


@dataclass(frozen=True)
class Bench:
    """What every bench is told."""

    width: int = option(832, "pixels", minimum=16)
    height: int = option(480, "pixels", minimum=16)
    num_frames: int = option(81, "frames of a clip, 4n+1", minimum=1)
    repeats: int = option(5, "timed runs of each kind", minimum=1)
    out: str = option("", "also one JSON line per measurement here")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))

    def listed(self, name: str) -> list[str]:
        """A comma-separated setting; none for "none"."""
        return [] if getattr(self, name) == "none" else getattr(self, name).split(",")

    def stopwatch(self, device: torch.device, **facts) -> Stopwatch:
        """The stopwatch of a device, after a line that says what is measured on what."""
        import torch

        facts |= {"torch": torch.__version__, "threads": torch.get_num_threads(),
                  "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"}
        print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
        return Stopwatch(self.out, device.type == "cuda", **facts)


class Stopwatch:
    """Prints one line a measurement, and appends it as a JSON line to `out`.

    Args:
        out: path of the JSON lines; empty: none.
        cuda: whether to wait for the GPU and to read its memory.
        facts: what every row shall say, such as model and device.
    """

    def __init__(self, out: str, cuda: bool, **facts):
        self.out, self.cuda, self.facts = out, cuda, facts

    def __call__(self, name: str, work: Callable[[], object], repeats: int, floor: float = 0.0, tera: float = 0.0,
                 **more) -> float:
        """Median seconds of `work`.

        Args:
            floor: seconds that the arithmetic takes at the measured ceilings; 0: not known.
            tera: TFLOP of the work, recomputation included; 0: not known.
            more: further columns of the row.
        """
        import torch

        seconds = []
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            if self.cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        row = {"what": name, "seconds": round(statistics.median(seconds), 4), **more}
        if self.cuda:
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if tera:
            row["tflops"] = round(tera / max(row["seconds"], 1e-4), 1)
        if floor:
            row |= {"floor_s": round(floor, 4), "share_of_ceiling": round(floor / max(row["seconds"], 1e-4), 3)}
        self.say(**row)
        return row["seconds"]

    def say(self, what: str, seconds: float, **more) -> None:
        """One row that was measured elsewhere."""
        tail = "".join(f"  {name} {value}" for name, value in more.items() if value is not None)
        print(f"{what:<58}{seconds:9.4f} s{tail}", flush=True)
        if self.out:
            with Path(self.out).open("a") as file:
                file.write(json.dumps({**self.facts, "what": what, "seconds": seconds, **more}) + "\n")


@dataclass(frozen=True)
class Work:
    """FLOP of one forward pass of a Wan transformer at batch 1: in its linears, in attention."""

    linear: float
    attention: float

    @classmethod
    def of(cls, transformer, latent: tuple[int, ...], text: int = 512) -> Work:
        """latent: (1, C, T, h, w); text: tokens of the caption. The embedders are left out (under 1 %)."""
        shape = transformer.config
        tokens = 1
        for size, patch in zip(latent[2:], shape.patch_size, strict=True):
            tokens *= size // patch
        width = shape.num_attention_heads * shape.attention_head_dim
        linear = 2 * (tokens * (6 * width**2 + 2 * width * shape.ffn_dim) + 2 * text * width**2)
        return cls(shape.num_layers * linear, shape.num_layers * 4 * tokens * (tokens + text) * width)


@dataclass(frozen=True)
class Ceilings:
    """FLOP/s seen alone: a large matrix product; attention of the model's shape, forward and backward."""

    matmul: float
    forward: float
    backward: float

    @classmethod
    def measure(cls, watch: Stopwatch, heads: int, tokens: int, size: int, device: torch.device,
                dtype: torch.dtype) -> Ceilings:
        """Random operands; the second of two calls and later ones count."""
        import torch
        import torch.nn.functional as F

        side = 8192 if watch.cuda else 256
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        q, k, v = (torch.randn(1, heads, tokens, size, device=device, dtype=dtype, requires_grad=True)
                   for _ in range(3))
        cost = 4 * tokens**2 * heads * size
        torch.matmul(left, right)
        matmul = watch(f"ceiling: matmul {side}³", lambda: [torch.matmul(left, right) for _ in range(10)], 3,
                       tera=10 * 2 * side**3 / 1e12)
        with torch.no_grad():
            F.scaled_dot_product_attention(q, k, v)
            forward = watch("ceiling: attention forward, 5 times", lambda: [
                F.scaled_dot_product_attention(q, k, v) for _ in range(5)], 3, tera=5 * cost / 1e12) / 5
        out = F.scaled_dot_product_attention(q, k, v)
        pull = torch.randn_like(out)

        def back() -> None:
            for _ in range(5):
                torch.autograd.grad(out, (q, k, v), pull, retain_graph=True)

        back()
        backward = watch("ceiling: attention backward, 5 times", back, 3, tera=5 * 2.5 * cost / 1e12) / 5
        return cls(20 * side**3 / max(matmul, 1e-9), cost / max(forward, 1e-9), 2.5 * cost / max(backward, 1e-9))

    def floor(self, work: Work, linear: float, forward: float, backward: float) -> float:
        """Seconds of so many passes through the linears, and of attention forwards and backwards."""
        return (linear * work.linear / self.matmul + forward * work.attention / self.forward
                + backward * 2.5 * work.attention / self.backward)

    def bound(self, work: Work, linear: float, forward: float, backward: float = 0) -> dict[str, float]:
        """The floor of so many passes, and their TFLOP: what `Stopwatch` takes."""
        return {"floor": self.floor(work, linear, forward, backward),
                "tera": (linear * work.linear + (forward + 2.5 * backward) * work.attention) / 1e12}


def kind_of(name: str) -> str:
    """Which of KINDS a kernel of this name is of."""
    name = name.lower()
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), OTHER)


def say_kernels(name: str, work: Callable[[], object]) -> None:
    """Runs `work` once under PyTorch's profiler; prints seconds on the GPU by kind, then the longest kernels."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    kinds: dict[str, float] = defaultdict(float)
    kernels = []
    for event in found.key_averages():
        seconds = event.self_device_time_total / 1e6
        if seconds > 0:
            kinds[kind_of(event.key)] += seconds
            kernels.append((seconds, event.count, event.key))
    print(f"{name}: " + ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in
                                  sorted(kinds.items(), key=lambda item: -item[1])))
    for seconds, calls, kernel in sorted(kernels, reverse=True)[:12]:
        print(f"    {seconds:7.3f} s  {calls:5} times  {kernel[:110]}", flush=True)
