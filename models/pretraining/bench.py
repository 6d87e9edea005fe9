"""Times of the training steps on this device, on random data: python -m models.pretraining.bench vae|dit FAMILY.

Says how long each batch of the recipes takes, and where a step's time goes.
"""

from __future__ import annotations

import sys
import time

import torch

from . import dit, dit_forward, parts, vae, vae_forward
from .loop import Captured, Ema
from .muon import Muon


def timed(call, repeats: int = 10) -> float:
    """Milliseconds of one call, after one that may compile."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1000


def bench_vae(family: str) -> None:
    """Every batch shape of the recipe."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    recipe = vae.RECIPES[family]
    torch.manual_seed(0)
    vae_forward.speed_up()
    model = parts.new_vae(family).cuda()
    vae.set_posterior(model)
    optimiser = Muon(model, vae.is_matrix, recipe["lr"], recipe["adam_lr"])
    step, ema = vae.Step(model, optimiser, 0.5, "cuda"), Ema(model, 0.999)
    generator = torch.Generator("cuda").manual_seed(0)
    print(f"vae {family}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
          f"update {timed(optimiser.step):.2f} ms, ema {timed(ema.update):.2f} ms", flush=True)
    for _, t, n, h, w in recipe["batches"]:
        x = torch.rand(n, 3, t, h, w, device="cuda") * 2 - 1
        start = time.perf_counter()
        step(x, generator)
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        print(f"  {t}×{n}×{h}×{w}: {timed(lambda: step(x, generator)):6.1f} ms a step, first {first:.1f} s, "  # noqa: B023
              f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)


def bench_dit(family: str) -> None:
    """Every shape of the recipe: the whole step, and its parts run one by one."""
    torch.backends.cuda.matmul.allow_tf32 = True
    cfg = dit.RECIPES[family]
    torch.manual_seed(0)
    dit_forward.speed_up()
    model = parts.new_transformer(family).cuda()
    optimiser = Muon(model, dit.is_matrix, cfg["lr"], cfg["adam_lr"], momentum=0.95, weight_decay=0.01)
    ema = Ema(model, 0.999)
    print(f"dit {family}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
          f"update {timed(optimiser.step):.2f} ms, ema {timed(ema.update):.2f} ms", flush=True)
    text = torch.randn(9, dit.TEXT_SLOTS, parts.TEXT_DIM, device="cuda")
    task = dit.Task(family, None, text, torch.ones(9, dit.TEXT_SLOTS, device="cuda").bool(), cfg["tokens"])

    def update(*batch: torch.Tensor) -> tuple[torch.Tensor]:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            error = task.loss(model, *batch)
        error.mean().backward()
        optimiser.step()
        return (error.detach(),)

    step = Captured(update, "cuda")
    for frames, h, w, _ in cfg["shapes"]:
        n = max(2, cfg["tokens"] // (frames * h * w // 4 + (0 if family == "video" else dit.TEXT_SLOTS)) // 8 * 8)
        x0, noise = torch.randn(2, n, parts.Z_DIM[family], frames, h, w, device="cuda")
        batch = (x0, noise, torch.rand(n, frames, device="cuda"), torch.randint(9, (n,), device="cuda"))
        start = time.perf_counter()
        step(*batch)
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        whole, eager = timed(lambda: step(*batch)), timed(lambda: update(*batch))  # noqa: B023
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            ahead = timed(lambda: task.loss(model, *batch))  # noqa: B023
        print(f"  {frames}×{n}×{h}×{w}: {whole:6.1f} ms a step, without a graph {eager:.1f}, forward {ahead:.1f}, "
              f"first {first:.1f} s, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        update(*batch)
        torch.cuda.synchronize()
    print(seen.key_averages().table(sort_by="self_device_time_total", row_limit=22, max_name_column_width=70)[:6000])


if __name__ == "__main__":
    {"vae": bench_vae, "dit": bench_dit}[sys.argv[1]](sys.argv[2])
