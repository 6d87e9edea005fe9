"""The shipped nano models: stock loading, unchanged weights, identical saving, and the reconstruction they promise."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
sys.path.insert(0, str(ROOT / "scripts"))


def load(family: str):
    from diffusers import QwenImagePipeline, WanPipeline

    pipe = (WanPipeline if family == "video" else QwenImagePipeline).from_pretrained(MODELS / f"nano-{family}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=["video", "image"])
def family_and_pipe(request):
    return request.param, load(request.param)


def sample(family: str, pipe) -> np.ndarray:
    kwargs = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
    kwargs["generator"] = torch.Generator().manual_seed(0)
    if family == "video":
        return pipe("a photograph of a rose", num_frames=5, guidance_scale=1.0, **kwargs).frames
    return pipe("a photograph of a rose", true_cfg_scale=1.0, **kwargs).images


def test_saving_and_loading_changes_nothing(family_and_pipe, tmp_path):
    family, pipe = family_and_pipe
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    first = sample(family, pipe)
    assert np.isfinite(first).all() and first.std() > 0.01
    # Weights bit for bit; samples to the last bits of float32, which vary with memory alignment even in one process.
    for name in ("transformer", "vae", "text_encoder"):
        old, new = getattr(pipe, name).state_dict(), getattr(again, name).state_dict()
        assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    assert np.abs(first - sample(family, again)).max() < 1e-4


def test_umt5_embeddings_are_tied():
    encoder = load("video").text_encoder
    assert encoder.shared.weight.data_ptr() == encoder.encoder.embed_tokens.weight.data_ptr()


def test_weights_are_those_of_the_checksums():
    listed = dict(reversed(line.split("  ")) for line in (MODELS / "SHA256SUMS").read_text().splitlines())
    files = {f.relative_to(MODELS).as_posix(): f for f in MODELS.rglob("*.safetensors")}
    assert set(listed) == set(files)
    assert all(hashlib.sha256(f.read_bytes()).hexdigest() == listed[name] for name, f in files.items())


def test_models_stay_small():
    sizes = [f.stat().st_size for f in MODELS.rglob("*") if f.is_file()]
    assert sum(sizes) <= 48 * 2**20 and max(sizes) <= 16 * 2**20


def test_card_says_how_well_the_vae_reconstructs(family_and_pipe):
    """The card's row of a packaged photograph, measured again with either model's VAE."""
    from nano import card

    row = next(line for line in (MODELS / "nano-image/README.md").read_text().splitlines() if "astronaut" in line)
    assert card.psnr(family_and_pipe[1].vae, card.packaged_photograph()) == pytest.approx(
        float(row.split("|")[2]), abs=0.05)


def test_caption_steers_the_velocity():
    """From pure noise the model paints a blue aquarium blue and a rose red."""
    pipe = load("image")
    colour = {}
    for caption in ("a photograph of a rose", "many fish swimming in a blue aquarium"):
        picture = pipe(caption, true_cfg_scale=1.0, height=128, width=128, num_inference_steps=6, output_type="np",
                       generator=torch.Generator().manual_seed(1)).images[0]
        colour[caption] = picture.mean((0, 1))
    rose, aquarium = colour.values()
    assert aquarium[2] - aquarium[0] > rose[2] - rose[0] + 0.1


def test_training_forward_equals_the_stock_vae():
    from nano import parts
    from nano import vae as training

    torch.manual_seed(0)
    vae = parts.new_vae().eval()
    with torch.no_grad():
        for frames in (1, 5, 9):
            x = torch.rand(1, 3, frames, 32, 48) * 2 - 1
            z = vae.encode(x).latent_dist.mode()
            assert torch.allclose(training.encode(vae, x), z, atol=1e-5)
            assert torch.allclose(training.decode(vae, z).clamp(-1, 1), vae.decode(z).sample, atol=1e-5)
