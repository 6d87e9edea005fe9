"""Claims about the flow: exact on straight paths, of the promised order on curved ones, seeded."""

import math

import numpy as np
import pytest
import torch

from vov.fitting.samples import Training
from vov.model.flow import decoder_noise, euler, interpolate, sample, shift_sigma, sigma_grid, unipc


def test_grid_falls_from_one_to_zero_and_shift_one_is_linear():
    assert sigma_grid(4, 1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    grid = sigma_grid(50, 3.0)
    assert grid[0] == 1 and grid[-1] == 0 and grid == sorted(set(grid), reverse=True)
    assert shift_sigma(0.5, 3.0) == pytest.approx(0.75)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_flow_is_integrated_exactly(sampler, steps):
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    result = sample(lambda x, t: noise - x0, noise, sigma_grid(steps, 3.0), sampler)
    assert torch.allclose(result, x0, atol=1e-5)


def _gaussian_flow(spread: float):
    """Exact velocity when x0 ~ N(0, spread²): E[ε − x0 | x_t] is linear in x_t."""
    def velocity(x, t):
        a, b = 1 - t, t
        return x * (b - a * spread**2) / (a * a * spread**2 + b * b)
    return velocity


def test_samplers_transport_a_gaussian_and_unipc_needs_fewer_steps():
    noise, spread = decoder_noise(0, (1, 2, 16, 16)), 0.3
    target = noise * spread  # the exact map between the two Gaussians
    velocity = _gaussian_flow(spread)
    errors = {steps: (euler(velocity, noise, sigma_grid(steps, 1.0)) - target).abs().max() for steps in (20, 40)}
    assert 1.6 < errors[20] / errors[40] < 2.4  # first order
    assert (unipc(velocity, noise, sigma_grid(20, 1.0)) - target).abs().max() < errors[20] / 3


def test_noise_can_be_injected_after_every_step():
    seen = []

    def inject(i, x, x0):
        seen.append(i)
        return x + 1

    x = euler(lambda x, t: torch.zeros_like(x), torch.zeros(3), sigma_grid(5, 1.0), inject)
    assert seen == [0, 1, 2, 3, 4] and torch.equal(x, torch.full((3,), 5.0))


def test_interpolation_ends_are_data_and_noise():
    x0, noise = torch.randn(2, 4), torch.randn(2, 4)
    assert torch.equal(interpolate(x0, noise, torch.tensor([0.0, 1.0]))[0], x0[0])
    assert torch.equal(interpolate(x0, noise, torch.tensor([0.0, 1.0]))[1], noise[1])


def test_grid_times_are_the_decoders_and_are_visited_evenly():
    sigmas = sigma_grid(4, 3.0)
    training = Training("anchored", "grid", sigmas, 3.0, seed=1)
    times = [training.time(step, n, 2) for step in range(4) for n in range(2)]
    assert sorted(times) == sorted(sigmas[:-1] * 2)
    assert not training.constant and Training("anchored", "grid", sigma_grid(1, 3), 3.0, 1).constant


def test_what_a_sample_sees_depends_on_seed_step_and_number_alone():
    a = Training("mix", "shifted", sigma_grid(4, 3.0), 3.0, seed=5)
    b = Training("mix", "shifted", sigma_grid(4, 3.0), 3.0, seed=5)
    assert a.time(7, 3, 8) == b.time(7, 3, 2)
    together = a.draw(7, [3, 4], (2, 5))
    assert torch.equal(together[:1], b.draw(7, [3], (2, 5))) and torch.equal(together[1:], b.draw(7, [4], (2, 5)))
    assert not torch.equal(together[0], together[1])
    share = np.mean([a.anchored(0, n) for n in range(400)])
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_shifted_times_have_the_shifted_distribution():
    training = Training("random", "shifted", sigma_grid(1, 3.0), 3.0, seed=2)
    times = np.array([training.time(0, n, 1) for n in range(2000)])
    # P(σ' < s) = s / (shift − (shift − 1)·s)
    for level in (0.25, 0.5, 0.75):
        assert abs((times < level).mean() - level / (3 - 2 * level)) < 0.04
