"""Claims about fitting, on an untrained 2-layer Wan."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vov import VovError
from vov.commands.options import VideoFit
from vov.fitting import checkpoint
from vov.fitting.distributed import World
from vov.fitting.encoder import Encoder
from vov.fitting.fit import Fit, FitContext
from vov.fitting.guard import SpikeGuard
from vov.fitting.loss import distortion, pixel_weights
from vov.fitting.runlog import RunLog
from vov.media.original import Original
from vov.model import speed
from vov.model.wan import WanBackbone

CAPTION = "a red ball rolls"


def ball(frames=5, width=32, height=32):
    """A disc that moves over a gradient, uint8 [T, H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    clip = np.zeros((frames, height, width, 3), np.uint8)
    for t in range(frames):
        clip[t, ..., 1] = (x + y) * 255 // (width + height)
        clip[t][(x - 8 - 3 * t) ** 2 + (y - 16) ** 2 < 30] = (220, 40, 30)
    return clip


@pytest.fixture(scope="module")
def backbone(tiny_wan):
    return WanBackbone.load(str(tiny_wan), "unused", "cpu")


def settings_for(tmp_path, **changes):
    base = VideoFit(config="", width=32, height=32, num_frames=5, rank=1, theta_length=300, last_k=2, train_steps=8,
                    lr=0.05, lr_warmup=2, preview_every=0, save_every=3, noise="mix", timesteps="shifted",
                    batch_size=2, loss="pixel", out_dir=str(tmp_path), seed=3)
    return dataclasses.replace(base, **changes)


def encoder_for(backbone, settings, world=None):
    return Encoder(backbone, [Original(ball(), 8.0, CAPTION, "ball")], settings, world)


def fit(backbone, settings, folder, world=None, start=None, stop_after=None):
    """θ after a run; `stop_after` kills it as an impatient user would."""
    encoder = encoder_for(backbone, settings, world)
    try:
        job = Fit(encoder.model, encoder.items, settings, folder, FitContext(world=world or World(), start=start))
        if stop_after is not None:
            advance = job.advance

            def impatient(step):
                if step == stop_after:
                    raise KeyboardInterrupt
                return advance(step)
            job.advance = impatient
        return job.run()
    finally:
        encoder.close()


def test_spikes_are_shortened_and_ordinary_gradients_left_alone():
    guard = SpikeGuard(2.0, torch.device("cpu"))
    for _ in range(50):
        gradient = torch.tensor([3.0, 4.0])
        guard(gradient)
        assert torch.equal(gradient, torch.tensor([3.0, 4.0]))
    spike = torch.tensor([300.0, 400.0])
    guard(spike)
    assert torch.allclose(spike, torch.tensor([6.0, 8.0])) and float(guard.mean) == pytest.approx(5.25)
    for gradient, limit in ((torch.zeros(2), 2.0), (torch.tensor([300.0, 400.0]), 0.0)):
        before = gradient.clone()
        SpikeGuard(limit, torch.device("cpu"))(gradient)
        assert torch.equal(gradient, before)


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_killed_and_resumed_is_the_uninterrupted_run_to_the_bit(backbone, tmp_path, rate):
    settings = settings_for(tmp_path, lambda_rate=rate, lambda_rate_warmup=4)
    whole = fit(backbone, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, settings, tmp_path / "killed", stop_after=5)
    assert checkpoint.load(tmp_path / "killed" / "checkpoint.safetensors").step == 3
    resumed = fit(backbone, settings, tmp_path / "killed")
    assert torch.equal(whole.theta, resumed.theta) and whole.step == resumed.step


def test_the_log_of_a_resumed_stage_2_has_every_step_once(backbone, tmp_path):
    settings = settings_for(tmp_path, lambda_rate=0.01, lambda_rate_warmup=4, train_steps=24, save_every=8)
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, settings, tmp_path / "run", stop_after=22)
    fit(backbone, settings, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 24]
    assert all(0 < line["quantiser_step"] < 1 for line in lines)


