"""The real commands, as a user types them, on an untrained 2-layer Wan."""

import json
import os
import subprocess

import pytest

from tests.test_fit import ball
from vov import bitstream, media, metrics
from vov.commands.decode import DecodeVideo, decode_video
from vov.commands.fit import two_stage
from vov.commands.options import VideoFit
from vov.config import cli
from vov.runtime.files import REPO

SETTINGS = {"CONFIG": "nano-video", "WIDTH": "32", "HEIGHT": "32", "NUM_FRAMES": "5", "LAST_K": "2", "V_LENGTH": "300",
            "TRAIN_STEPS": "6", "PREVIEW_EVERY": "0", "SAVE_EVERY": "2", "NAME": "ball", "CAPTION": "a red ball rolls",
            "LORA_PRESET": "qkvo", "LR": "0.02", "DEVICE": "cpu", "OMP_NUM_THREADS": "2"}


def bash(script, *arguments, **variables):
    environ = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK")} | variables
    return subprocess.run(["bash", str(REPO / script), *arguments], env=environ, capture_output=True, text=True,
                          timeout=300, check=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media") / "ball"
    media.write_frames(folder, ball(5, 48, 40))
    return folder


@pytest.fixture(scope="module")
def run(tiny_wan, clip, tmp_path_factory):
    """One two-stage run that several tests look at."""
    folder = tmp_path_factory.mktemp("run")
    done = bash("video/train/run_two_stage.sh", **SETTINGS, WAN_MODEL_ID=str(tiny_wan), FRAMES_DIR=str(clip),
                OUT_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done


def test_two_stages_end_with_a_file_its_decode_and_an_honest_result(run, clip):
    folder, done = run
    result = json.loads((folder / "result.json").read_text())
    assert result["bytes"] == (folder / "ball.vov").stat().st_size == sum(result["bytes_by_part"].values())
    decoded = media.read_clip(folder / "ball").frames
    target = media.fit_geometry(ball(5, 48, 40), 32, 32, "crop")
    assert result["psnr"] == pytest.approx(metrics.psnr(target, decoded), abs=1e-6)
    assert result["bpp"] == pytest.approx(8 * result["bytes"] / (5 * 32 * 32))
    assert "PSNR" in done.stdout and "bytes" in done.stdout
    assert (folder / "ball.mp4").is_file()
    for stage in ("stage1", "stage2"):
        assert {"config.yaml", "log.jsonl", "tensorboard", "checkpoint.safetensors", "previews"} <= {
            p.name for p in (folder / stage).iterdir()}


def test_the_file_alone_decodes_to_the_same_frames_every_time(run, tiny_wan, tmp_path):
    folder, _ = run
    moved = tmp_path / "elsewhere.vov"
    moved.write_bytes((folder / "ball.vov").read_bytes())
    done = bash("video/reconstruct/reconstruct.sh", BITSTREAM=str(moved), OUTPUT_DIR=str(tmp_path / "once"),
                CACHE_DIR=str(tiny_wan.parent), VOV_CACHE=str(tmp_path / "fresh"))
    assert done.returncode == 0, done.stderr
    decode_video(DecodeVideo(bitstream=str(moved), output_dir=str(tmp_path / "twice"),
                                 cache_dir=str(tiny_wan.parent)))
    for name in ("once", "twice"):
        for png in (folder / "ball").iterdir():
            assert (tmp_path / name / "elsewhere" / png.name).read_bytes() == png.read_bytes()
    assert (tmp_path / "once/elsewhere.mp4").read_bytes() == (tmp_path / "twice/elsewhere.mp4").read_bytes()


def test_the_header_explains_the_file(run):
    stream = bitstream.read(run[0] / "ball.vov")
    header = stream.header
    assert (header.model_id, header.decode_steps, header.theta_length) == ("tiny-wan", 1, 300)
    assert (header.width, header.height, header.num_frames) == (32, 32, 5)
    assert stream.items[0].caption == "a red ball rolls" and stream.items[0].original_width == 48


@pytest.mark.parametrize(("changes", "message"), [
    ({"FRAMES_DIR": ""}, "INPUT is not set"),
    ({"FRAMES_DIR": "missing-folder"}, "missing-folder: no such folder"),
    ({"NUM_FRAMES": "9"}, "has 5 frames, 9 are asked for"),
    ({"WIDTH": "40"}, "WIDTH=40 HEIGHT=32: both must be multiples of 16"),
    ({"NUM_FRAMES": "4"}, "NUM_FRAMES=4: must be 4n+1"),
    ({"CAPTION": "", "NAME": "nobody"}, "no such caption file"),
    ({"CAPTION": "  "}, "the caption is empty"),
    ({"WAN_MODEL_ID": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "CACHE_DIR": "no-such-cache"},
     "no weights of Wan-AI/Wan2.1-T2V-1.3B-Diffusers in CACHE_DIR=no-such-cache"),
    ({"LAST_K": "30"}, "LAST_K=30, but the model has 2 blocks"),
    ({"LR": "quick"}, "LR: lr='quick' is not a number"),
])
def test_bad_input_is_one_line_and_leaves_nothing(changes, message, tiny_wan, clip, tmp_path, monkeypatch, capsys):
    variables = SETTINGS | {"WAN_MODEL_ID": str(tiny_wan), "FRAMES_DIR": str(clip), "OUT_DIR": str(tmp_path / "out")}
    for name, value in (variables | changes).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:  # what `python -m video.train two_stage` runs, without its start-up
        cli.run(VideoFit, two_stage, "usage", stages=("", "stage1", "stage2"))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 1 and len(errors) == 1 and message in errors[0], errors
    assert not (tmp_path / "out").exists()


def in_process(main, cls, monkeypatch, capsys, stages=("",), **variables):
    """(exit code, what it said) of what `python -m` runs, without its start-up."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["x"])
    try:
        cli.run(cls, main, "usage", stages=stages)
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().err


def test_the_same_command_goes_on_and_another_one_replaces_nothing(run, tiny_wan, clip, monkeypatch, capsys):
    folder, _ = run
    before = (folder / "ball.vov").read_bytes()
    (folder / "result.json").unlink()  # as after a kill between the file and its result
    variables = SETTINGS | {"WAN_MODEL_ID": str(tiny_wan), "FRAMES_DIR": str(clip), "OUT_DIR": str(folder)}
    for caption, expected in (("a red ball rolls", 0), ("a blue ball", 1)):
        code, said = in_process(two_stage, VideoFit, monkeypatch, capsys, ("", "stage1", "stage2"),
                                **variables | {"CAPTION": caption})
        assert code == expected and (folder / "ball.vov").read_bytes() == before, said
        assert (folder / "result.json").is_file()
    assert "other: the caption" in said and "OVERWRITE=1" in said


def test_a_file_for_another_model_or_a_damaged_one_is_refused(run, tiny_wan, tmp_path, monkeypatch, capsys):
    from tests.tiny import build_wan

    other = build_wan(tmp_path / "other" / "tiny-wan", seed=1)
    good = (run[0] / "ball.vov").read_bytes()
    (tmp_path / "cut.vov").write_bytes(good[:-5])
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    (tmp_path / "flipped.vov").write_bytes(flipped)
    for file, cache, message in ((run[0] / "ball.vov", other.parent, "fingerprint"),
                                 (tmp_path / "cut.vov", tiny_wan.parent, "cut.vov"),
                                 (tmp_path / "flipped.vov", tiny_wan.parent, "flipped.vov"),
                                 (tmp_path / "gone.vov", tiny_wan.parent, "gone.vov")):
        code, said = in_process(decode_video, DecodeVideo, monkeypatch, capsys, BITSTREAM=str(file),
                                OUTPUT_DIR=str(tmp_path / "out"), CACHE_DIR=str(cache))
        assert code == 1 and message in said and said.count("error: ") == 1, said
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", sorted(str(p.relative_to(REPO)) for tree in ("video", "image", "scripts", "models")
                                          for p in (REPO / tree).rglob("*.sh") if p.name != "common.sh"))
def test_every_script_explains_its_variables(script):
    done = bash(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
    assert done.stdout.count("\n") > 3
