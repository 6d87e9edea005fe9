"""Claims about Wan2.1 and Wan2.2-TI2V behind the backbone, on untrained 2-layer ones; diffusers is the oracle."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanPipeline
from PIL import Image

from vov import VovError
from vov.model.flow import euler, sigma_grid
from vov.model.wan import WanBackbone
from vov.runtime.random import normal

CAPTION, WIDTH, HEIGHT, FRAMES, STEPS = "a red ball rolls", 64, 32, 9, 4


@pytest.fixture(scope="module", params=["tiny_wan", "tiny_wan22"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def backbone(folder):
    return WanBackbone.load(str(folder), "unused", "cpu")


def stock(kind, folder, sigmas):
    """A stock pipeline that walks down this grid with Euler steps."""
    pipe = kind.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    plain = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda count, device=None: plain(sigmas=sigmas[:-1], device=device)
    return pipe


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_sampler_and_the_decoder_are_the_stock_pipelines(backbone, folder, guidance):
    sigmas = sigma_grid(STEPS, 5.0)
    noise = normal(3, 0, backbone.latent_shape(WIDTH, HEIGHT, FRAMES))
    condition, negative = backbone.embed([CAPTION, ""])
    velocity = backbone.guided(condition, negative if guidance > 1 else None, guidance)
    with torch.no_grad():
        ours = euler(velocity, noise, sigmas)
    given = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "num_inference_steps": STEPS, "latents": noise,
             "max_sequence_length": 32, "guidance_scale": guidance, "negative_prompt": "" if guidance > 1 else None}
    theirs = stock(WanPipeline, folder, sigmas)(CAPTION, output_type="latent", **given).frames
    assert torch.allclose(ours, theirs, atol=1e-4)
    frames = stock(WanPipeline, folder, sigmas)(CAPTION, output_type="np", **given).frames[0]
    assert np.abs(backbone.decode(ours) / 255 - frames).max() < 0.51 / 255 + 1e-4


def test_a_chunk_after_a_known_frame_is_the_stock_image_to_video_pipelines(tiny_wan22):
    backbone, sigmas = WanBackbone.load(str(tiny_wan22), "unused", "cpu"), sigma_grid(STEPS, 5.0)
    assert backbone.clean_first_frame
    first = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    noise, condition = normal(3, 0, backbone.latent_shape(WIDTH, HEIGHT, FRAMES)), backbone.embed([CAPTION])[0]
    known = backbone.latents(first[None])
    with torch.no_grad():
        ours = euler(lambda x, t: backbone.velocity_after(x, t, condition, known, noise[:, :, :1]), noise[:, :, 1:],
                     sigmas)
    pipe = stock(WanImageToVideoPipeline, tiny_wan22, sigmas)
    theirs = pipe(Image.fromarray(first), CAPTION, height=HEIGHT, width=WIDTH, num_frames=FRAMES,
                  num_inference_steps=STEPS, guidance_scale=1.0, max_sequence_length=32, latents=noise,
                  output_type="latent").frames
    assert torch.allclose(torch.cat((known, ours), 2), theirs, atol=1e-4)


def test_geometry_follows_the_vae(tiny_wan, tiny_wan22):
    shapes = {}
    for folder in (tiny_wan, tiny_wan22):
        backbone = WanBackbone.load(str(folder), "unused", "cpu")
        assert backbone.latents(np.zeros((5, 64, 96, 3), np.uint8)).shape == backbone.latent_shape(96, 64, 5)
        shapes[folder.name] = backbone.unit, backbone.latent_shape(96, 64, 5)
    assert shapes == {"tiny-wan": (16, (1, 16, 2, 8, 12)), "tiny-wan22": (32, (1, 48, 2, 4, 6))}
    with pytest.raises(VovError, match="multiples of 32; nearest are 96 and 64"):
        backbone.check_geometry(96, 48, 5)
