"""Bytes against PSNR that a pair of VAE and transformer promises, without coding: a quick way to compare pairs.

    python -m models.pretraining.proxy --models models --media folder-with-test [--family image]

Following the original's own noised states x_t down to t costs, by the I-MMSE relation, ∫ from t to 1 of
(1 − s)/s · |v − v̂|² ds nats per latent value; the picture is then the decoded x̂0(t). A perfect noise code would need
these bytes; real ones need some 5 to 10 % more, and lose or gain where their states differ from x_t.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from vov.media import fit_geometry, image_files, read_clip, read_image

from . import dit, parts
from . import vae_forward as forward
from .card import CLIPS

TIMES = [1.0, 0.97, 0.93, 0.88, 0.82, 0.75, 0.68, 0.6, 0.53, 0.46, 0.4, 0.35, 0.3, 0.26, 0.22, 0.19, 0.16, 0.13, 0.1]
RATES = {"video": (740, 1237, 2250, 4700), "image": (700, 1000, 2300)}


def originals(family: str, test: Path) -> dict[str, np.ndarray]:
    """The clips at 192×112, 17 frames, or Kodak's pictures at half size, uint8 [T, H, W, 3]."""
    if family == "video":
        return {Path(c).stem: fit_geometry(read_clip(test / c, 17).frames, 192, 112, "crop") for c in CLIPS[:4]}
    found = {p.stem: read_image(p)[None] for p in image_files(test / "kodak")}
    return {n: fit_geometry(f, f.shape[2] // 2, f.shape[1] // 2, "crop") for n, f in found.items()}


def pixels(frames: np.ndarray, device: str) -> torch.Tensor:
    """uint8 [T, H, W, 3] → [1, 3, T, H, W] in [−1, 1]."""
    return torch.from_numpy(frames.copy()).to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


@torch.no_grad()
def curve(family: str, vae, model, text: tuple, x: torch.Tensor, seed: int = 3) -> list[tuple[float, float]]:
    """(bytes, dB) at every t of TIMES, and (infinite, the VAE's own dB) last."""
    std, mean = (torch.tensor(c, device=x.device).view(1, -1, 1, 1, 1)
                 for c in (vae.config.latents_std, vae.config.latents_mean))
    x0 = (forward.encode(vae, x) - mean) / std
    generator, points, nats, before = torch.Generator(x.device).manual_seed(seed), [], 0.0, None

    def quality(z: torch.Tensor) -> float:
        decoded = ((forward.decode(vae, z * std + mean) + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
        return -10 * math.log10(float((decoded - x).square().mean()) / 4)

    for t in TIMES:
        noise = torch.randn(x0.shape, generator=generator, device=x.device)
        noised, times = (1 - t) * x0 + t * noise, torch.full((1,), t, device=x.device)
        v = dit.velocity(family, model, noised, times, *text)
        error = float((v - (noise - x0)).square().mean()) * (1 - t) / t
        if before:
            nats += (before[0] - t) * (error + before[1]) / 2 * x0.numel()
        points.append((nats / math.log(2) / 8, quality(noised - t * v)))
        before = (t, error)
    return [*points, (math.inf, quality(x0))]


def at(points: list[tuple[float, float]], size: float) -> float:
    """dB at `size` bytes, linear in the logarithm of the size."""
    sizes, quality = zip(*points[1:-1], strict=True)
    return float(np.interp(math.log(size), np.log(sizes), quality))


def report(family: str, models: Path, test: Path, device: str) -> None:
    """One line a file: dB at each of RATES, and the VAE's."""
    vae = parts.load_part(parts.vae_class(family), models, family, "vae").to(device).eval()
    model = parts.load_part(parts.transformer_class(family), models, family, "transformer").to(device).eval()
    text = dit.embed_captions(family, parts.text_stack(family, models, [""]), [""], device)
    rows = []
    for name, frames in originals(family, test).items():
        points = curve(family, vae, model, text, pixels(frames, device))
        rows.append([*(at(points, r) for r in RATES[family]), points[-1][1]])
        print(f"{name:24}", *(f"{v:6.2f}" for v in rows[-1]), flush=True)
    print(f"{'mean':24}", *(f"{v:6.2f}" for v in np.mean(rows, 0)), f"  at {RATES[family]} bytes and of the VAE alone")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--family", choices=["video", "image"], default="video")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    report(args.family, args.models, args.media / "test", args.device)
