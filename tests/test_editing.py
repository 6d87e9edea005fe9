"""Editing: merges without dense matrices, schedules, and the commands as typed, on an untrained 2-layer Wan."""

import numpy as np
import pytest
import torch

from tests.test_fit import ball
from tests.tiny import build_wan
from video import edit as command
from vov import VovError, codec, media
from vov.editing.edit import Adaptation, Merged, load, scheduled
from vov.editing.settings import EditConfig
from vov.fitting.fit import Fitted
from vov.fitting.settings import FitConfig
from vov.formats import reference
from vov.model.wan import WanBackbone

FIT = FitConfig(width=32, height=32, theta_length=300, last_k=2, decode_steps=4)
CAPTION = "a red ball rolls"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return WanBackbone.load(str(build_wan(tmp_path_factory.mktemp("wan"))), "", "cpu")


@pytest.fixture(scope="module")
def files(backbone, tmp_path_factory):
    """(a .vov file, a reference checkpoint of the same quantised theta, frames of the original)."""
    folder = tmp_path_factory.mktemp("fits")
    theta = torch.linspace(-0.3, 0.3, 300)
    media.write_frames(folder / "ball", ball(5, 32, 32))
    encoder = codec.Encoder(backbone, [codec.Source(ball(5, 32, 32), 8.0, CAPTION)], FIT)
    encoder.write(folder / "ball.vov", FIT, Fitted(theta, 0.01, folder))
    encoder.close()
    reference.save_reference(folder / "ball.safetensors", theta, 0.01)
    return folder / "ball.vov", folder / "ball.safetensors", folder / "ball"


def settings(**more):
    return EditConfig(**({"caption": "a blue ball", "theta_length": 300, "last_k": 2, "width": 32, "height": 32,
                          "num_frames": 5} | more))


def test_quantised_theta_is_used_from_files_and_checkpoints(files):
    vov, reference, _ = files
    a, b = load(vov, settings(), WanBackbone), load(reference, settings(), WanBackbone)
    assert torch.allclose(a.theta, b.theta, atol=1e-6)
    assert torch.allclose(a.theta / 0.01, (a.theta / 0.01).round(), atol=1e-4)
    with pytest.raises(VovError, match="V_LENGTH=300"):
        load(reference, settings(theta_length=10), WanBackbone)


def test_merge_is_the_weighted_sum_of_products_even_of_unlike_fits(backbone):
    def made(seed, rank, preset, last_k):
        theta = torch.randn(200, generator=torch.Generator().manual_seed(seed))
        fit = FitConfig(rank=rank, theta_length=200, lora_preset=preset, last_k=last_k)
        return Adaptation(f"fit {seed}", theta, fit, 5, 8.0)

    fits, weights = [made(1, 1, "qkvo", 2), made(2, 3, "qkv", 1), made(3, 2, "qkvo_mlp", 2)], [1.0, -0.5, 2.0]
    with Merged(backbone, fits) as merged:
        expected = {}
        for factors, weight in zip(merged.factors, weights, strict=True):
            for name, (a, b) in zip(merged.adapter.names, factors, strict=True):
                expected[name] = expected.get(name, 0) + weight * b @ a
        merged.bind(weights)
        for name, layer in zip(merged.adapter.names, merged.adapter.layers, strict=True):
            assert torch.allclose(layer.B @ layer.A, expected[name], atol=1e-5)
            assert layer.A.shape[0] <= 6
        merged.bind([0.0] * 3)
        assert merged.adapter.layers[0].A is None
    assert type(backbone.transformer.blocks[0].attn1.to_q) is torch.nn.Linear


def test_each_theta_acts_in_its_own_steps():
    seen = []
    bound = []
    velocity = scheduled(lambda x, t: seen.append(bound[-1]), lambda w: bound.append(tuple(w)), [1, 2], [0, 2], [3, 0])
    for _ in range(5):
        velocity(None, 0.0)
    assert seen == [(1, 0), (1, 0), (1, 2), (0, 2), (0, 2)]
    assert len(bound) == 3


def test_edit_commands_write_the_edit_and_its_sheet(backbone, files, tmp_path, capsys, monkeypatch):
    vov, reference, original = files
    shared = {"caption": "a blue ball", "model_id": str(backbone.path), "device": "cpu", "theta_length": 300,
              "last_k": 2, "width": 32, "height": 32, "num_frames": 5, "steps": 3}
    command.run(command.EditCaption(weights=str(vov), output_video=str(tmp_path / "a.mp4"),
                                        original_frames_dir=str(original), **shared))
    said = capsys.readouterr().out
    assert "PSNR" in said and "lpips" in said
    assert media.read_image(tmp_path / "a_sheet.png").shape[:2] == (96, 104)
    assert len(media.read_clip(tmp_path / "a.mp4").frames) == 5
    monkeypatch.setenv("WEIGHTS3", str(vov))
    command.run(command.EditMerge(weights1=str(vov), weights2=str(reference), strength="1,0.5,0.2",
                                    stop_step="0,2,0", output_video=str(tmp_path / "b.mp4"), **shared))
    assert (tmp_path / "b_sheet.png").is_file()
    with pytest.raises(VovError, match="OVERWRITE"):
        command.run(command.EditCaption(weights=str(vov), output_video=str(tmp_path / "a.mp4"), **shared))
    media.write_frames(tmp_path / "large", np.zeros((5, 40, 48, 3), np.uint8))
    with pytest.raises(VovError, match=r"ORIGINAL=.*large: 48×40, but the file was made from 32×32"):
        command.run(command.EditCaption(weights=str(vov), original_frames_dir=str(tmp_path / "large"),
                                            output_video=str(tmp_path / "c.mp4"), **shared))
    assert not (tmp_path / "c.mp4").exists()
