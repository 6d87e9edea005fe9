"""The experiment scripts: nothing is measured twice, and nothing changed is ever taken from an old row."""

import dataclasses
import json

import pytest

from scripts.experiments import fits, sweep
from tests.test_fit import ball
from vov import VovError, bitstream, codec, media, metrics
from vov.model.wan import WanBackbone

SMALL = {"CONFIG": "", "WIDTH": "32", "HEIGHT": "32", "NUM_FRAMES": "5", "TRAIN_STEPS": "2", "THETA_D_LENGTH": "200",
         "LAST_K": "2", "CAPTION": "a ball", "DEVICE": "cpu", "STAGE2_LAMBDA_RATE": "0.01", "LR_WARMUP": "0"}


@pytest.fixture
def clip(tmp_path, tiny_wan, monkeypatch):
    """Folder of a clip, with an environment that makes its fits small."""
    media.write_frames(tmp_path / "ball", ball(5, 32, 32))
    for name, value in (SMALL | {"WAN_MODEL_ID": str(tiny_wan)}).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "ball"


@pytest.mark.parametrize(("text", "problem"), [
    ("nosuch=1", "'nosuch' is nothing that can be varied"), ("lr", "'lr' is not name=value,value"),
    ("stage3.lr=1", "'stage3.lr' is nothing"), ("device=cpu", "'device' is nothing"), ("lr=1 lr=2", "'lr' is named tw"),
])
def test_a_grid_with_mistakes_is_refused_in_one_line(text, problem):
    with pytest.raises(VovError, match=problem) as caught:
        fits.grid(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(VovError, match="RANK is 1 in stage1 but 3 in stage2"):
        fits.stages_of({"stage2.rank": "3"}, "clip", {})
    assert fits.grid("stage1.lr=1,2 rank=3") == [{"stage1.lr": "1", "rank": "3"}, {"stage1.lr": "2", "rank": "3"}]


def test_a_sweep_measures_what_is_new_and_nothing_else(clip, tmp_path, monkeypatch, capsys):
    settings = sweep.Sweep(clips=str(clip), vary="stage2.lr=0.1", out=str(tmp_path / "o" / "s.jsonl"))
    sweep.main(settings)
    sweep.main(settings)
    said = capsys.readouterr().out.splitlines()
    assert ["(from OUT)" in line for line in said] == [False, True]
    monkeypatch.setenv("SEED", "7")
    sweep.main(settings)
    monkeypatch.delenv("SEED")
    media.write_frames(clip, ball(5, 32, 32)[:, ::-1])  # another clip at the same path
    sweep.main(settings)
    assert "(from OUT)" not in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "o" / "s.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and len({row["key"] for row in rows}) == 3
    with pytest.raises(VovError, match="is not a number"):
        sweep.main(dataclasses.replace(settings, vary="lr=0.1,fast"))


def test_files_of_a_random_base_are_seeded_and_claim_no_other_model(clip, tiny_wan, tmp_path):
    sweep.main(sweep.Sweep(clips=str(clip), out=str(tmp_path / "a.jsonl"), keep=str(tmp_path / "a"), random_base=True))
    header = bitstream.read(tmp_path / "a" / "ball.vov").header
    assert header.model_id == f"{tiny_wan.name}-random-42"
    backbone = WanBackbone.load(str(tiny_wan), "", "cpu")
    with pytest.raises(VovError, match="fingerprint"):
        codec.decode_file(tmp_path / "a" / "ball.vov", backbone)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    (clip_again,) = codec.decode_file(tmp_path / "a" / "ball.vov", fits.random_base(backbone, 42))
    assert metrics.psnr(ball(5, 32, 32), clip_again.frames) == pytest.approx(row["psnr"], abs=1e-6)
