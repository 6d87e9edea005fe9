"""Measures both models and writes their cards, sample grids, attribution and checksums.

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
from vov.media import fit_geometry, image_files, read_clip, read_image, resize
from vov.runtime.files import write_bytes, write_json

from . import dit
from . import vae_forward as forward
from .attribution import attribution
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
    "image": ["a photograph of a rose", "a photograph of tulips", "a photograph of a sunflower",
              "a photograph of a dandelion", "many fish swimming in a blue aquarium", "orange jellyfish in blue water",
              "a photograph of a motorbike", "a sunrise", "a photograph of a raccoon",
              "an old black car on green grass", "a town in front of a mountain", "ocean waves at a beach"],
    "video": ["a photograph of a rose", "many fish swimming in a blue aquarium", "a person signing the word book",
              "a road with lane lines seen from a driving car", "a clip of blackswan", "a clip of cows",
              "a clip of car turn", "cars driving on a road", "a street seen by a fixed camera", "a clip of dog",
              "a sunrise", "a photograph of a motorbike"],
}
SAMPLE = {"image": (128, 128, 1), "video": (192, 112, 17)}  # width, height, frames


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
def caption_losses(family: str, pipe, bank: Bank, seed: int) -> dict[str, float]:
    """Flow-matching loss on held-out stills under their own caption, another one, and none; same x0, t and noise."""
    bank.seed(seed)
    x, own = bank.draw_stills(32, (128, 128)) if family == "image" else bank.draw_motion(8, 9, (112, 192))
    every, draw = bank.stills.table[:, 4].unique(), torch.Generator().manual_seed(seed)
    other = torch.stack([(rest := every[every != c])[torch.randint(len(rest), (), generator=draw)] for c in own])
    mean, std = (torch.tensor(pipe.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    x0 = (forward.encode(pipe.vae, x) - mean) / std
    text, mask = dit.embed_captions(family, (pipe.tokenizer, pipe.text_encoder), bank.captions, "cpu")
    if family == "video":
        text = torch.cat([text, text.new_zeros(len(text), dit.WAN_TEXT_LENGTH - text.shape[1], text.shape[2])], 1)
    out = {}
    for name, caption in (("right caption", own), ("wrong caption", other), ("no caption", torch.zeros_like(own))):
        generator, losses = torch.Generator().manual_seed(seed), []
        for t in (1.0, 0.9, 0.75, 0.5):
            noise = torch.randn(x0.shape, generator=generator)
            v = dit.velocity(family, pipe.transformer, (1 - t) * x0 + t * noise, torch.full((len(own),), t),
                             text[caption], mask[caption])
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


def load_pipeline(family: str, models: Path, device: str = "cpu"):
    """The stock pipeline of a model, on a device, without progress bars."""
    from diffusers import QwenImagePipeline, WanPipeline

    pipe = (WanPipeline if family == "video" else QwenImagePipeline).from_pretrained(models / f"nano-{family}")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def sample(family: str, pipe, prompt: str, seed: int) -> np.ndarray:
    """A 30-step sample at guidance 4, float [T, H, W, 3] in [0, 1]."""
    width, height, frames = SAMPLE[family]
    kwargs = {"height": height, "width": width, "num_inference_steps": 30, "output_type": "np",
              "generator": torch.Generator().manual_seed(seed)}
    if family == "image":
        return np.asarray(pipe(prompt, negative_prompt="", true_cfg_scale=4.0, **kwargs).images)
    return np.asarray(pipe(prompt, num_frames=frames, guidance_scale=4.0, **kwargs).frames[0])


def sample_grid(family: str, pipe, path: Path) -> None:
    """Samples of PROMPTS: two rows of six pictures, or six rows of two clips with three frames each."""
    tiles = []
    for seed, prompt in enumerate(PROMPTS[family]):
        frames = (sample(family, pipe, prompt, seed)[::8] * 255).round().astype(np.uint8)
        tiles += list(frames if family == "image" else resize(frames, 144, 84))
    grid = np.concatenate([np.concatenate(tiles[k : k + 6], 1) for k in range(0, len(tiles), 6)])
    Image.fromarray(grid).quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def checksums(models: Path) -> str:
    """sha256sum's format, every weight file below `models`."""
    files = sorted(models.rglob("*.safetensors"))
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(models).as_posix()}\n" for f in files)


def _table(values: dict[str, float], digits: int) -> str:
    return "\n".join(f"| {k} | {v:.{digits}f} |" for k, v in values.items())


def measure(models: Path, media: Path, pack: Path, path: Path, device: str, seed: int = 1) -> dict:
    """Everything that the cards tell, kept in the JSON file `path`; what is already there is not measured again.

    Reconstructions on `device`; losses and speeds on the CPU. `media` holds test/ and pretrain/.
    """
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def once(key: str, compute) -> None:
        if key not in found:
            found[key] = compute()
            write_json(path, found)
            log.info("%s: %s", key, found[key])

    bank = None
    for family in ("video", "image"):
        pipe = load_pipeline(family, models)
        count = lambda part: sum(p.numel() for p in getattr(pipe, part).parameters()) / 1e6  # noqa: E731, B023
        found[f"parameters_{family}"] = {n: count(n) for n in ("transformer", "vae", "text_encoder")}
        if f"captions_{family}" not in found:
            bank = bank or Bank(pack, "cpu", held_out=True, clips=False)
        once(f"captions_{family}", lambda: caption_losses(family, pipe, bank, seed))  # noqa: B023
        if family == "video":
            once("speed", lambda: speed(pipe))  # noqa: B023
        once(f"psnr_{family}", lambda: reconstruction(family, pipe.vae.to(device), media / "test"))  # noqa: B023
        if not (models / f"nano-{family}" / "samples.png").is_file():
            sample_grid(family, pipe.to(device), models / f"nano-{family}" / "samples.png")
    return found


def write(models: Path, media: Path, measured: dict) -> None:
    """README.md of each model and the files they share, from what `measure` found."""
    write_bytes(models / "ATTRIBUTION.md", attribution(media / "pretrain").encode())
    write_bytes(models / "SHA256SUMS", checksums(models).encode())
    for family in ("video", "image"):
        card = Path(__file__).with_name(f"card_{family}.md").read_text(encoding="utf-8")
        values = {"psnr": _table(measured[f"psnr_{family}"], 2), "captions": _table(measured[f"captions_{family}"], 4),
                  "speed": _table(measured.get("speed", {}), 2),
                  **{n: f"{c:.2f}" for n, c in measured[f"parameters_{family}"].items()}}
        for key, value in values.items():
            card = card.replace("{" + key + "}", value)
        write_bytes(models / f"nano-{family}" / "README.md", card.encode())