def test_tensorboard_reads_our_curves_and_skips_what_was_done_twice(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (10, 20, 30)), (15, (20, 30, 40))):
        record = RunLog(tmp_path, "title", 100, start)
        for step in steps:
            record.write(step, {"loss": start + step})
        record.close()
        time.sleep(0.01)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(one.step, one.value) for one in found] == [(10, 10), (20, 35), (30, 45), (40, 55)]


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(backbone, tmp_path):
    settings = settings_for(tmp_path)
    first = fit(backbone, settings, tmp_path / "run")
    before = (tmp_path / "run" / "log.jsonl").read_text()
    assert torch.equal(fit(backbone, settings, tmp_path / "run").theta, first.theta)
    assert (tmp_path / "run" / "log.jsonl").read_text() == before
    with pytest.raises(VovError, match=r"other: `lr`\)"):
        fit(backbone, dataclasses.replace(settings, lr=0.01), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    fit(backbone, dataclasses.replace(settings, lr=0.01), tmp_path / "run")


@pytest.mark.parametrize(("name", "value"), [
    ("unilora_theta_d", torch.ones(1)),  # would be broadcast
    ("unilora_theta_d", torch.full((300,), torch.nan)),
    ("optimizer.0.exp_avg", torch.zeros(1, 300)),
    ("optimizer.0.exp_avg_sq", torch.zeros(300, dtype=torch.float16)),
    ("optimizer.0.step", None),
    ("fit.gradient_mean", None),
    ("unilora_scale_quant", torch.zeros(2)),
    ("step", 9), ("step", -1), ("step", "3"), ("step", None),
])
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(backbone, tmp_path, name, value):
    settings = settings_for(tmp_path, lambda_rate=0.01, train_steps=4, loss="latent")
    fit(backbone, settings, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    found = checkpoint.load(path)
    tensors, facts = dict(found.tensors), dict(found.metadata)
    target = facts if name == "step" else tensors
    target[name] = value
    if value is None:
        del target[name]
    save_file(tensors, path, {"vov": json.dumps(facts)})
    before = path.read_bytes()
    with pytest.raises(VovError, match=f"{name}: .*remove it to start over"):
        fit(backbone, settings, tmp_path / "run")
    assert path.read_bytes() == before


def test_fitting_lowers_the_loss_and_never_touches_a_frozen_weight(backbone, tmp_path):
    before = {k: v.clone() for k, v in backbone.transformer.state_dict().items()}
    settings = settings_for(tmp_path, noise="anchored", timesteps="grid", decode_steps=1, train_steps=40, lr=0.03)
    fit(backbone, settings, tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [eval(line)["loss"] for line in lines]
    assert losses[-1] < 0.9 * losses[0]
    after = backbone.transformer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_the_rate_term_buys_bits_with_distortion(backbone, tmp_path):
    def bits(rate):
        settings = settings_for(tmp_path, noise="anchored", timesteps="grid", train_steps=50, lambda_rate=rate,
                                lambda_rate_warmup=10, lr=0.02, init_bits=4.0, decode_steps=1)
        fit(backbone, settings, tmp_path / str(rate))
        return eval((tmp_path / str(rate) / "log.jsonl").read_text().splitlines()[-1])["bits"]
    assert bits(1.0) < bits(1e-6) - 0.3


def test_two_processes_see_the_batch_that_one_sees_with_twice_the_accumulation(backbone, tmp_path):
    """Without processes: what the two of them draw, put together, is what the one draws."""
    alone = settings_for(tmp_path, accum_step=4)
    halves = [settings_for(tmp_path, accum_step=2)] * 2
    drawn = []
    for settings, world in [(alone, World()), (halves[0], World(0, 2)), (halves[1], World(1, 2))]:
        encoder = encoder_for(backbone, settings, World())
        job = Fit(encoder.model, encoder.items, settings, tmp_path, FitContext(world=world))
        job.step = dict
        job.advance(5)
        drawn.append(sorted((float(t), float(n.sum())) for t, n in
                            zip(job.buffers["time"], job.buffers["noise"], strict=True)))
        encoder.close()
    assert drawn[0] == sorted(drawn[1] + drawn[2])


def test_one_sample_is_the_whole_batch_when_noise_and_time_are_fixed(backbone, tmp_path):
    settings = settings_for(tmp_path, noise="anchored", timesteps="grid", decode_steps=1, batch_size=4, accum_step=3)
    encoder = encoder_for(backbone, settings)
    job = Fit(encoder.model, encoder.items, settings, tmp_path)
    encoder.close()
    assert (job.passes.batch, job.passes.count) == (1, 1)


def test_a_loss_that_is_not_finite_stops_with_the_cure(backbone, tmp_path):
    settings = settings_for(tmp_path, lr=1e30, lr_warmup=0, train_steps=30, save_every=100)
    with pytest.raises(VovError, match="lower `lr`"):
        fit(backbone, settings, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_recomputation_changes_memory_not_gradients(tiny_wan, tmp_path, mode):
    thetas = []
    for checkpointing in ("none", mode):
        backbone = WanBackbone.load(str(tiny_wan), "unused", "cpu")
        settings = settings_for(tmp_path, checkpointing=checkpointing, train_steps=2)
        thetas.append(fit(backbone, settings, tmp_path / checkpointing).theta)
    assert torch.equal(*thetas)


def test_auto_plans_a_graph_for_small_and_compilation_for_large_models():
    small, gpu, cpu = torch.nn.Linear(4, 4), torch.device("cuda"), torch.device("cpu")
    with torch.device("meta"):
        large = torch.nn.Linear(20000, 20000)
    assert speed.plan(small, gpu, "auto", "auto") == ("none", "graph")
    assert speed.plan(large, gpu, "auto", "auto") == ("selective", "blocks")
    assert speed.plan(small, cpu, "auto", "auto") == ("none", "never")


class LinearDecoder:
    """A backbone whose VAE decoder is a known linear map: pixels = M · latents, each later frame four times."""

    def __init__(self, mixing):
        self.mixing = mixing

    def fingerprint(self):
        return self.mixing.numpy().tobytes()

    def decode_pixels(self, latents):
        pixels = torch.einsum("pc,bcthw->bpthw", self.mixing, latents)
        return torch.cat([pixels[:, :, :1], pixels[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)


def test_pixel_weights_measure_latent_errors_as_the_decoder_does():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 8, generator=generator) * torch.logspace(-0.6, 0.6, 8)
    decoder, latents = LinearDecoder(mixing), torch.randn(1, 8, 3, 20, 20, generator=generator)
    weights = pixel_weights(decoder, latents)
    ratios = []
    for scale in ([1] * 8, [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, -1], [5, -3, 0, 2, 0, 0, 0, 1]):
        error = torch.randn(latents.shape, generator=generator) * torch.tensor(scale).view(1, 8, 1, 1, 1)
        ratios.append(float(distortion(error, weights)) / float(decoder.decode_pixels(error).square().sum()))
    assert max(ratios) / min(ratios) < 1.35  # one scale for all: the weights know gains and correlations
    white = torch.randn(latents.shape, generator=generator)
    assert float(distortion(white, weights)) == pytest.approx(1.0, rel=0.15)
    assert float(distortion(white, None)) == pytest.approx(1.0, rel=0.05)
