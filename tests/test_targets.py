"""A file of the size or the quality that was asked for, the commands' own way, on the embedded and on tiny models."""

import dataclasses

import numpy as np
import pytest
from skimage import data as photographs

from vov import VovError, bitstream
from vov.bitstream.noise_code import NoiseCode
from vov.commands.options import ImageFit
from vov.decoding.decode import decode
from vov.media import resize
from vov.media.original import Original
from vov.metrics import psnr
from vov.model.qwen import QwenBackbone
from vov.noise import rate_control as rates
from vov.noise.items import NoiseRun, add_noise, frozen_file
from vov.noise.options import ScalingConfig

SETTINGS = ScalingConfig(steps=8, scaling_bytes=500, score="likelihood")
SIDE = 64


@pytest.fixture(scope="module")
def case():
    """(backbone, stream without noise, sources): two photographs and nano-image."""
    backbone = QwenBackbone.load("nano-image", "unused", "cpu")
    pictures = [photographs.astronaut()[:400, :400], photographs.coffee()[:400, 100:500]]
    sources = [Original(resize(one[None], SIDE, SIDE), 0.0, "", f"{number}.png") for number, one in enumerate(pictures)]
    fit = dataclasses.replace(ImageFit(), width=SIDE, height=SIDE, decode_steps=8, shift=0.0, resize="pad")
    return backbone, frozen_file(backbone, sources, fit), sources


def run(case, **asked):
    """(chosen, how many searches it took, the settings of the last one)."""
    backbone, stream, sources = case
    seen = []

    def search_once(settings, spend=0):
        seen.append(settings)
        return add_noise(stream, backbone, sources, settings, NoiseRun(spend=spend))

    chosen = rates.choose(dataclasses.replace(SETTINGS, **asked), stream, sources, backbone, search_once)
    return chosen, seen


@pytest.mark.parametrize("size", [400, 700, 1500])
def test_a_file_has_the_bytes_asked_for_and_not_one_more(case, size):
    chosen, seen = run(case, target_bytes=size)
    assert 0.97 * size <= len(bitstream.to_bytes(chosen.stream)) <= size and len(seen) == 1


def test_bits_a_pixel_count_every_byte_over_all_pixels(case):
    chosen, _ = run(case, target_bpp=1.0)
    assert 0.97 <= 8 * len(bitstream.to_bytes(chosen.stream)) / (2 * SIDE * SIDE) <= 1.0


@pytest.mark.parametrize("wanted", [19.0, 21.5])
def test_a_psnr_is_met_by_the_decoded_file(case, wanted, tmp_path):
    backbone, _, sources = case
    chosen, seen = run(case, target_psnr=wanted)
    bitstream.write(tmp_path / "x.vov", chosen.stream)
    decoded = decode(tmp_path / "x.vov", backbone)
    value = np.mean([psnr(source.frames, clip.frames) for source, clip in zip(sources, decoded, strict=True)])
    assert abs(value - wanted) <= rates.NEAR_DB + 0.01 and len(seen) <= rates.TRIES


@pytest.mark.parametrize(("asked", "said"), [
    (dict(target_bytes=60), "too few: the file takes"),
    (dict(target_kbps=8.0), "no duration"),
    (dict(target_psnr=60.0), "autoencoder alone gives"),
    (dict(target_bytes=900, target_psnr=20.0), "give one of them"),
    (dict(target_bytes=900, scheme="paper"), "`target_bytes` needs `scheme`=atoms"),
])
def test_what_cannot_be_had_is_said_in_one_line(case, asked, said):
    with pytest.raises(VovError, match=said) as caught:
        run(case, **asked)
    assert "\n" not in str(caught.value)


def test_the_most_that_can_be_had_is_said(case, monkeypatch):
    monkeypatch.setattr(rates, "MOST", 0.05)
    with pytest.raises(VovError, match=r"the most that this model gives with these settings is \d+\.\d\d dB"):
        run(case, target_psnr=25.0)


def jagged(seed):
    """A curve bytes → dB as small files of few steps have: 1.5 dB for twice the bytes, and at every per cent of bytes
    another plan, which moves it by 0.3 dB either way."""
    moves = np.random.default_rng(seed).normal(0, 0.3, 2000)
    return lambda spend: float(20 + 1.5 * np.log2(spend / 300) + moves[int(np.log(spend) / np.log(1.01))])


def seek(wanted, curve, least=10, most=10**5):
    """(the PSNR of what `aimed` gives, how many attempts it took)."""
    tried = []
    value = rates.aimed(wanted, 36, least, most, lambda spend: (curve(spend), tried.append(spend) or curve(spend)))
    assert len(set(tried)) == len(tried) <= rates.TRIES and min(tried) >= least and max(tried) <= most
    return value, len(tried)


