"""Measures both models on the CPU and writes their cards, sample grids, attributions and checksums.

Reconstruction is measured on media that training never saw; captions on the held-out stills. Every number in a card
comes from here, none is typed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vov import metrics
from vov.files import write_bytes
from vov.media import fit_geometry, image_files, read_clip, read_image, resize

from . import dit
from . import vae_forward as forward
from .bank import Bank

log = logging.getLogger(__name__)
FRAMES = {"video": 9, "image": 1}
PACKAGED = {"video": "scikit-image's astronaut, the camera drifting, 9 frames of 128×128",
            "image": "scikit-image's astronaut, 128×128"}
CLIPS = [
    "BasketballPass_416x240",
    "clips/carphone_pristine.mp4",
    "clips/02_cups.mp4",
    "paper_groundtruth/Beauty_832x480.mp4",
    "paper_groundtruth/BasketballDrive_832x480.mp4",
]
PROMPTS = {
    "image": [
        "a photograph of a rose",
        "a photograph of tulips",
        "a photograph of a dandelion",
        "",
        "many fish swimming in a blue aquarium",
        "a town in front of a mountain",
        "ocean waves at a beach",
        "a street at sunset",
    ],
    "video": [
        "a photograph of a rose",
        "a person signing the word book",
        "a road with lane lines seen from a driving car",
    ],
}


@torch.no_grad()
def psnr(vae, frames: np.ndarray) -> float:
    """frames uint8 [T, H, W, 3] through encode and decode, rounded to 8 bits → dB."""
    x = torch.from_numpy(frames.copy()).to(vae.device).permute(3, 0, 1, 2)[None].float()
    decoded = vae.decode(vae.encode(x / 127.5 - 1).latent_dist.mode()).sample[0]
    levels = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    return metrics.psnr(frames, levels)


def packaged_photograph(frames: int) -> np.ndarray:
    """uint8 [frames, 128, 128, 3]: a photograph that scikit-image brings, the camera drifting across it, so that a test
    can check its row of the card."""
    from skimage import data as photographs

    picture = resize(photographs.astronaut()[None], 160, 160)[0]
    return np.stack([picture[8 + k : 136 + k, 2 * k : 128 + 2 * k] for k in range(frames)])


def reconstruction(family: str, vae, test: Path) -> dict[str, float]:
    """PSNR of every test clip (17 frames), or of the Kodak and gb82 pictures (256×256), shrunk to cover."""
    out = {}
    if family == "video":
        for width, height in ((192, 112), (128, 128)):
            values = {f"{Path(c).stem}, {width}×{height}":
                      psnr(vae, fit_geometry(read_clip(test / c, 17).frames, width, height, "crop")) for c in CLIPS}
            out |= values | {f"mean of the clips, {width}×{height}": float(np.mean(list(values.values())))}
    else:
        every = []
        for folder in ("kodak", "gb82"):
            values = [psnr(vae, fit_geometry(read_image(p)[None], 256, 256, "crop"))
                      for p in image_files(test / folder)]
            out[f"{folder}, mean of {len(values)} pictures"] = float(np.mean(values))
            every += values
        out[f"mean of the {len(every)} pictures"] = float(np.mean(every))
    return out | {PACKAGED[family]: psnr(vae, packaged_photograph(FRAMES[family]))}


@torch.no_grad()
def caption_losses(family: str, pipe, bank, seed: int) -> dict[str, float]:
    """Flow-matching loss on held-out stills under their own caption, another one, and none; same x0, t and noise."""
    bank.seed(seed)
    x, own = bank.draw_stills(32, (128, 128)) if family == "image" else bank.draw_motion(8, 9, (112, 192))
    other = own.clone()
    for k in range(len(own)):
        choices = [int(c) for c in bank.still_captions.unique() if c != own[k]]
        other[k] = bank.choice.choice(choices)
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    x0 = (vae_module.encode(pipe.vae, x) - mean) / pipe.vae.config.latents_std[0]
    text, mask = dit.embed_captions(family, (pipe.tokenizer, pipe.text_encoder), bank.captions, "cpu")
    if family == "video":
        text = torch.cat([text, text.new_zeros(len(text), dit.WAN_TEXT_LENGTH - text.shape[1], text.shape[2])], 1)
    out = {}
    for name, caption in (("right caption", own), ("wrong caption", other), ("no caption", torch.zeros_like(own))):
        generator, losses = torch.Generator().manual_seed(seed), []
        for t in (1.0, 0.9, 0.75, 0.5):
            noise = torch.randn(x0.shape, generator=generator)
            v = dit.velocity(
                family,
                pipe.transformer,
                (1 - t) * x0 + t * noise,
                torch.full((len(own),), t),
                text[caption],
                mask[caption],
            )
            losses.append(float((v - noise + x0).square().mean()))
        out[name] = float(np.mean(losses))
    return out


def speed(pipe) -> dict[str, float]:
    """Seconds on this CPU: one forward and backward of the transformer at 192×112×17, one decode; best of three."""
    x, text = torch.randn(1, pipe.vae.config.z_dim, 5, 14, 24), torch.randn(1, dit.WAN_TEXT_LENGTH, 64)
    steps, decodes = [], []
    for _ in range(3):
        start = time.perf_counter()
        pipe.transformer(x, torch.tensor([1000.0]), text).sample.square().mean().backward()
        steps.append(time.perf_counter() - start)
        with torch.no_grad():
            start = time.perf_counter()
            pipe.vae.decode(x)
            decodes.append(time.perf_counter() - start)
    return {"forward + backward, s": min(steps), "decode of 17 frames, s": min(decodes)}


def sample_grid(family: str, pipe, path: Path) -> None:
    """30-step samples of PROMPTS at guidance 3: eight pictures, or five frames each of three clips."""
    tiles = []
    for seed, prompt in enumerate(PROMPTS[family]):
        kwargs = {"num_inference_steps": 30, "generator": torch.Generator().manual_seed(seed), "output_type": "np"}
        if family == "image":
            tiles += list(pipe(prompt, negative_prompt="", true_cfg_scale=3.0, height=128, width=128, **kwargs).images)
        else:
            tiles += list(
                pipe(prompt, height=112, width=192, num_frames=17, guidance_scale=3.0, **kwargs).frames[0][::4]
            )
    columns = 8 if family == "image" else 5
    rows = [np.concatenate(tiles[k : k + columns], 1) for k in range(0, len(tiles), columns)]
    grid = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    grid.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def attribution(media: Path) -> str:
    """Who made the pretraining media, from the licence files beside them."""
    used, authors = {p.name for p in (media / "flowers").glob("*.jpg")}, set()
    for line in (media / "flowers" / "LICENSE.txt").read_text(errors="replace").splitlines():
        if " CC-BY by " in line and line.split("/")[1].split(" ")[0] in used:
            authors.add(line.split(" CC-BY by ")[1].split(" - http")[0].strip())
    lines = (media / "openimages" / "attribution.txt").read_text(errors="replace").splitlines()
    open_images = sorted({ln.rsplit(" at http", 1)[0].rsplit(" by ", 1)[1].strip() for ln in lines if " by " in ln})
    text = (Path(__file__).parent / "attribution.md").read_text()
    return text.replace("{flowers}", "; ".join(sorted(authors))).replace("{openimages}", "; ".join(open_images))


def checksums(models: Path) -> str:
    """sha256sum's format, every weight file below `models`."""
    files = sorted(models.rglob("*.safetensors"))
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(models).as_posix()}\n" for f in files)


