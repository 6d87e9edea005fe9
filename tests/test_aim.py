"""Claims about the directions that candidates are chosen by."""

import pytest
import torch

from vov.decoding.replay import stochastic_step
from vov.noise.aim import Aim, unit


def aimed(score, every=1, steps=0):
    """What is wanted of a step from a model whose guess is a fixed matrix times the state, and what it follows from."""
    torch.manual_seed(0)
    mixing = torch.randn(4, 4) / 2
    target, x = torch.randn(1, 4, 1, 2, 2), torch.randn(1, 4, 1, 2, 2)

    def velocity(x, t):  # x̂0 = x − t·v = M x
        return (x - torch.einsum("ij,bjthw->bithw", mixing, x)) / t

    aim, step = Aim(velocity, target, score, None, every=every), stochastic_step(0.8, 0.7, 1.0)
    aim.steps = steps
    v = aim.velocity(x, 0.8)
    guess = x - 0.8 * v
    error = target - guess
    return aim.direction(step, guess, 1.0), error, torch.einsum("ji,bjthw->bithw", mixing, error), step


def test_pixel_follows_the_error_and_lookahead_its_gradient():
    wanted, error, _, step = aimed("pixel")
    assert torch.allclose(unit(wanted.direction), unit(error), atol=1e-6)
    assert torch.allclose(wanted.drift, step.drift * error) and torch.allclose(wanted.gain, step.g * error)
    wanted, error, pulled, step = aimed("lookahead")
    assert torch.allclose(unit(wanted.direction), unit(pulled), atol=1e-6)
    assert torch.allclose(wanted.drift, step.drift * error) and torch.allclose(wanted.gain, step.g * pulled, atol=1e-6)


def test_blend_is_half_of_each_and_gains_what_pixel_gains():
    wanted, error, pulled, step = aimed("blend")
    assert torch.allclose(unit(wanted.direction), unit(unit(error) + unit(pulled)), atol=1e-5)
    assert torch.allclose(wanted.gain, step.g * error)


def test_what_can_be_reached_is_the_move_that_leaves_the_least_weighted_error():
    torch.manual_seed(1)
    weights, importance = torch.randn(2, 4, 4), torch.rand(1, 1, 3, 2, 2)
    drift = torch.randn(1, 4, 3, 2, 2)
    aim = Aim(lambda x, t: x, drift, "pixel", weights, importance=importance)
    for reach in (0.5, 2.0, float(drift.norm()) * 0.9):
        moved = aim.reached(drift, reach)
        assert float(moved.norm()) == pytest.approx(reach, rel=1e-3)
        ascent = aim.weighted(drift - moved)  # at the best place on a sphere the gradient points outwards
        assert float((unit(ascent) * unit(moved)).sum()) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(aim.reached(drift, 1e3), drift, atol=1e-3)
    assert torch.allclose(unit(aim.reached(drift, 1e-3)), unit(aim.weighted(drift)), atol=1e-2)


def test_where_nothing_counts_nothing_is_wanted():
    importance = torch.ones(1, 1, 3, 2, 2)
    importance[:, :, 2] = 0
    aim, step = Aim(lambda x, t: x, torch.ones(1, 4, 3, 2, 2), "pixel", None, importance=importance), aimed("pixel")[3]
    for reach in (0.1, 100.0):
        wanted = aim.direction(step, torch.zeros(1, 4, 3, 2, 2), reach)
        assert all(not part[:, :, 2].any() and part[:, :, :2].all() for part in wanted)


def test_lookahead_every_third_step_is_pixel_in_the_others():
    found = [torch.equal(aimed("blend", every=3, steps=steps)[0][0], aimed("pixel")[0][0]) for steps in range(5)]
    assert found == [False, True, True, False, True]