def test_a_psnr_is_met_on_curves_that_jump_and_fall():
    cases = [(wanted, seed) for wanted in np.arange(18, 24, 0.5) for seed in range(20)]
    met = [abs(seek(wanted, jagged(seed))[0] - wanted) <= rates.NEAR_DB for wanted, seed in cases]
    assert np.mean(met) >= 0.94


def test_a_plan_whose_last_step_alone_is_cut_or_stretched_meets_what_no_plan_of_its_own_meets():
    def curve(spend):  # of whole plans: a jump of 1.4 dB at 500 bytes
        return 20 + 1.4 * (spend >= 500)

    def finer(spend, plan):
        spends.append((spend, plan))
        return curve(plan) + 3 * np.log2(spend / plan), (spend, plan)

    spends = []
    made = rates.aimed(20.9, 36, 10, 1000, lambda spend: (curve(spend), (spend, spend)), finer)
    assert made == spends[-1] and len(spends) <= 3 and {plan for _, plan in spends} == {made[1]}
    assert abs(curve(made[1]) + 3 * np.log2(made[0] / made[1]) - 20.9) <= rates.NEAR_DB


def test_only_the_last_step_is_cut_or_stretched(case):
    backbone, stream, sources = case
    codes, values, settings = [], [], dataclasses.replace(SETTINGS, end_level=0.4)
    for spend in (0, 440, 470, 530, 560):
        made, frames = add_noise(stream, backbone, sources, settings, NoiseRun(spend=spend))
        size = backbone.encode(sources[0].fitted(SIDE, SIDE, "pad")).numel()
        codes.append(NoiseCode.from_bytes(made.noise, made.header, size, len(sources)))
        values.append(rates.quality(frames, made, sources))
        assert not spend or 0.97 * spend <= len(made.noise) <= spend
    plain, *others = codes
    last = np.flatnonzero(plain.plan.any(1))[-1]
    before = int(plain.plan[:last].sum())
    for code in others:
        assert (code.plan[:last] == plain.plan[:last]).all() and (code.plan[last] != plain.plan[last]).any()
        assert before and (code.symbols[:, :before] == plain.symbols[:, :before]).all()
    assert values[1:] == sorted(values[1:]) and values[2] < values[0] < values[3]


def test_a_smooth_curve_takes_a_few_attempts():
    found = [seek(wanted, lambda spend: 14 + 3 * np.log2(spend / 36)) for wanted in np.arange(16, 30, 0.25)]
    assert max(attempts for _, attempts in found) <= 6


def test_a_jump_over_the_target_is_gone_around():
    def curve(spend):  # 21.4 dB at 500 bytes, 20 below; and what is wanted where one looks for it last
        return 20.7 if 515 <= spend <= 530 else 20 + 1.4 * (spend >= 500)

    assert seek(20.7, curve)[0] == 20.7


def test_what_no_size_gives_is_said_in_one_line_with_what_there_is(caplog):
    value, attempts = seek(20.6, lambda spend: 20.0 + (spend >= 500))
    assert value == 21.0 and attempts == rates.TRIES
    (said,) = caplog.messages
    assert said.startswith("`target_psnr`=20.6 is missed by 0.40 dB") and "\n" not in said
    assert "21.00 dB, which the file has, is the nearest, and 20.00 dB the nearest below; ask for one" in said
    caplog.clear()
    assert seek(20.0, lambda spend: 20.3)[0] == 20.3 and "the nearest; ask for one" in caplog.messages[0]


def test_what_lies_far_beyond_all_sizes_is_refused_at_once_and_what_is_near_is_looked_for():
    tried = []
    with pytest.raises(rates.OutOfReach, match=r"the most that this model gives with these settings is 20\.00 dB"):
        rates.aimed(22.0, 36, 10, 1000, lambda spend: (min(20.0, spend / 36), tried.append(spend)))
    assert len(tried) <= 5 and max(tried) == 1000
    assert seek(20.3, lambda spend: 20.25 if 800 < spend < 900 else 17 + 0.003 * spend, most=1000)[0] == 20.25


def test_the_next_try_lies_between_the_nearest_two_and_within_bounds():
    assert 100 < rates.following({100: 20.0, 400: 24.0}, 22.0, 10, 10**6) < 400
    assert rates.following({100: 20.0}, 40.0, 10, 300) == 300 and rates.following({100: 20.0}, 2.0, 60, 300) == 60
