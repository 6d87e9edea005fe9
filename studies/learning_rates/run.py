"""How the best learning rate of θ moves with a model's width and depth.

Models of Wan's classes and of growing size are trained for a while on latents of nano-video's VAE, then
`studies.theta.run` fits θ on each over a grid. Finished models and fits are kept and not made again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.config import cli, option

CAPTION = "a video"  # of every clip, in training and in fits: what is studied is not the caption
FITS = {  # whole fits to one clip: to the decoder's own noise at one step, or to any noise at all levels
    "anchored": {"NOISE": "anchored", "TIMESTEPS": "grid", "DECODE_STEPS": "1"},
    "random": {"NOISE": "random", "TIMESTEPS": "shifted", "DECODE_STEPS": "20"},
}


@dataclass(frozen=True)
class Study:
    """What is built and fitted; CONFIG and the environment give the other settings of fits, as in run_two_stage.sh."""

    sizes: str = option("256x8,512x12,1024x20", "comma-separated width x depth; width in multiples of 64")
    train: str = option("", "comma-separated videos to train on (required)")
    clips: str = option("", "comma-separated clips to fit, none of them in TRAIN; none: only train (default)")
    vary: str = option("lr=0.005,0.015,0.05,0.15", "grid of fits, as VARY of studies.theta.run")
    kinds: str = option("anchored,random", f"comma-separated: {', '.join(FITS)}")
    windows: int = option(32, "windows of 17 frames of each training video", minimum=1)
    train_steps: int = option(2000, "training steps of each model", minimum=1)
    train_batch: int = option(16, "windows of a training step", minimum=1)
    train_lr: float = option(1e-3, "AdamW's rate at width 256; falls as 1 / width", minimum=0)
    out: str = option("runs/lr_study", "folder of models and rows")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def main(settings: Study) -> None:
    """Trains what is missing, then fits."""
    from vov.model.wan import WanBackbone
    from vov.runtime.files import content_hash

    sizes = [tuple(map(int, part.split("x"))) for part in settings.sizes.split(",") if part.count("x") == 1]
    if len(sizes) != settings.sizes.count(",") + 1 or any(width % 64 or depth < 1 for width, depth in sizes):
        raise VovError(f"SIZES={settings.sizes}: give width x depth such as 256x8, width a multiple of 64")
    if not settings.train or set(settings.kinds.split(",")) - set(FITS):
        raise VovError(f"TRAIN must name videos, and KINDS be of {', '.join(FITS)}")
    training = content_hash(settings.train, settings.windows, settings.train_steps, settings.train_batch,
                            settings.train_lr)[:8]
    folders = {size: Path(settings.out) / f"nano-{size[0]}x{size[1]}-{training}" for size in sizes}
    missing = {size: folder for size, folder in folders.items() if not (folder / "model_index.json").is_file()}
    if missing:
        teacher = WanBackbone.load("nano-video", "", settings.device, "float32")
        bank = latents_of(teacher, settings)
        for size, folder in missing.items():
            train(teacher, bank, *size, folder, settings)
    for (width, depth), folder in folders.items() if settings.clips else ():
        for kind in settings.kinds.split(","):
            print(f"{width}x{depth}, {kind}", flush=True)
            environ = os.environ | FITS[kind] | {
                "CONFIG": os.environ.get("CONFIG", "nano-video"), "WAN_MODEL_ID": str(folder), "CAPTION": CAPTION,
                "LAST_K": str(depth), "DEVICE": settings.device, "CLIPS": settings.clips, "VARY": settings.vary,
                "OUT": f"{settings.out}/{width}x{depth}-{kind}.jsonl"}
            if code := subprocess.run([sys.executable, "-m", "studies.theta.run"], env=environ).returncode:
                sys.exit(code)  # it has said why


def latents_of(backbone, settings: Study):
    """Normalised latents [N, C, T, h, w] of windows spread evenly over each training video."""
    import torch

    from vov.media import FrameSource

    found = []
    for path in settings.train.split(","):
        source = FrameSource(path, size=(192, 112))
        if len(source) < 17:
            raise VovError(f"{path}: has {len(source)} frames, a window needs 17; leave it out of TRAIN")
        count = min(settings.windows, len(source) - 16)
        for number in range(count):
            first = number * (len(source) - 17) // max(1, count - 1)
            found.append(backbone.latents(source.clip(first, 17).frames))
    return torch.cat(found)


def train(teacher, bank, width: int, depth: int, folder: Path, settings: Study) -> None:
    """Trains one model by flow matching and writes its pipeline; the index comes last, and says that it is whole."""
    import torch

    from vov.model.flow import interpolate, shift_sigma

    torch.manual_seed(0)
    model = type(teacher.transformer).from_config({
        **teacher.transformer.config, "num_attention_heads": width // 64, "num_layers": depth, "ffn_dim": 4 * width})
    model.to(teacher.device).train().requires_grad_(True)
    rate = settings.train_lr * 256 / width
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, settings.train_steps + 1, pct_start=0.05)
    (condition,) = teacher.embed([CAPTION])
    text = condition["text"].expand(settings.train_batch, -1, -1)
    recent = None
    for _ in range(settings.train_steps):
        clean = bank[torch.randint(len(bank), (settings.train_batch,), device=bank.device)]
        noise = torch.randn_like(clean)
        time = shift_sigma(torch.rand(settings.train_batch, device=bank.device), 3.0)
        with torch.autocast(bank.device.type, torch.bfloat16, enabled=bank.device.type == "cuda"):
            velocity = model(interpolate(clean, noise, time), time * 1000, text, return_dict=False)[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent = loss.detach() if recent is None else 0.98 * recent + 0.02 * loss.detach()
    print(f"{width}x{depth}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, "
          f"loss {float(recent):.4f}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(teacher.path, folder, ignore=shutil.ignore_patterns("transformer", "model_index.json"))
    model.save_pretrained(folder / "transformer")
    shutil.copy(teacher.path / "model_index.json", folder)


if __name__ == "__main__":
    cli.run(Study, main, "TRAIN=a.mp4,b.mp4 CLIPS=c.mp4 python -m studies.learning_rates.run")
