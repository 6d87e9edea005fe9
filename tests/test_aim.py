"""Claims about the directions that candidates are chosen by."""

import pytest
import torch

from vov.scaling.aim import Aim
from vov.scaling.replay import stochastic_step


def aimed(score, until=0.0):
    """The direction and its worth of a step from a model whose guess is a fixed matrix times the state."""
    torch.manual_seed(0)
    mixing = torch.randn(4, 4) / 2
    target, x = torch.randn(1, 4, 1, 2, 2), torch.randn(1, 4, 1, 2, 2)

    def velocity(x, t):  # x̂0 = x − t·v = M x
        return (x - torch.einsum("ij,bjthw->bithw", mixing, x)) / t

    aim, step = Aim(velocity, target, score, None, until=until), stochastic_step(0.8, 0.7, 1.0)
    v = aim.velocity(x, 0.8)
    guess = x - 0.8 * v
    direction, worth = aim.direction(step, guess)
    error = target - guess
    return direction, worth, error, torch.einsum("ji,bjthw->bithw", mixing, error), step


def unit(x):
    return x / x.norm()


def test_pixel_follows_the_error_and_lookahead_its_gradient():
    direction, _, error, _, _ = aimed("pixel")
    assert torch.allclose(unit(direction), unit(error), atol=1e-6)
    direction, _, error, pulled, _ = aimed("lookahead")
    assert torch.allclose(unit(direction), unit(pulled), atol=1e-6)


def test_blend_is_half_of_each_as_long_as_the_drift_and_worth_what_pixel_is_worth():
    direction, worth, error, pulled, step = aimed("blend")
    assert torch.allclose(unit(direction), unit(unit(error) + unit(pulled)), atol=1e-5)
    assert float(direction.norm()) == pytest.approx(float((step.drift * error).norm()), rel=1e-5)
    assert worth == pytest.approx(aimed("pixel")[1])


def test_below_a_level_blend_is_pixel():
    assert torch.equal(aimed("blend", until=0.9)[0], aimed("pixel")[0])
    assert not torch.equal(aimed("blend", until=0.5)[0], aimed("pixel")[0])
