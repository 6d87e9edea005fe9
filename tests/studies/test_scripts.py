"""The scripts of studies that are tools as well: one small run each."""

import json

import numpy as np
import pytest

from studies.collections.run import complete
from studies.learning_rates import figure
from studies.learning_rates import run as rates
from studies.masks.run import masks
from studies.theta import fits
from studies.theta import run as theta
from tests.test_fit import ball
from vov import VovError, media, metrics
from vov.decoding.decode import decode
from vov.model.wan import WanBackbone

SMALL = {"CONFIG": "", "WIDTH": "32", "HEIGHT": "32", "NUM_FRAMES": "5", "TRAIN_STEPS": "2", "THETA_D_LENGTH": "200",
         "LAST_K": "2", "CAPTION": "a ball", "DEVICE": "cpu", "STAGE2_LAMBDA_RATE": "0.01", "LR_WARMUP": "0"}


def test_theta_fits_what_is_new_and_nothing_else(tmp_path, tiny_wan, monkeypatch, capsys):
    media.write_frames(tmp_path / "ball", ball(5, 32, 32))
    for name, value in (SMALL | {"WAN_MODEL_ID": str(tiny_wan)}).items():
        monkeypatch.setenv(name, value)
    settings = theta.Sweep(clips=str(tmp_path / "ball"), vary="stage2.lr=0.1", out=str(tmp_path / "o" / "s.jsonl"),
                           keep=str(tmp_path / "kept"), random_base=True)
    for again in (False, True):
        theta.main(settings)
        assert ("(from OUT)" in capsys.readouterr().out) == again
    (row,) = [json.loads(line) for line in (tmp_path / "o" / "s.jsonl").read_text().splitlines()]
    base = fits.random_base(WanBackbone.load(str(tiny_wan), "", "cpu"), 42)  # its files say that they are of no other
    (clip,) = decode(tmp_path / "kept" / "ball.vov", base)
    assert metrics.psnr(ball(5, 32, 32), clip.frames) == pytest.approx(row["psnr"], abs=1e-6)
    with pytest.raises(VovError, match="'nosuch' is nothing that can be varied"):
        fits.grid("nosuch=1")


def test_learning_rates_trains_a_model_that_loads_as_any_other_and_draws_its_rows(tmp_path):
    media.write_frames(tmp_path / "noise", np.random.default_rng(0).integers(0, 256, (17, 112, 192, 3), np.uint8))
    rates.main(rates.Study(sizes="64x1", train=str(tmp_path / "noise"), windows=1, train_steps=2, train_batch=1,
                           out=str(tmp_path / "study"), device="cpu"))
    (folder,) = (tmp_path / "study").iterdir()
    assert len(WanBackbone.load(str(folder), "", "cpu", "float32").transformer.blocks) == 1
    figure.main(figure.Figure(out=str(tmp_path / "figure.svg")))
    assert "512x12" in (drawn := (tmp_path / "figure.svg").read_text()) and drawn.startswith("<?xml")


def test_masks_are_darker_where_a_clip_is_busy():
    frames = np.full((3, 32, 48, 3), 128, np.uint8)
    frames[:, :, 24:] = np.random.default_rng(0).integers(0, 256, (3, 32, 24, 3))
    found = masks(frames, 0.5, 4.0)
    assert found.shape == frames.shape and found[1, :, :16].mean() > found[1, :, 32:].mean() + 100


def test_a_stopped_comparison_of_collections_counts_pictures_that_have_every_row():
    rows = [{"name": name, "budget": budget, "shared": shared} for name in "ab" for budget in (1, 2)
            for shared in (False, True)]
    assert complete(rows) == rows and complete(rows[:-1]) == rows[:4]
