"""The number of processes changes no file: every optimised tensor agrees everywhere, to the bit."""

import dataclasses
import os
import signal
import subprocess
import time

import pytest
import torch

from tests.runs import Member, Ring, image_settings, two_stage, video_settings, write_album, write_clip
from tests.runs import together as threads
from tests.test_fit import ball
from tests.test_video_commands import bash
from vov import VovError, bitstream, media
from vov.fitting import checkpoint
from vov.fitting.distributed import World
from vov.fitting.encoder import Encoder
from vov.fitting.fit import Fit, FitContext
from vov.model.qwen import QwenBackbone
from vov.model.wan import WanBackbone
from vov.runtime.files import REPO

RANDOM = dict(noise="random", timesteps="shifted", train_steps=4, save_every=3, lr=0.05)


def encoder_for(kind, originals, settings, world):
    """Made one after the other: diffusers cannot load models in threads."""
    return Encoder(kind.load(settings.model_id, "", "cpu"), originals, settings, world)


def fit_stages(encoder, settings, folder):
    """(the .vov's bytes, tensors of both checkpoints) of stage 1 and stage 2."""
    first = encoder.fit(settings, folder / "stage1", preview=False)
    later = dataclasses.replace(settings, lambda_rate=0.02)
    second = encoder.fit(later, folder / "stage2", {"unilora_theta_d": first.theta}, preview=False)
    stages = [checkpoint.load(folder / name / "checkpoint.safetensors").tensors for name in ("stage1", "stage2")]
    return bitstream.to_bytes(encoder.bitstream(later, second)), stages


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("changes", [RANDOM, dict(noise="mix", train_steps=3, lr=0.05), dict()],
                         ids=["random", "mix", "anchored"])
