"""What could make a decode faster, each alone at Wan2.1's shape: the VAE's arithmetic and layout, attention.

Errors are relative, ‖out − reference‖ / ‖reference‖, against float32 without TF32.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.util import find_spec

from vov.config import cli, option


@dataclass(frozen=True)
class Parts:
    """What is measured."""

    parts: str = option("vae,attention", "which", choices=("vae,attention", "vae", "attention"))
    width: int = option(832, "pixels", minimum=16)
    height: int = option(480, "pixels", minimum=16)
    num_frames: int = option(81, "frames, 4n+1", minimum=1)
    tokens: int = option(32760, "tokens of attention", minimum=16)
    heads: int = option(12, "heads of 128 values", minimum=1)
    base: int = option(96, "width of the VAE's first level", minimum=1)
    repeats: int = option(3, "timed calls of each kind", minimum=1)
    out: str = option("", "also one JSON line per measurement here")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def main(settings: Parts) -> None:
    """Prints one line per measurement."""
    import torch

    from scripts.experiments.timing import Stopwatch
    from vov.model.lookup import pick_device

    device = pick_device(settings.device)
    cuda = device.type == "cuda"
    watch = Stopwatch(settings.out, cuda, torch=torch.__version__,
                      device=torch.cuda.get_device_name() if cuda else "CPU")
    with torch.no_grad():
        if "vae" in settings.parts:
            autoencoder(settings, watch, device)
        if "attention" in settings.parts:
            attention(settings, watch, device)


def relative(found, reference) -> str:
    """‖found − reference‖ / ‖reference‖."""
    found, reference = found.float(), reference.float()
    return f"{float((found - reference).norm() / reference.norm()):.2e}"


def autoencoder(settings: Parts, watch, device) -> None:
    """Decoding a clip: TF32 or not, 16-bit, channels last."""
    import torch
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=settings.base).to(device).eval()
    latents = torch.randn(1, 16, (settings.num_frames - 1) // 4 + 1, settings.height // 8, settings.width // 8,
                          device=device)

    def decode(autocast=None):
        here = torch.autocast(device.type, autocast) if autocast else contextlib.nullcontext()
        with here:
            return vae.decode(latents, return_dict=False)[0]

    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    reference = decode().cpu()
    watch("VAE decode, float32 without TF32", decode, 1)
    torch.backends.cudnn.allow_tf32 = tf32

    def row(name: str, autocast=None) -> None:
        error = relative(decode(autocast).cpu(), reference)
        watch(f"VAE decode, {name}", lambda: decode(autocast), settings.repeats, relative_error=error)

    row("float32 with TF32 (PyTorch's default)")
    row("float16 autocast", torch.float16)
    row("bfloat16 autocast", torch.bfloat16)
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    row("TF32, weights channels last")
    row("float16, weights channels last", torch.float16)


def attention(settings: Parts, watch, device) -> None:
    """Self-attention of a block by every kernel that is installed, forwards and backwards, each with its error."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from vov import VovError
    from vov.model.attention import choose_attention

    shape = (1, settings.heads, settings.tokens, 128)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v, pull = (torch.randn(shape, device=device, dtype=dtype) for _ in range(4))
    some = slice(0, min(2048, settings.tokens))
    reference = F.scaled_dot_product_attention(q[:, :, some].float(), k.float(), v.float())
    tera = 4 * settings.tokens**2 * settings.heads * 128 / 1e12
    plain = lambda: F.scaled_dot_product_attention(q, k, v)  # noqa: E731

    def row(name: str, call=plain, backwards: bool = False) -> None:
        error = relative(call()[:, :, some], reference)
        watch(f"attention, {name}", call, settings.repeats, tera=tera, relative_error=error)
        if backwards:
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            with torch.enable_grad():
                out = F.scaled_dot_product_attention(*leaves)
            watch(f"attention, {name}, backwards", lambda: torch.autograd.grad(out, leaves, pull, retain_graph=True),
                  settings.repeats, tera=2.5 * tera)

    for kind in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION) if watch.cuda else ():
        with sdpa_kernel(kind):
            row(kind.name, backwards=True)
    if find_spec("sageattention") and watch.cuda:
        from sageattention import sageattn

        row("SageAttention, 8-bit Q and K", lambda: sageattn(q, k, v, tensor_layout="HND", is_causal=False))
    try:
        row(choose_attention(torch.nn.Identity(), device, "flash"), backwards=True)
    except VovError as problem:
        print(problem)


if __name__ == "__main__":
    cli.run(Parts, main, "[VARIABLE=value …] python -m scripts.experiments.bench_parts [--flag value …]")
