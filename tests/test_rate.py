"""Claims about the quantiser and the rate model."""

import math

import numpy as np
import pytest
import torch

from vov import VovError
from vov.adapter.quantiser import from_symbols, theta_hat
from vov.fitting.rate import (
    RateModel,
    empirical_bits,
    quantiser_noise,
    soft_round,
    softness,
)
from vov.runtime.random import normal


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors are small here: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gaussian(n=4096, std=0.02, seed=0):
    return normal(seed, 7, n) * std


def test_soft_rounding_goes_from_the_value_to_the_rounded_one():
    x = torch.linspace(-2.4, 2.4, 49).requires_grad_()
    mild, steep = soft_round(x, 10.0), soft_round(x, 0.05)
    assert torch.allclose(mild, x, atol=1e-3)
    off = (x - torch.floor(x) - 0.5).abs() > 0.2  # away from the steps between two integers
    assert torch.allclose(steep[off], torch.round(x)[off], atol=1e-3)
    assert torch.allclose(soft_round(torch.tensor([-1.0, 0.0, 3.0]), 0.3), torch.tensor([-1.0, 0.0, 3.0]))
    (slope,) = torch.autograd.grad(mild.sum(), x)
    assert torch.allclose(slope, torch.ones(49), atol=2e-3)


def test_rounding_grows_steeper_and_is_straight_through_in_the_end():
    temperatures = [softness(step / 100) for step in range(1, 101)]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] == pytest.approx(0.5, rel=0.03) and temperatures[78] == pytest.approx(0.1, rel=0.03)
    assert set(temperatures[80:]) == {0.0}


def test_theta_is_softly_rounded_while_there_is_a_temperature():
    theta = torch.tensor([0.013, 0.027, -0.004], requires_grad=True)
    model = RateModel(step=0.01)
    noise = torch.zeros(3)
    hard, bits = model(theta, noise)
    soft, same = model(theta, noise, torch.tensor(0.3))
    assert torch.equal(model(theta, noise, torch.tensor(0.0))[0], hard) and torch.equal(bits, same)
    between = (soft - hard).abs()
    assert (between > 1e-5).all() and ((soft - hard) * (theta - hard) > 0).all() and (between < 0.005).all()
    (slope,) = torch.autograd.grad(model(theta, noise, torch.tensor(0.0))[0].sum(), theta)
    assert torch.equal(slope, torch.ones(3))  # straight-through, and no NaN from the way that was not taken


def test_round_is_the_published_quantiser():
    theta = torch.tensor([0.0, 0.12, -0.12, 0.26, 99.0, -99.0])
    assert theta_hat(theta, 0.1, "round").tolist() == pytest.approx([0, 0.1, -0.1, 0.3, 12.8, -12.8])


def test_ste_gives_the_rounded_value_bit_for_bit():
    theta = gaussian(100_000, std=1.0)
    for step in (0.003, 0.02, 0.3, 5.0):
        assert torch.equal(theta_hat(theta, step, "ste"), theta_hat(theta, step, "round"))


def test_the_decoder_gets_what_the_encoder_rounded():
    theta = gaussian(100_000)
    model = RateModel.from_theta(theta, 2.0)
    rounded = model.theta_hat(theta, "round").detach()
    assert torch.equal(from_symbols(model.symbols(theta).numpy(), model.step_value), rounded)
    assert torch.equal(model.theta_hat(theta, "ste"), rounded)


def test_symbols_stay_in_range():
    model = RateModel(step=0.01)
    symbols = model.symbols(torch.tensor([-1e9, -1.285, 0.004, 1e9]))
    assert symbols.dtype == torch.int32 and symbols.tolist() == [-128, -128, 0, 128]


def test_ste_gradient_is_identity_inside_and_zero_outside():
    theta = torch.tensor([0.013, -0.26, 5.0, -5.0], requires_grad=True)
    theta_hat(theta, 0.01, "ste").sum().backward()
    assert theta.grad.tolist() == [1, 1, 0, 0]


def test_ste_gradient_of_the_step():
    """d θ̂ / d step = round(y) - y inside the range (as LSQ, Esser et al. 2020), ±128 outside."""
    step = torch.tensor(0.01, requires_grad=True)
    theta_hat(torch.tensor([0.013, 5.0]), step, "ste").sum().backward()
    assert float(step.grad) == pytest.approx(1 - 1.3 + 128, abs=1e-4)