@pytest.mark.parametrize("tree", ["video", "image"])
def test_two_processes_are_one_with_twice_the_accumulation(tree, changes, tiny_wan, tiny_qwen, tmp_path, one_thread):
    """Albums of three pictures do not share out evenly."""
    if tree == "video":
        settings = video_settings(tiny_wan, write_clip(tmp_path / "clip"), tmp_path, batch_size=2, **changes)
        kind = WanBackbone
    else:
        settings = image_settings(tiny_qwen, write_album(tmp_path / "album"), tmp_path, **changes)
        kind = QwenBackbone
    originals = settings.originals()
    alone = fit_stages(encoder_for(kind, originals, settings, World()), dataclasses.replace(settings, accum_step=4),
                       tmp_path / "one")
    ring, half = Ring(2), dataclasses.replace(settings, accum_step=2)
    encoders = [encoder_for(kind, originals, settings, Member(rank, 2, ring)) for rank in (0, 1)]
    both = threads(ring, lambda rank: fit_stages(encoders[rank], half, tmp_path / "two"))
    assert alone[0] == both[0][0] == both[1][0]
    for ours, theirs in zip(alone[1], both[0][1], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_processes_that_disagree_stop_with_the_cure(tiny_wan, tmp_path, one_thread):
    settings = video_settings(tiny_wan, write_clip(tmp_path / "clip"), tmp_path, lambda_rate=0.02, train_steps=2)
    ring, fits = Ring(2), []
    for rank in (0, 1):
        world = Member(rank, 2, ring)
        encoder = encoder_for(WanBackbone, settings.originals(), settings, world)
        fits.append(Fit(encoder.model, encoder.items, settings, tmp_path / "out", FitContext(world=world)))
    with torch.no_grad():  # one bit of one tensor of the rate model, as a faulty GPU would
        fits[1].rate.bit_estimator.matrices[0].view(-1)[0] *= 1 + 2.0**-23
    with pytest.raises(VovError, match=r"θ and the rate model at step 1 differ between process 0 and 1; .*NUM_GPUS=1"):
        threads(ring, lambda rank: fits[rank].run())
    assert not (tmp_path / "out/checkpoint.safetensors").exists()


def two(script, **variables):
    return bash(script, NUM_GPUS="2", OMP_NUM_THREADS="1", DEVICE="cpu", **variables)


def as_variables(settings):
    shown = {"config": "nano-video"} | {n: getattr(settings, n) for n in (
        "model_id", "frames_dir", "out_dir", "name", "caption", "num_frames", "width", "height", "last_k", "lr",
        "theta_length", "preview_every", "train_steps", "save_every", "lr_warmup", "decode_steps", "noise", "timesteps",
        "batch_size", "lambda_rate_warmup", "rounding", "lora_preset", "rank", "shift", "loss", "init_bits",
        "lr_schedule")}
    return {name.upper(): str(value) for name, value in shown.items()}


def test_the_real_command_with_two_gloo_processes_writes_the_file_of_one(tiny_wan, tmp_path):
    settings = video_settings(tiny_wan, write_clip(tmp_path / "clip"), tmp_path / "two", **RANDOM)
    done = two("video/train/run_two_stage.sh", STAGE2_LAMBDA_RATE="0.003", **as_variables(settings))
    assert done.returncode == 0, done.stderr
    alone = dataclasses.replace(settings, out_dir=str(tmp_path / "one"), accum_step=2)
    assert two_stage(alone).read_bytes() == (tmp_path / "two/ball.vov").read_bytes()
    wrong = two("video/train/run_two_stage.sh", **as_variables(settings) | {"CAPTION": "a" * 17000})
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr, wrong.stderr
    assert [line for line in wrong.stderr.splitlines() if line.startswith("error: ")] == [wrong.stderr.splitlines()[-1]]


def test_two_processes_share_the_chains_of_a_sequence_and_write_the_file_of_one(tiny_wan, tmp_path):
    media.write_frames(tmp_path / "clip", ball(17, 32, 32))
    settings = {"CONFIG": "nano-video", "MODEL_ID": "tiny-wan", "CACHE_DIR": str(tiny_wan.parent), "DEVICE": "cpu",
                "FRAMES_DIR": str(tmp_path / "clip"), "WIDTH": "32", "HEIGHT": "32", "NUM_FRAMES": "5", "STEPS": "4",
                "KEY_EVERY": "2", "SCENE_THETA": "40", "SCENE_STEPS": "3", "TARGET_BYTES": "500", "RANK": "1"}
    for processes, folder in (("2", "two"), ("1", "one")):
        done = bash("video/encode.sh", OMP_NUM_THREADS="1", NUM_GPUS=processes, OUT_DIR=str(tmp_path / folder),
                    **settings)
        assert done.returncode == 0 and "PSNR" in done.stdout, done.stderr
    assert (tmp_path / "one/clip.vov").read_bytes() == (tmp_path / "two/clip.vov").read_bytes()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_saves_the_very_step_and_the_same_command_goes_on(processes, tiny_wan, tmp_path):
    number = signal.SIGTERM if processes == "1" else signal.SIGINT
    settings = video_settings(tiny_wan, write_clip(tmp_path / "clip"), tmp_path / "out", train_steps=100000,
                              save_every=100000, lr_schedule="constant")
    environ = os.environ | as_variables(settings) | {"NUM_GPUS": processes, "OMP_NUM_THREADS": "1", "DEVICE": "cpu"}
    run = subprocess.Popen(["bash", str(REPO / "video/train/stage1_train.sh")], env=environ, stderr=subprocess.PIPE,
                           text=True)
    log = tmp_path / "out/log.jsonl"
    try:
        for _ in range(2400):
            if (log.is_file() and log.stat().st_size) or run.poll() is not None:
                break
            time.sleep(0.05)
        run.send_signal(number)
        errors = run.communicate(timeout=120)[1]
    finally:
        run.kill()
    said = [line for line in errors.splitlines() if line.startswith("stopped by")]
    kept = checkpoint.load(tmp_path / "out/checkpoint.safetensors")
    assert run.returncode == 128 + number and "Traceback" not in errors, errors
    assert said == [f"stopped by {number.name}, out saved at step {kept.step} of 100000; run the same command again to "
                    "go on"]
    assert 10 <= kept.step < 100000
    assert not list((tmp_path / "out").rglob("*.part*"))
