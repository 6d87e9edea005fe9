"""Parts of the codec alone: the entropy coder, random numbers, an embedded model, waiting threads, attention."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from scripts.bench.timing import Bench
from vov import VovError
from vov.config import cli, option

POLICIES = {"default": {}, "ours": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}}  # scripts/common.sh
WARM, SECONDS = 5, 8.0  # of the process of one policy: passes that do not count, and how long it runs
SMALL = (192, 112, 17)  # width, height and frames of the embedded model's clip


@dataclass(frozen=True)
class Parts(Bench):
    """What is measured."""

    parts: str = option("auto", "coder, random, nano, waiting, attention, with commas between; auto: all, attention "
                        "only on a GPU")
    model_id: str = option("nano-video", "the model of nano: an embedded video model, or a folder")
    rounds: int = option(3, "of waiting: one process for each policy, half a minute", minimum=1)
    tokens: int = option(32760, "of attention", minimum=16)
    heads: int = option(12, "of attention, with 128 values each", minimum=1)


def main(settings: Parts) -> None:
    """Prints one line per measurement."""
    from vov.model.lookup import pick_device

    known = {"coder": coder, "random": random, "nano": nano, "waiting": waiting, "attention": attention,
             "passes": passes}
    device = pick_device(settings.device)
    chosen = settings.listed("parts")
    if chosen == ["auto"]:
        chosen = [*known][:5 if device.type == "cuda" else 4]
    if unknown := set(chosen) - set(known):
        raise VovError(f"PARTS={settings.parts}: no part called {sorted(unknown)[0]}; see --help")
    watch = None if chosen == ["passes"] else settings.stopwatch(device)
    for name in chosen:
        known[name](settings, watch, device)


def coder(settings: Parts, watch, device) -> None:
    """The entropy coder on as many symbols as a large θ has, and what it adds to their entropy."""
    import numpy as np

    from vov.bitstream.symbols import decode_symbols, encode_symbols

    symbols = np.rint(np.random.default_rng(0).normal(0, 1.4, 131_072)).astype(int)
    counts = np.unique(symbols, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / symbols.size)).sum() / 8
    data = encode_symbols(symbols)
    more = f"{100 * (len(data) / entropy - 1):.3f} %"
    watch(f"entropy coder: {symbols.size:,} symbols, encode", lambda: encode_symbols(symbols), settings.repeats,
          over_entropy=more)
    watch(f"entropy coder: {symbols.size:,} symbols, decode", lambda: decode_symbols(data, symbols.size),
          settings.repeats)


def random(settings: Parts, watch, device) -> None:
    """Noise of a latent of Wan's size, on one CPU thread."""
    import torch

    from vov.runtime.random import Stream, normal

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        normal(0, Stream.FIT, 1000)  # builds the table
        watch("noise of a latent of 16×21×60×104, one CPU thread",
              lambda: normal(0, Stream.DECODER, (16, 21, 60, 104)), settings.repeats)
    finally:
        torch.set_num_threads(threads)


def nano(settings: Parts, watch, device) -> None:
    """An embedded video model on a short clip; to be taken on a machine that does nothing else."""
    import torch

    from vov.model.wan import WanBackbone

    backbone = WanBackbone.load(settings.model_id, "", settings.device)
    width, height, count = SMALL
    condition = backbone.collate(backbone.embed([""]))
    pixels = torch.rand(1, 3, count, height, width, device=backbone.device) * 2 - 1
    latents = torch.randn(backbone.latent_shape(width, height, count), device=backbone.device)

    def forward():
        with torch.no_grad():
            backbone.velocity(latents, 0.5, condition)

    def both():
        x = latents.clone().requires_grad_()
        backbone.velocity(x, 0.5, condition).square().mean().backward()

    for name, work in (("forward", forward), ("forward and backward", both),
                       ("VAE encode", lambda: backbone.encode_pixels(pixels)),
                       ("VAE decode", lambda: backbone.decode(latents))):
        work()
        watch(f"{backbone.name}: {name}, {count} frames of {width}×{height}", work, settings.repeats)


def waiting(settings: Parts, watch, device) -> None:
    """What our OpenMP waiting costs: passes of nano-video with and without it, in turn.

    Each round starts one process for each policy, so that what else the machine does meets both alike. The passes are
    short and many: the fastest are those that nothing disturbed, even where the machine is seldom idle.
    """
    found: dict[str, list[float]] = {name: [] for name in POLICIES}
    for number in range(settings.rounds):
        for name in [*POLICIES][:: 1 if number % 2 == 0 else -1]:
            environ = {key: value for key, value in os.environ.items() if key not in POLICIES["ours"]} | POLICIES[name]
            command = [sys.executable, "-m", "scripts.bench.parts", "--parts", "passes"]
            done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
            seconds = [float(word) for word in done.stdout.split()]
            found[name] += seconds
            watch.say(f"waiting, round {number}, {name}: median of {len(seconds)} passes",
                      round(statistics.median(seconds), 4), fastest_hundredth=round(fastest(seconds), 4),
                      load=round(os.getloadavg()[0], 1))
    medians, best = (of(found["ours"]) / of(found["default"]) for of in (statistics.median, fastest))
    print(f"waiting, ours / default: medians {medians:.3f}, fastest hundredths {best:.3f}")


def passes(settings: Parts, watch, device) -> None:
    """The process of one policy: prints the seconds of passes, forwards and backwards, of nano-video, 9 frames."""
    import torch

    from vov.model.wan import WanBackbone

    backbone = WanBackbone.load("nano-video", "", "cpu")
    x = torch.randn(backbone.latent_shape(96, 64, 9)).requires_grad_()
    text = {"text": torch.randn(1, 512, backbone.transformer.config.text_dim)}
    seconds = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds) < 2 * WARM:
        begun = time.perf_counter()
        backbone.velocity(x, 0.5, text).square().mean().backward()
        seconds.append(time.perf_counter() - begun)
    print(*seconds[WARM:])


def fastest(seconds: list[float]) -> float:
    """Mean of the fastest hundredth."""
    return statistics.mean(sorted(seconds)[:max(1, len(seconds) // 100)])


def attention(settings: Parts, watch, device) -> None:
    """Self-attention of a block by every kernel that is installed, forwards and backwards.

    Its error is ‖out − reference‖ / ‖reference‖, against float32.
    """
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from vov.model.attention import choose_attention

    shape = (1, settings.heads, settings.tokens, 128)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v, pull = (torch.randn(shape, device=device, dtype=dtype) for _ in range(4))
    some = slice(0, min(2048, settings.tokens))
    reference = F.scaled_dot_product_attention(q[:, :, some].float(), k.float(), v.float())
    tera = 4 * settings.tokens**2 * settings.heads * 128 / 1e12

    def plain():
        return F.scaled_dot_product_attention(q, k, v)

    def row(name: str) -> None:
        error = float((plain()[:, :, some].float() - reference).norm() / reference.norm())
        watch(f"attention, {name}", plain, settings.repeats, tera=tera, relative_error=f"{error:.2e}")
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = F.scaled_dot_product_attention(*leaves)
        watch(f"attention, {name}, backwards", lambda: torch.autograd.grad(out, leaves, pull, retain_graph=True),
              settings.repeats, tera=2.5 * tera)

    for kind in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION) if watch.cuda else ():
        with sdpa_kernel(kind):
            row(kind.name)
    try:
        row(choose_attention(torch.nn.Identity(), device, "flash"))
    except VovError as problem:
        print(problem)


if __name__ == "__main__":
    cli.run(Parts, main, "[VARIABLE=value …] bash scripts/bench.sh parts [--flag value …]")