def test_noise_mode_gradients_match_finite_differences():
    theta = (gaussian(64, std=0.03)).double()
    noise = quantiser_noise(1, 2, theta).double()
    step = torch.tensor(0.01, dtype=torch.float64)
    weights = gaussian(64, std=1.0, seed=3).double()

    def loss(theta, step):  # quantise computes in float32, so differences need a coarse eps
        return (theta_hat(theta, step, "noise", noise).double() * weights).sum()

    theta.requires_grad_()
    step.requires_grad_()
    loss(theta, step).backward()
    eps = 1e-3
    for i in range(0, 64, 9):
        shift = torch.zeros(64, dtype=torch.float64)
        shift[i] = eps
        with torch.no_grad():
            slope = (loss(theta + shift, step) - loss(theta - shift, step)) / (2 * eps)
        assert float(theta.grad[i]) == pytest.approx(float(slope), abs=2e-3)
    with torch.no_grad():
        slope = (loss(theta, step + 1e-4) - loss(theta, step - 1e-4)) / 2e-4
    assert float(step.grad) == pytest.approx(float(slope), abs=2e-2)


def test_gradients_of_the_bits_match_finite_differences():
    theta = gaussian(256)
    model = RateModel.from_theta(theta, 2.5)
    with torch.no_grad():  # leave the logistic starting point
        for i, parameter in enumerate(model.parameters()):
            if parameter.dim() and i:
                parameter.add_(0.3 * normal(5, (7, i), parameter.shape))
    noise = quantiser_noise(0, 0, theta)
    theta.requires_grad_()
    model.bits(theta, noise).backward()

    def bits(theta, raw_shift=0.0):
        with torch.no_grad():
            model.scale_quant.add_(raw_shift)
            value = float(model.bits(theta, noise))
            model.scale_quant.sub_(raw_shift)
        return value

    direction = normal(9, 7, 256)
    eps = 3e-5
    slope = (bits(theta + eps * direction) - bits(theta - eps * direction)) / (2 * eps)
    assert float((theta.grad * direction).sum()) == pytest.approx(slope, rel=0.01)
    slope = (bits(theta, 0.02) - bits(theta, -0.02)) / 0.04
    assert float(model.scale_quant.grad) == pytest.approx(slope, rel=0.01)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_density_is_compressais():
    model = RateModel(0.01, 3.0)
    values = torch.linspace(-12, 12, 97)
    likelihood = model.bit_estimator._likelihood(values.reshape(1, 1, -1))[0].flatten()
    assert torch.allclose(model.symbol_bits(values), -torch.log2(likelihood), atol=2e-4)


def test_the_symbols_probabilities_sum_to_one():
    model = RateModel(0.01, 3.0)
    assert float((2 ** -model.symbol_bits(torch.arange(-300.0, 301.0))).sum().detach()) == pytest.approx(1, abs=1e-4)


def test_far_symbols_have_finite_bits_and_a_gradient_that_pulls_them_in():
    theta = torch.tensor([1.2, -1.2], requires_grad=True)
    model = RateModel(step=0.01, spread=1.0)
    bits = model.bits(theta, torch.zeros(2))
    bits.backward()
    assert 100 < float(bits.detach()) < 2000
    assert theta.grad[0] > 0 > theta.grad[1] and theta.grad.isfinite().all()


