"""The VAE works in tiles on large frames, alike in encoder and decoder; small frames never see them."""

import numpy as np
import pytest
import torch

from vov.model import memory
from vov.model.qwen import QwenBackbone
from vov.model.wan import WanBackbone


@pytest.mark.parametrize(("kind", "name", "frames"), [(WanBackbone, "nano-video", 5), (QwenBackbone, "nano-image", 1)])
def test_tiles_give_nearly_what_the_whole_frame_gives(kind, name, frames, monkeypatch):
    backbone = kind.load(name, "", "cpu", "float32")
    monkeypatch.setattr(memory, "TILE", 96)
    monkeypatch.setattr(memory, "TILE_STRIDE", 64)
    width, height = 160, 128
    row, column = np.mgrid[:height, :width]
    wave = [np.sin(row / 17 + shift) * np.cos(column / 23 - shift) for shift in np.arange(3 * frames) / 5]
    pixels = torch.tensor(np.stack(wave), dtype=torch.float32).view(1, 3, frames, height, width)
    with torch.no_grad():
        latents = backbone.encode_pixels(pixels)
        whole = latents, backbone.decode_pixels(latents)
        monkeypatch.setattr(memory, "TILED_ABOVE", width * height)
        assert torch.equal(backbone.encode_pixels(pixels), latents), "a frame of just that size is seen whole"
        monkeypatch.setattr(memory, "TILED_ABOVE", width * height - 1)
        tiled = backbone.encode_pixels(pixels), backbone.decode_pixels(latents)
    for ours, theirs in zip(tiled, whole, strict=True):
        assert ours.shape == theirs.shape
        error = float((ours - theirs).norm() / (theirs - theirs.mean()).norm())
        assert 0 < error < 0.1


def test_cached_latents_of_large_frames_are_those_of_tiles(tiny_wan, monkeypatch):
    backbone = WanBackbone.load(str(tiny_wan), "", "cpu", "float32")
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    whole = backbone.encode(frames)
    monkeypatch.setattr(memory, "TILED_ABOVE", 64 * 64 - 1)
    monkeypatch.setattr(memory, "TILE", 32)
    monkeypatch.setattr(memory, "TILE_STRIDE", 24)
    assert torch.equal(backbone.encode(frames), backbone.latents(frames)) and not torch.equal(
        backbone.encode(frames), whole)
