"""Coded noise: the encoder's choice, and the commands, on an untrained 2-layer Wan."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from tests.test_fit import ball
from tests.tiny import build_wan
from vov import VovError, bitstream, media, metrics
from vov.bitstream.noise_code import TRELLIS, NoiseCode
from vov.commands.add_noise import AddNoiseVideo, add_noise_video
from vov.commands.options import ImageFit
from vov.decoding.decode import decode
from vov.decoding.replay import Candidates, entries
from vov.editing import edit as editing
from vov.fitting.encoder import Encoder
from vov.fitting.fit import Fitted
from vov.fitting.settings import FitConfig
from vov.media.original import Original
from vov.model import speed
from vov.model.qwen import QwenBackbone
from vov.model.wan import WanBackbone
from vov.noise.aim import Wanted
from vov.noise.allocate import allocate
from vov.noise.choose import Chooser, scores
from vov.noise.items import add_noise, frozen_file
from vov.noise.options import ScalingConfig
from vov.noise.trellis import walk
from vov.runtime.files import REPO

FIT = FitConfig(width=32, height=32, theta_length=300, last_k=2, decode_steps=4)
SCHEMES = ({"scheme": "paper"}, {"scheme": "atoms"}, {"scheme": "atoms", "scaling_bytes": 60, "score": "pixel"},
           {"scheme": "atoms", "score": "lookahead", "end_level": 0.4})
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def code(plan, bits, kind, block=0, signed=1, branch=2):
    return NoiseCode(kind, bits, signed, block, 64, 0, 1, 0, 0, 0, np.array([plan]),
                     branch=branch if kind == TRELLIS else 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def fit(model, tmp_path_factory):
    """A .vov file, and beside it the clip it was made from."""
    folder = tmp_path_factory.mktemp("fits")
    media.write_frames(folder / "ball", ball(5, 32, 32))
    encoder = Encoder(WanBackbone.load(str(model), "", "cpu"), [
        Original(ball(5, 32, 32), 8.0, "a red ball rolls")], FIT)
    encoder.write(folder / "ball.vov", FIT, Fitted(torch.linspace(-0.3, 0.3, 300), 0.01, folder))
    encoder.close()
    return folder / "ball.vov"


def with_noise(fit, backbone, **how):
    """A fitted file with coded noise for the clip it was made from."""
    clip = Original(ball(5, 32, 32), 8.0, "a red ball rolls")
    return add_noise(bitstream.read(fit), backbone, [clip], ScalingConfig(**how))[0]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("kind", "block"), [(0, 0), (0, 40), (1, 0), (1, 40), (2, 0), (2, 40)])
def test_scores_are_inner_products_with_the_vectors_that_the_decoder_draws(kind, block, device):
    made = Candidates(code([3] * (3 if block else 1), 5, kind, block), 9, 100, 0, device)
    blocks, atoms = (torch.from_numpy(v).to(device) for v in entries(made.code.plan[0]))
    wanted = torch.randn(len(blocks), made.block, generator=torch.Generator().manual_seed(0)).to(device)
    found = scores(made, 2, atoms, blocks, wanted)
    assert found.shape == (len(blocks), 32)
    for index in (0, 1, 7, 31):
        drawn = made.chosen(2, blocks, atoms, torch.full_like(blocks, index))
        assert torch.allclose(found[:, index], (drawn * wanted).sum(1), atol=0.01 if device == "cuda" else 1e-4)


@pytest.mark.parametrize("kind", [0, 1])
def test_chosen_atoms_add_up_to_the_expected_alignment(kind):
    """M atoms of K signed candidates lie about √(2·ln 2K·M) standard deviations along the direction."""
    count, size = 16, 4096
    made = Candidates(code([count], 10, kind), 3, size, 0, "cpu")
    wanted = torch.randn(1, size, generator=torch.Generator().manual_seed(1))
    blocks, atoms = map(torch.from_numpy, entries(made.code.plan[0]))
    score = scores(made, 0, atoms, blocks, wanted.expand(count, -1))
    best = score.abs().argmax(1)
    symbols = 2 * best + (score.gather(1, best[:, None])[:, 0] < 0)
    z = made.assemble(0, made.code.plan[0], symbols.numpy())
    assert float(z @ wanted[0] / wanted.norm()) == pytest.approx(math.sqrt(2 * math.log(2 << 10) * count), rel=0.15)


def test_the_path_through_a_trellis_is_the_best_of_all():
    made = code([4, 0, 3], 3, TRELLIS, block=16)
    scored = torch.randn(7, 8, generator=torch.Generator().manual_seed(2))
    table = torch.stack((scored, -scored), dim=-1).flatten(1)
    numbers = np.array([0, 1, 2, 3, 0, 1, 2])
    found = walk(made, zip(numbers.tolist(), scored, strict=True))

    def total(symbols, part):
        labels = made.labels(symbols, numbers[part])
        return sum(float(table[row, label]) for row, label in zip(part, labels, strict=True))

    for part in (range(4), range(4, 7)):
        every = [total(np.array(symbols), part) for symbols in itertools.product(range(4), repeat=len(part))]
        assert total(found[part], part) == pytest.approx(max(every))


def test_a_trellis_moves_the_state_further_than_shifts_of_the_same_bits():
    size, wanted = 4096, torch.randn(4096, generator=torch.Generator().manual_seed(1))
    reached = {}
    for name, made in (("shifts", code([16], 11, 1)), ("trellis", code([48], 11, TRELLIS, branch=4))):
        assert int(made.plan.sum()) * made.width == 192
        chooser = Chooser(made, [0.5, 0.4, 0.0], 3, 0, lambda *_: Wanted(*[wanted.view(1, 1, 1, 64, 64)] * 3))
        chooser(0, torch.zeros(1, 1, 1, 64, 64), torch.zeros(1, 1, 1, 64, 64))
        z = Candidates(made, 3, size, 0, "cpu").assemble(0, made.plan[0], chooser.chosen[0])
        reached[name] = float(z @ wanted / wanted.norm()) ** 2 / (2 * math.log(2) * 192)
    assert reached["shifts"] < 0.87 < reached["trellis"] < 1.05


def test_the_largest_trellis_of_a_large_latent_is_a_code_and_has_few_states():
    assert code([4096], 24, TRELLIS, branch=9).labels(np.ones(3, np.int32), np.arange(3)).tolist() == [1, 513, 262657]
    made = ScalingConfig(scaling_bytes=1000).code(40, 1 << 23, 1)
    assert made.bits == 23 and made.branch == 8


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_scaled_file_decodes_to_what_the_encoder_saw_on_any_device(model, fit, tmp_path, device):
    target, decoders = ball(5, 32, 32), [WanBackbone.load(str(model), "", d) for d in {"cpu", device}]
    for scheme in SCHEMES:
        output = tmp_path / "_".join(map(str, scheme.values())) / "x.vov"
        add_noise_video(AddNoiseVideo(bitstream=str(fit), original_frames_dir=str(fit.parent / "ball"), steps=6,
                                      output=str(output), model_id=str(model), device=device, **scheme))
        stream = bitstream.read(output)
        assert stream.header.decode_steps == 6 and stream.noise
        assert np.array_equal(stream.symbols, bitstream.read(fit).symbols)
        result = json.loads((output.parent / "result.json").read_text())
        for backbone in decoders:
            decoded = decode(output, backbone)[0].frames
            assert metrics.psnr(target, decoded) == pytest.approx(result["encoder_psnr"], abs=0.01)
        if "scaling_bytes" in scheme:
            assert len(stream.noise) <= 60


def test_an_original_of_another_size_is_refused(model, fit, tmp_path):
    media.write_frames(tmp_path / "large", ball(5, 40, 48))
    with pytest.raises(VovError, match=r"`original`=.*large: 40×48, but the file was made from 32×32"):
        add_noise_video(AddNoiseVideo(bitstream=str(fit), original_frames_dir=str(tmp_path / "large"), steps=6,
                                      output=str(tmp_path / "x.vov"), model_id=str(model), device="cpu"))
    assert not (tmp_path / "x.vov").exists()


def test_an_edit_that_replays_the_noise_reconstructs_what_the_file_decodes_to(model, fit, tmp_path):
    backbone, path = WanBackbone.load(str(model), "", "cpu"), tmp_path / "scaled.vov"
    for more in ({"end_level": 0.0}, {"end_level": 0.4}):
        bitstream.write(path, with_noise(fit, backbone, steps=6, **more))
        settings = editing.EditConfig(caption="a blue ball", replay_noise=True)
        reconstruction, edited = editing.edit(backbone, [editing.load(path, settings, "video")], settings)
        assert np.array_equal(reconstruction, decode(path, backbone)[0].frames)
        assert not np.array_equal(reconstruction, edited)


def test_recomputation_changes_no_choice(model, fit, monkeypatch):
    def found():
        backbone = WanBackbone.load(str(model), "", "cpu")
        noise = with_noise(fit, backbone, steps=4, scaling_bytes=60, score="lookahead").noise
        return type(backbone.transformer.blocks[0]).__name__, noise

    plain = found()
    monkeypatch.setattr(speed, "SMALL_MODEL", 0)
    large = found()
    assert plain[0] != large[0] == "Checkpointed" and plain[1] == large[1]


@pytest.mark.parametrize(("given", "problem"), [
    ({"end_level": 1.0}, "`end_level`=1: must be below 1$"), ({"end_level": 0.3, "steps": 1}, "more `steps` than 1"),
])
def test_settings_that_contradict_each_other_are_refused(given, problem):
    with pytest.raises(VovError, match=problem):
        ScalingConfig(**given).code(given.get("steps", 6), 1000, 1)


def test_a_budget_is_spent_where_it_is_worth_most_and_no_cell_gets_more_than_it_can_use():
    empty = code([1], 10, 1)
    empty = dataclasses.replace(empty, steps=4, plan=np.ones((4, 1), int))
    worth = np.array([[1.0], [2.0], [8.0], [0.0]])
    plan, spent = allocate(empty, np.full((4, 1), 1e6), worth, 100)
    size = len(plan.to_bytes()) + int(plan.plan.sum()) * 11 / 8
    assert spent and 85 < size <= 100 and plan.plan[3] == 0 and 6 <= plan.plan[2] / plan.plan[0] <= 10
    capped, spent = allocate(empty, np.full((4, 1), 16 * math.log(2 << 10)), worth, 1000)
    assert not spent and capped.plan[:3].tolist() == [[8], [8], [8]]
    with pytest.raises(VovError, match="5 bytes of noise are too few"):
        allocate(empty, np.full((4, 1), 1e6), worth, 5)
    for budget in range(500, 1500, 100):  # few cells: what levels leave is used between them
        plan, _ = allocate(empty, np.full((4, 1), 1e6), worth, budget)
        assert 0.985 * budget < len(plan.to_bytes()) + 4 + int(plan.plan.sum()) * 11 / 8 <= budget


def test_last_step_of_atoms_is_a_jump_unless_told_otherwise():
    for size, level in ((4000, 0.26), (2000, 0.15), (100, 0.1), (100_000, 0.55)):
        assert ScalingConfig(scaling_bytes=125).code(6, size, 1).end == round(level * 1024)
    assert ScalingConfig(scaling_bytes=125).code(6, 4000, 1, still=True).end == round(0.32 * 1024)
    assert not ScalingConfig(scheme="paper").code(6, 1000, 1).end and not ScalingConfig().code(2, 1000, 1).end


def test_the_last_jump_of_a_picture_follows_its_content():
    model, ends = QwenBackbone.load(str(REPO / "models" / "nano-image"), "", "cpu", "float32"), []
    for strength in (10, 120):
        pixels = 128 + strength * np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).repeat(4, 1).repeat(4, 2)
        picture = Original(pixels.astype(np.uint8), 0.0, "")
        empty = frozen_file(model, [picture], ImageFit(width=64, height=64, decode_steps=24))
        file, _ = add_noise(empty, model, [picture], ScalingConfig(scaling_bytes=120))
        ends.append(NoiseCode.from_bytes(file.noise, file.header, math.prod(model.latent_shape(64, 64, 1)), 1, "").end)
        assert 0.97 * 120 < len(file.noise) <= 120
    assert 102 <= ends[0] < ends[1] - 20