@pytest.mark.parametrize("bits_per_entry", [0.3, 1.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("shape", ["gaussian", "uniform", "laplace"])
def test_the_rate_is_right_from_the_first_step(shape, bits_per_entry):
    theta = gaussian(16384)
    if shape == "uniform":
        theta = torch.special.ndtr(theta / 0.02) * 0.04 - 0.02
    if shape == "laplace":
        theta = theta * gaussian(16384, 50.0, seed=1).abs()
    model = RateModel.from_theta(theta, bits_per_entry)
    assert empirical_bits(model.symbols(theta)) / 16384 == pytest.approx(bits_per_entry, abs=0.02)
    noisy = float(model.bits(theta, quantiser_noise(0, 0, theta)).detach()) / 16384
    assert bits_per_entry - 0.05 < noisy < bits_per_entry + 0.5 * 2**-bits_per_entry + 0.35
    rounded = float(model.bits(theta, None).detach()) / 16384
    assert bits_per_entry - 0.05 < rounded < bits_per_entry + 0.35


def test_the_density_learns_the_entropy():
    """After a short fit of the density alone the estimate lies within 3 % of the noisy symbols' entropy."""
    theta = gaussian(2048)
    theta = torch.where(theta > 0, theta + 0.05, theta - 0.05)  # two humps, far from the logistic start
    model = RateModel.from_theta(theta, 2.5)
    optimiser = torch.optim.Adam(model.parameter_groups(0.0, 0.03))
    for step in range(200):
        optimiser.zero_grad()
        loss = model.bits(theta, quantiser_noise(0, step, theta)) / 2048
        loss.backward()
        optimiser.step()
    scaled = theta / model.step.detach()
    edges = torch.arange(-30, 30, 0.05)
    mixture = ((scaled[:, None] < edges + 0.5) & (scaled[:, None] >= edges - 0.5)).float().mean(0)
    entropy = float(-(mixture[mixture > 0] * mixture[mixture > 0].log2()).sum() * 0.05)
    assert float(loss) == pytest.approx(entropy, rel=0.03)


def test_bits_do_not_touch_the_global_generator_and_repeat():
    before = torch.random.get_rng_state()
    theta = gaussian()
    noise = quantiser_noise(3, 14, theta)
    first = RateModel.from_theta(theta, 2.0).bits(theta, noise)
    second = RateModel.from_theta(theta, 2.0).bits(theta, noise)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
    assert noise.min() >= -0.5 and noise.max() < 0.5


def test_autocast_does_not_change_the_bits():
    theta = gaussian()
    model, noise = RateModel.from_theta(theta, 2.0), quantiser_noise(0, 0, theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model(theta, noise)
    outside = model(theta, noise)
    assert torch.equal(inside[0], outside[0]) and torch.equal(inside[1], outside[1])


def test_the_step_is_the_one_asked_for():
    for step in (1e-6, 0.003, 0.7, 40.0):
        assert RateModel(step).step_value == pytest.approx(step, rel=1e-5)


def test_empirical_bits_is_the_order_0_entropy():
    assert empirical_bits(np.zeros(100, np.int32)) == 0
    assert empirical_bits(np.array([], np.int32)) == 0
    assert empirical_bits(torch.tensor([0, 1] * 50)) == pytest.approx(100)
    assert empirical_bits(np.array([0, 0, 0, 5])) == pytest.approx(4 * (2 - 0.75 * math.log2(3)))


def test_reference_checkpoints_load_under_both_compressai_namings():
    source, target = RateModel(0.05, 7.0), RateModel()
    new = {f"unilora_{name}": value for name, value in source.state_dict().items()}
    old = {
        key.replace(".matrices.", "._matrix").replace(".biases.", "._bias").replace(".factors.", "._factor"): value
        for key, value in new.items()
    }
    assert any("_matrix0" in key for key in old)
    for tensors in (new, old):
        target = RateModel()
        unused = target.load_reference({**tensors, "unilora_theta_d": torch.zeros(4)})
        assert "unilora_theta_d" in unused and not any(".matrices" in key or "scale_quant" in key for key in unused)
        for mine, theirs in zip(target.parameters(), source.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_scale_saved_with_one_dimension_loads():
    model = RateModel()
    assert model.load_reference({"unilora_scale_quant": torch.tensor([-3.0])}) == []
    assert model.step_value == pytest.approx(math.log1p(math.exp(-3.0)))


def test_bad_input_is_one_line():
    with pytest.raises(VovError, match="constant"):
        RateModel.from_theta(torch.zeros(8), 2.0)
    with pytest.raises(VovError, match="finite"):
        RateModel.from_theta(torch.tensor([1.0, math.nan]), 2.0)
    with pytest.raises(VovError, match="between"):
        RateModel.from_theta(torch.tensor([1.0, 2.0]), 9.0)
    with pytest.raises(ValueError, match="mode"):
        theta_hat(torch.zeros(2), 1.0, "floor")
    with pytest.raises(ValueError, match="noise"):
        theta_hat(torch.zeros(2), 1.0, "noise")
