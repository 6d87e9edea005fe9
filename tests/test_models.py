"""The shipped nano models: stock loading, identical saving, the reconstruction they promise, times per frame."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"


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
    assert sum(sizes) <= 80 * 2**20 and max(sizes) <= 16 * 2**20


NEXT = {"video": 25.43, "image": 29.95}  # dB of the packaged photograph, as models/next/README.md has it


@pytest.mark.skipif(not (MODELS / "next").is_dir(), reason="no generation is in the making")
@pytest.mark.parametrize("family", ["video", "image"])
def test_the_next_generation_unpacks_into_stock_vaes(family, tmp_path):
    from models.pretraining import card, parts

    parts.unpack(MODELS / "next", tmp_path)
    vae = parts.load_part(parts.vae_class(family), tmp_path, family, "vae")
    assert card.psnr(vae, card.packaged_photograph(card.FRAMES[family])) == pytest.approx(NEXT[family], abs=0.1)
    assert f"{NEXT[family]:.2f}" in (MODELS / "next" / "README.md").read_text()


def test_card_says_how_well_the_vae_reconstructs(family_and_pipe):
    """The card's row of a packaged photograph, in motion for nano-video, measured again."""
    from models.pretraining import card

    family, pipe = family_and_pipe
    row = next(line for line in (MODELS / f"nano-{family}/README.md").read_text().splitlines() if "astronaut" in line)
    measured = card.psnr(pipe.vae, card.packaged_photograph(card.FRAMES[family]))
    assert measured == pytest.approx(float(row.split("|")[2]), abs=0.1)


def velocities_of(pipe, **inputs) -> list[dict]:
    """What a pipeline gives its transformer and gets back, step by step."""
    seen, plain = [], pipe.transformer.forward

    def watched(*args, **kwargs):
        out = plain(*args, **kwargs)
        seen.append({k: kwargs[k] for k in ("hidden_states", "timestep", "encoder_hidden_states")} | {"out": out[0]})
        return out

    pipe.transformer.forward = watched
    pipe(prompt="a photograph of a rose", height=32, width=48, num_frames=5, num_inference_steps=2, guidance_scale=1.0,
         generator=torch.Generator().manual_seed(0), output_type="latent", **inputs)
    pipe.transformer.forward = plain
    return seen


def test_times_per_latent_frame_are_those_of_the_stock_pipelines():
    """`expand_timesteps`: all frames at one time in WanPipeline, the first at 0 in WanImageToVideoPipeline."""
    from diffusers import WanImageToVideoPipeline
    from PIL import Image

    from vov.model.wan import WanBackbone

    text = load("video")
    assert text.config.expand_timesteps
    image = WanImageToVideoPipeline.from_pretrained(MODELS / "nano-video")
    image.set_progress_bar_config(disable=True)
    backbone = WanBackbone.load("nano-video", "", "cpu", "float32")
    first = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    for pipe, inputs, given in ((text, {}, False), (image, {"image": first}, True)):
        for step in velocities_of(pipe, **inputs):
            time = step["timestep"].max() / 1000
            frames = torch.full((1, 2), float(time))
            frames[:, 0] *= 0 if given else 1
            with torch.no_grad():
                ours = backbone.velocity(step["hidden_states"], frames, {"text": step["encoder_hidden_states"]})
                assert torch.allclose(ours, step["out"], atol=1e-5)
                if not given:  # one time for all is the same, whichever way it is told
                    same = backbone.velocity(step["hidden_states"], time, {"text": step["encoder_hidden_states"]})
                    assert torch.allclose(same, step["out"], atol=1e-4)


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
