"""What the results harness keeps: nothing is measured twice, and nothing changed is ever taken from an old row."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from scripts.results import figure, sequences
from scripts.results.kept import Rows, key
from tests.test_fit import ball
from vov import VovError, media
from vov.media.original import Original


def model(fingerprint=b"a", precision="float32", device="cpu"):
    """What of a model counts."""
    return SimpleNamespace(fingerprint=lambda: fingerprint, precision=precision, device=SimpleNamespace(type=device))


def test_a_key_covers_model_frames_caption_and_every_setting():
    source = Original(ball(5, 32, 32), 8.0, "a ball", "ball")
    other = source.frames.copy()
    other[-1, 0, 0, 0] ^= 1
    changed = [dataclasses.replace(source, **change) for change in (
        {"frames": other}, {"caption": "the ball"}, {"fps": 9.0}, {"name": "b"}, {"frames": source.frames[:, ::-1]})]
    keys = [key(model(), [source], {"lr": 0.1}), key(model(), [source], {"lr": 0.2}), key(model(), [], {"lr": 0.1}),
            key(model(b"b"), [source], {"lr": 0.1}), key(model(b"a", "bfloat16"), [source], {"lr": 0.1}),
            key(model(b"a", "float32", "cuda"), [source], {"lr": 0.1}), key(model(), [source], {"lr": 0.1}, "more"),
            *(key(model(), [one], {"lr": 0.1}) for one in changed)]
    assert len(set(keys)) == len(keys) and keys[0] == key(model(), [dataclasses.replace(source)], {"lr": 0.1})


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


def test_lines_of_a_figure_are_in_the_order_of_the_legend_and_it_is_always_the_same_file(tmp_path):
    rows = [{"way": way, "bytes": size, "psnr": 20.0 + size / 1000} for way, size in (
        ("new codec", 1), ("x264", 720), ("frozen", 1200), ("frozen", 700))]
    assert [*figure.lines(rows)] == ["frozen", "x264", "new codec"]
    assert [row["bytes"] for row in figure.lines(rows)["frozen"]] == [700, 1200]
    for name in ("one", "two"):
        figure.draw(rows, "a title", tmp_path / name, {"psnr": "PSNR, dB"})
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").stat().st_size > 1000
