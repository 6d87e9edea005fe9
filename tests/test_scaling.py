"""Coded noise: the step's mathematics, candidates, the noise section."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from vov import VovError
from vov.bitstream.noise_code import FIELDS, SINCE, TRELLIS, NoiseCode
from vov.bitstream.reader import varint
from vov.decoding.replay import TEXTURE_STEPS, Candidates, Replay, diffuse, levels, stochastic_step, textured
from vov.model.flow import decoder_noise, euler, sigma_grid
from vov.noise.options import ScalingConfig
from vov.runtime.random import Stream, normal, words_batch


def make_code(plan, bits=4, signed=1, kind=0, block=0, eta=64, first=0, items=1, **more):
    plan = np.asarray(plan)
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 1 << bits + signed, (items, plan.sum()), dtype=np.int32)
    theta_steps, start, end = (more.get(name, 0) for name in ("theta_steps", "start", "end"))
    branch = min(bits + signed, 3) if kind == TRELLIS else 0
    return NoiseCode(kind, bits, signed, block, eta, first, len(plan), theta_steps, start, end, plan,
                     symbols >> bits + signed - branch if branch else symbols, branch)


def make_header(steps=8, **more):
    return SimpleNamespace(**{"decode_steps": steps, "sigmas": (), "sampler": "euler", **more})


# --- the stochastic step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "after"), [(0.9, 0.8), (0.5, 0.1), (1.0, 0.7), (0.05, 0.04)])
def test_posterior_is_the_conditional_of_the_noising_chain(now, after):
    """With eta = 1 the step with the true x0 is q(x_after | x_now, x0), from the joint Gaussian of the chain."""
    x0, x = 0.7, -0.4
    decay = (1 - now) / (1 - after)
    extra = now**2 - (decay * after) ** 2  # variance that the chain adds between the levels
    gain = decay * after**2 / (decay**2 * after**2 + extra)
    mean = (1 - after) * x0 + gain * (x - (1 - now) * x0)
    variance = after**2 * (1 - gain * decay)
    step = stochastic_step(now, after, 1.0)
    assert step.g**2 == pytest.approx(variance, rel=1e-9)
    noise = (x - (1 - now) * x0) / now
    assert (1 - after) * x0 + step.keep * noise == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0])
def test_log_ratio_is_linear_in_the_noise(eta):
    torch.manual_seed(0)
    x, x0, guess, z = torch.randn(4, 5, dtype=torch.float64)
    now, after = 0.6, 0.45
    step = stochastic_step(now, after, eta)

    def law(clean):
        noise = (x - (1 - now) * clean) / now
        return MultivariateNormal((1 - after) * clean + step.keep * noise, step.g**2 * torch.eye(5).double())

    p, q = law(guess), law(x0)
    state = p.mean + step.g * z
    drift = step.drift * (x0 - guess)
    expected = drift @ z - drift @ drift / 2
    assert torch.allclose(q.log_prob(state) - p.log_prob(state), expected, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_marginals_are_those_of_the_flow(eta):
    """Data N(1, 0.5²): every level of the sampler has mean 1 − t and variance (1 − t)²·0.25 + t²."""
    mean, variance = 1.0, 0.25
    sigmas = sigma_grid(200, 1.0)
    seen = {}

    def velocity(x, t):
        total = (1 - t) ** 2 * variance + t * t
        x0 = mean + (1 - t) * variance / total * (x - (1 - t) * mean)
        return (x - x0) / t

    def after_step(i, x, x0):
        step = stochastic_step(sigmas[i], sigmas[i + 1], eta)
        if step.g:
            x = diffuse(x, x0, sigmas[i + 1], step, normal(3, (Stream.OTHER, i), x.shape))
        seen[i] = x
        return x

    euler(velocity, normal(1, Stream.OTHER, (20000,)), sigmas, after_step)
    for i in (0, 50, 100, 150, 199):
        t = sigmas[i + 1]
        law = Normal((1 - t) * mean, ((1 - t) ** 2 * variance + t * t) ** 0.5)
        assert float(seen[i].mean()) == pytest.approx(float(law.mean), abs=0.03)
        assert float(seen[i].std()) == pytest.approx(float(law.stddev), rel=0.03)


def test_no_noise_is_the_euler_step_and_the_first_step_forgets():
    assert stochastic_step(0.6, 0.5, 0.0).keep == 0.5
    assert stochastic_step(1.0, 0.5, 1.0).g == 0.5
    assert stochastic_step(0.1, 0.0, 1.0).g == 0.0
    assert stochastic_step(0.6, 0.5, 50.0).g == 0.5  # never more noise than the level holds


# --- candidates -----------------------------------------------------------------------------------------------------


def drawn(kind, candidates, block, atom, label, length):
    """Candidate `label` >> 1 of an atom of step 2, from its stream alone."""
    if kind == 0:
        return normal(7, (Stream.CANDIDATE, 42, block, (atom << 4) + (label >> 1)), length)
    vector = torch.roll(normal(7, (Stream.CANDIDATE, 42, block, atom if kind == 1 else atom // 32), length), label >> 1)
    if kind == 1:
        return vector * candidates.vectors(2, torch.tensor([block]), torch.tensor([atom]))[2][0]
    words = words_batch(7, (Stream.CANDIDATE, 42, block), [atom // 32], length)[0]
    return vector * (1 - 2 * (words >> atom % 32 & 1))


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("block", [0, 32])
def test_assembled_noise_is_the_signed_sum_of_single_streams(kind, block):
    code = make_code([[2, 0, 35, 1]] if block else [[3]], kind=kind, block=block)
    candidates = Candidates(code, 7, 100, 40, "cpu")
    z = candidates.assemble(2, code.plan[0], code.symbols[0])
    assert z.shape == (100,)
    at = 0
    for b, atoms in enumerate(code.plan[0]):
        length = block or 100
        total, label = torch.zeros(length), 0
        for atom in range(max(1, atoms)):
            symbol = int(code.symbols[0, at]) if atoms else 0
            at += int(atoms > 0)
            label = (label << code.branch | symbol) % 32 if code.branch else symbol
            total += drawn(kind, candidates, b, atom, label, length) * (1 - 2 * (label & 1))
        total /= max(1, atoms) ** 0.5
        assert torch.allclose(z[b * length:][:length], total[:100 - b * length], atol=1e-5)


def test_noise_has_unit_variance():
    for kind in (0, 1, 2):
        code = make_code([[64]], kind=kind)
        z = Candidates(code, 7, 20000, 0, "cpu").assemble(0, code.plan[0], code.symbols[0])
        assert float(z.std()) == pytest.approx(1, abs=0.03)


def test_items_and_steps_have_noise_of_their_own():
    code = make_code([[1], [1]], bits=1, items=2)
    code = dataclasses.replace(code, symbols=np.zeros_like(code.symbols))
    sigmas = sigma_grid(4, 1.0)
    seen = []
    for item in (0, 1):
        hook = Replay(code, sigmas, 5, item)
        seen += [hook(i, torch.zeros(1, 1, 64), torch.zeros(1, 1, 64)) for i in (0, 1)]
    assert len({tuple(x.flatten().tolist()) for x in seen}) == 4


# --- the noise section ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [
    make_code([[1]] * 5, bits=10, signed=0, first=2),
    make_code([[8, 0, 0], [0, 0, 0], [3, 3, 1]], block=40, kind=1, bits=5, eta=80),
    make_code([[0]] * 3),
    make_code([[900], [0], [3]], kind=2, bits=6),
    make_code([[4096]], kind=2, bits=6),
    make_code([[4]] * 2, items=3, theta_steps=1, start=512, end=307),
])
def test_section_round_trip(code):
    again = NoiseCode.from_bytes(code.to_bytes(), make_header(), 100, len(code.symbols))
    for field in dataclasses.fields(NoiseCode):
        assert np.array_equal(getattr(again, field.name), getattr(code, field.name)), field.name


def test_sections_of_version_1_are_read():
    code = make_code([[4]] * 2, start=512)
    data = bytearray(code.to_bytes())
    place = 1 + sum(len(varint(getattr(code, name))) for name in FIELDS if name not in SINCE)
    assert data[0] == 2 and data[place] == 0  # what needs no version 3 is written as before
    del data[place]
    data[0] = 1
    again = NoiseCode.from_bytes(bytes(data), make_header(), 100)
    assert again.start == 512 and again.end == 0 and np.array_equal(again.symbols, code.symbols)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (512, 0), (0, 307), (512, 307)])
def test_levels_keep_the_number_of_steps(start, end):
    found = levels(make_header(8, shift=3.0), start, end)
    assert len(found) == 9 and found == sorted(found, reverse=True) and found[0] == 1 and found[-1] == 0
    assert not start or found[1] == start / 1024
    assert not end or found[-2] == end / 1024


def test_paper_scheme_costs_ten_bits_a_step():
    code = make_code([[1]] * 250, bits=10, signed=0)
    assert len(code.to_bytes()) <= 250 * 10 / 8 + 20


def test_hostile_sections_are_refused():
    data = make_code([[8, 0, 0], [0, 0, 0], [3, 3, 1]], block=40, bits=5).to_bytes()
    rng = np.random.default_rng(1)
    for _ in range(500):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        damaged = bytes(damaged[: rng.integers(1, len(data) + 1)])
        try:
            NoiseCode.from_bytes(damaged, make_header(), 100)
        except VovError as error:
            assert "noise" in str(error)
    for header in (make_header(2), make_header(sampler="unipc"), make_header(sigmas=(1.0, 0.0))):
        with pytest.raises(VovError):
            NoiseCode.from_bytes(data, header, 100)


def test_replay_ignores_steps_that_are_not_coded():
    code = make_code([[1], [0], [1]], first=3)
    x = decoder_noise(1, (1, 2, 3, 4, 5))
    hook = Replay(code, sigma_grid(8, 3.0), 1)
    for i in range(8):
        assert torch.equal(hook(i, x, x), x) == (i not in (3, 5))


def test_atoms_name_the_shifts_of_a_small_latent_and_the_paper_1024_candidates_of_any():
    assert [ScalingConfig().code(3, size, 1).bits for size in (16, 1 << 20, 1 << 28)] == [4, 20, 24]
    assert ScalingConfig(scheme="paper").code(3, 16, 1).bits == 10


def test_texture_puts_the_last_jump_off_and_leaves_the_coded_steps():
    grid = [1.0, 0.8, 0.4, 0.0]
    assert textured(grid, 0.0) == grid
    half = textured(grid, 0.5)
    assert half[:3] == grid[:3] and half[-2:] == [pytest.approx(0.2), 0.0] and len(half) == len(grid) + TEXTURE_STEPS
    whole = textured(grid, 1.0)
    assert all(a > b for a, b in itertools.pairwise(whole)) and whole[-1] == 0 and len(whole) == 3 + TEXTURE_STEPS
