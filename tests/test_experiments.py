"""The experiment scripts: nothing is measured twice, and nothing changed is ever taken from an old row."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from scripts.experiments import fits, kodak, sequences, sweep
from scripts.experiments.rows import Rows, key
from tests.test_fit import ball
from vov import VovError, bitstream, media, metrics
from vov.decoding.decode import decode
from vov.media.original import Original
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


def test_a_key_covers_model_frames_caption_and_every_setting(tiny_wan):
    backbone = WanBackbone.load(str(tiny_wan), "", "cpu")
    source = Original(ball(5, 32, 32), 8.0, "a ball", "ball")
    other = source.frames.copy()
    other[-1, 0, 0, 0] ^= 1
    changed = [dataclasses.replace(source, **change) for change in (
        {"frames": other}, {"caption": "the ball"}, {"fps": 9.0}, {"name": "b"}, {"frames": source.frames[:, ::-1]})]
    keys = [key(backbone, [source], {"lr": 0.1}), key(backbone, [source], {"lr": 0.2}), key(backbone, [], {"lr": 0.1}),
            key(fits.random_base(backbone, 1), [source], {"lr": 0.1}), key(backbone, [source], {"lr": 0.1}, "more"),
            *(key(backbone, [one], {"lr": 0.1}) for one in changed)]
    assert len(set(keys)) == len(keys) and keys[0] == key(backbone, [dataclasses.replace(source)], {"lr": 0.1})


def test_rows_survive_a_cut_line_and_say_so(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    Rows(path, tmp_path).add("a", [{"n": 1}])
    path.write_text('{"clip": "of an older version"}\n' + path.read_text() + '{"key": "b", "of": 1, "n"')
    rows = Rows(path, tmp_path)
    assert "2 lines are cut short or of an older version" in caplog.text
    assert [row["n"] for row in rows.find("a")] == [1] and not rows.find("b")
    rows.add("b", [{"n": 2}])
    assert [row["n"] for row in Rows(path, tmp_path).find("b")] == [2]


def test_rows_count_only_whole_and_with_their_files_as_they_were(tmp_path):
    path = tmp_path / "rows.jsonl"
    (tmp_path / "x.vov").write_bytes(b"one")
    Rows(path, tmp_path).add("a", [{"n": 1, "file": "x.vov"}, {"n": 2}])
    assert len(Rows(path, tmp_path).find("a")) == 2
    (tmp_path / "x.vov").write_bytes(b"two")
    assert not Rows(path, tmp_path).find("a") and len(Rows(path, tmp_path).where("n", 1)) == 1
    (tmp_path / "x.vov").write_bytes(b"one")
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert not Rows(path, tmp_path).find("a")
    Rows(path, tmp_path).add("a", [{"n": 3}, {"n": 4}])
    assert [row["n"] for row in Rows(path, tmp_path).find("a")] == [3, 4]


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
        decode(tmp_path / "a" / "ball.vov", backbone)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    (clip_again,) = decode(tmp_path / "a" / "ball.vov", fits.random_base(backbone, 42))
    assert metrics.psnr(ball(5, 32, 32), clip_again.frames) == pytest.approx(row["psnr"], abs=1e-6)


def test_pictures_are_coded_once_and_again_when_one_changes(tiny_qwen, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("a.png|noise\nb.png|more noise\n")
    for name, value in (SMALL | {"QWEN_MODEL_ID": str(tiny_qwen), "BATCH_SIZE": "1", "CONFIG": "nano-image"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CAPTION")
    settings = kodak.Kodak(description_file=str(tmp_path / "list.txt"), data_root=str(tmp_path), anchors="jpeg",
                           out_dir=str(tmp_path / "out"))
    kodak.main(settings)
    first = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    kodak.main(settings)
    assert (tmp_path / "out" / "results.jsonl").read_text().splitlines() == first and len(first) == 2
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "b.png")
    capsys.readouterr()
    kodak.main(settings)
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert lines[:2] == first and len(lines) == 3 and json.loads(lines[2])["name"] == "b.png"
    assert len(capsys.readouterr().out.splitlines()) == 4  # two pictures, the mean, the mosaic
    assert (tmp_path / "out" / "mosaic.png").is_file()


def test_sequences_join_parts_code_them_in_each_way_once_and_compare(tiny_wan, tmp_path, capsys, monkeypatch):
    media.write_frames(tmp_path / "ball", ball(12, 32, 32))
    settings = sequences.Sequences(
        config="", frames_dir=f"{tmp_path / 'ball'}:0:6+{tmp_path / 'ball'}:8:4", out_dir=str(tmp_path / "out"),
        model_id=str(tiny_wan), width=32, height=32, num_frames=5, steps=4, score="pixel", device="cpu", rates="60,90",
        variants="alone:key_every=1 theta:scene_theta=20,scene_steps=2", anchors="none", scenes="none")
    rows = sequences.main(settings)
    [folder] = (tmp_path / "out/joined").iterdir()
    film = media.read_clip(tmp_path / "ball").frames
    assert np.array_equal(media.read_clip(folder).frames, film[[*range(6), *range(8, 12)]])
    assert [(row["way"], row["rate"], row["frames"]) for row in rows] == [
        (way, rate, [10]) for way in ("alone", "theta") for rate in (60.0, 90.0)]
    assert all(row["bytes"] <= 10 * row["rate"] for row in rows) and rows[2]["bytes_by_part"]["theta"] > 10
    assert "theta           BD-rate against alone" in capsys.readouterr().out
    monkeypatch.setattr("vov.commands.film.encode", None)  # nothing is coded again
    assert sequences.main(settings) == rows
    with pytest.raises(VovError, match="PATH:FIRST:COUNT"):
        sequences.main(dataclasses.replace(settings, frames_dir="a.mp4+b.mp4"))