def _table(values: dict[str, float], digits: int) -> str:
    return "\n".join(f"| {k} | {v:.{digits}f} |" for k, v in values.items())


def write(models: Path, media: Path, pack: Path, seed: int = 1) -> None:
    """`media` holds test/ and pretrain/. Writes README.md and samples.png of each model and the files they share."""
    from diffusers import QwenImagePipeline, WanPipeline

    torch.set_num_threads(2)
    bank, full = data.Bank(pack, "cpu", held_out=True), None
    (models / "ATTRIBUTION.md").write_text(attribution(media / "pretrain"))
    (models / "SHA256SUMS").write_text(checksums(models))
    measured = {}
    for family, kind in (("video", WanPipeline), ("image", QwenImagePipeline)):
        root = models / f"nano-{family}"
        pipe = kind.from_pretrained(root)
        pipe.set_progress_bar_config(disable=True)
        if full is None:
            full = reconstruction(pipe.vae, media / "test")
            measured |= {"vae_psnr_db": full, "cpu_seconds": speed(pipe)}
            print(json.dumps(measured), flush=True)
        measured[f"caption_loss_{family}"] = losses = caption_losses(family, pipe, bank, seed)
        print(losses, flush=True)
        sample_grid(family, pipe, root / "samples.png")
        shown = {k: v for k, v in full.items() if ("picture" in k) == (family == "image")}
        count = {
            n: sum(p.numel() for p in getattr(pipe, n).parameters()) / 1e6
            for n in ("transformer", "vae", "text_encoder")
        }
        card = (Path(__file__).parent / f"card_{family}.md").read_text()
        for key, value in {
            "psnr": _table(shown, 2),
            "captions": _table(losses, 4),
            "speed": _table(measured["cpu_seconds"], 2),
            **{n: f"{c:.2f}" for n, c in count.items()},
        }.items():
            card = card.replace("{" + key + "}", value)
        (root / "README.md").write_text(card)
    print(json.dumps(measured, indent=1))
