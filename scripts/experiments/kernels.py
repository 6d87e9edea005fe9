"""Where the seconds of a step on a GPU go: time of its kernels, summed by what they do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

KINDS = (  # what a kernel's name holds, in the order in which it is asked
    ("attention", ("sdpa", "flash", "fmha", "attention", "cudnn_generated")),
    ("convolution", ("conv", "fprop", "dgrad", "wgrad", "implicit")),
    ("matrix product", ("gemm", "cutlass", "cublas", "nvjet", "splitkreduce", "matmul")),
    ("fused (Triton)", ("triton",)),
    ("copy", ("memcpy", "memset", "copy", "cat")),
    ("reduction, norm", ("reduce", "norm", "softmax")),
)
OTHER = "one operation each"


def kind_of(name: str) -> str:
    """Which of KINDS a kernel of this name is of."""
    name = name.lower()
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), OTHER)


def kernel_seconds(work: Callable[[], object]) -> tuple[dict[str, float], list[tuple[str, float, int]]]:
    """Runs `work` once under PyTorch's profiler.

    Returns:
        Seconds by kind, the longest first; the twelve kernels that took longest as (name, seconds, calls).
    """
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
            kernels.append((event.key, seconds, event.count))
    return (dict(sorted(kinds.items(), key=lambda item: -item[1])),
            sorted(kernels, key=lambda kernel: -kernel[1])[:12])
