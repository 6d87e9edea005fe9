"""A signal ends any command in one line, with what it had done saved; the same command goes on from there."""

import os
import signal
import sys

import pytest

from tests.runs import two_stage, video_settings, write_clip
from vov.commands import fit
from vov.commands.add_noise import AddNoiseVideo, add_noise_video
from vov.commands.decode import DecodeVideo, decode_video
from vov.commands.evaluate import evaluate_clips
from vov.commands.options import VideoFit
from vov.config import cli
from vov.evaluation.measure import Suite
from vov.evaluation.pairs import EvalConfig
from vov.fitting import checkpoint
from vov.fitting.fit import Fit
from vov.model.backbone import Backbone
from vov.noise.choose import Chooser
from vov.runtime import files, signals


@pytest.fixture(scope="module")
def fitted(tiny_wan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    write_clip(folder / "clip")
    return two_stage(video_settings(tiny_wan, folder / "clip", folder / "out"))


def command(cls, main, settings, monkeypatch, capsys):
    """(exit code, lines that begin with "stopped by" or "error") of a command with these settings."""
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(cli, "load", lambda *_: settings)
    code = 0
    try:
        cli.run(cls, main, "usage")
    except SystemExit as ended:
        code = ended.code
    return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith(("stopped by", "error"))]


def interrupt(monkeypatch, owner, name, number, call=0):
    """The signal comes during the call-th call of a method; it is sent once."""
    work, calls = getattr(owner, name), []

    def interrupted(*arguments, **more):
        calls.append(1)
        if len(calls) == call + 1:
            os.kill(os.getpid(), number)
        return work(*arguments, **more)
    monkeypatch.setattr(owner, name, interrupted)
    return calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_fit_goes_on_from_the_very_step(number, fitted, tiny_wan, tmp_path, monkeypatch, capsys):
    clip = fitted.parent.parent / "clip"
    whole = video_settings(tiny_wan, clip, tmp_path / "whole", train_steps=6, save_every=100)
    fit.stage1(whole)
    settings = video_settings(tiny_wan, clip, tmp_path / "out", train_steps=6, save_every=100)
    with monkeypatch.context() as patch:
        interrupt(patch, Fit, "advance", number, call=3)
        code, said = command(VideoFit, fit.stage1, settings, patch, capsys)
    assert code == 128 + number
    assert said == [f"stopped by {number.name}, out saved at step 4 of 6; run the same command again to go on"]
    assert checkpoint.load(tmp_path / "out/checkpoint.safetensors").step == 4
    steps = interrupt(monkeypatch, Fit, "advance", 0, call=-5)
    assert command(VideoFit, fit.stage1, settings, monkeypatch, capsys) == (0, [])
    assert len(steps) == 2
    ends = [checkpoint.load(tmp_path / name / "checkpoint.safetensors").tensors for name in ("whole", "out")]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("changes", [dict(scheme="atoms", scaling_bytes=40), dict(scheme="paper")],
                         ids=["budget", "paper"])
def test_a_search_for_noise_goes_on_from_the_very_step(changes, fitted, tiny_wan, tmp_path, monkeypatch, capsys):
    def settings(name):
        return AddNoiseVideo(bitstream=str(fitted), original_frames_dir=str(fitted.parent.parent / "clip"), steps=5,
                             output=str(tmp_path / name / "x.vov"), model_id=str(tiny_wan), device="cpu", **changes)
    with monkeypatch.context() as patch:
        all_steps = interrupt(patch, Chooser, "__call__", 0, call=-5)
        add_noise_video(settings("whole"))
    for stop in (1, len(all_steps) - 2):
        name = f"stopped{stop}"
        with monkeypatch.context() as patch:
            interrupt(patch, Chooser, "__call__", signal.SIGTERM, call=stop)
            code, said = command(AddNoiseVideo, add_noise_video, settings(name), patch, capsys)
        assert code == 143 and len(said) == 1 and "saved at sampler step" in said[0] and "of 5" in said[0], said
        assert not (tmp_path / name / "x.vov").exists()
        with monkeypatch.context() as patch:
            steps = interrupt(patch, Chooser, "__call__", 0, call=-5)
            assert command(AddNoiseVideo, add_noise_video, settings(name), patch, capsys) == (0, [])
        assert len(steps) == len(all_steps) - stop - 1
        assert (tmp_path / name / "x.vov").read_bytes() == (tmp_path / "whole/x.vov").read_bytes()
        assert not list((tmp_path / name).glob(".search*"))


def test_decode_and_evaluation_stop_in_one_line_and_leave_no_halves(fitted, tiny_wan, tmp_path, monkeypatch, capsys):
    decode = DecodeVideo(bitstream=str(fitted), output_dir=str(tmp_path / "r"), model_id=str(tiny_wan), device="cpu")
    clip = str(fitted.parent.parent / "clip")
    measure = EvalConfig(real_dir=clip, fake_dir=str(fitted.parent / "ball"), out_dir=str(tmp_path / "e"),
                         metrics="psnr", work_dir=str(tmp_path / "w"), device="cpu", skip_fvd=True)
    for cls, main, settings, owner, name in ((DecodeVideo, decode_video, decode, Backbone, "decode"),
                                             (EvalConfig, evaluate_clips, measure, Suite, "measure")):
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, signal.SIGTERM)
            code, said = command(cls, main, settings, patch, capsys)
        assert (code, said) == (143, ["stopped by SIGTERM; run the same command again to go on"])
        assert not [p for p in tmp_path.rglob("*") if ".part" in p.name or ".lock" in p.name]
        assert command(cls, main, settings, monkeypatch, capsys) == (0, [])
        before = {p: files.path_hash(p) for p in tmp_path.rglob("*") if p.is_file()}
        assert command(cls, main, settings, monkeypatch, capsys) == (0, [])
        assert before == {p: files.path_hash(p) for p in tmp_path.rglob("*") if p.is_file()}


def test_a_signal_after_the_last_question_is_not_lost_and_a_second_one_does_not_wait():
    with signals.on_signals():
        with pytest.raises(signals.Stopped) as stopped, signals.graceful() as signalled:
            assert signalled() == 0
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.code == 143
        with pytest.raises(signals.Stopped), signals.graceful() as signalled:
            os.kill(os.getpid(), signal.SIGINT)
            assert signalled() == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal waited")
