"""The embedded models' training: the optimiser's update and what one VAE step changes."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from nano import parts, vae
from nano.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5 and values.max() < 1.3


def test_a_row_without_gradient_is_not_updated():
    matrices = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(1))
    matrices[:, 3] = 0
    assert orthogonalise(matrices)[0, 3].abs().max() == 0


def optimiser_of(model: nn.Module) -> Muon:
    return Muon(model, lambda _, p: p.ndim >= 2, lr=0.05, adam_lr=0.01)


def test_muon_fits_a_linear_map():
    torch.manual_seed(0)
    model, truth = nn.Linear(12, 6), nn.Linear(12, 6)
    optimiser, x = optimiser_of(model), torch.randn(64, 12)
    with torch.no_grad():
        target = truth(x)
    for step in range(200):
        optimiser.set_factor(1 - step / 200)
        optimiser.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-3


def test_a_gradient_that_is_not_finite_changes_nothing():
    model = nn.Linear(4, 4)
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = optimiser_of(model)
    (model(torch.full((1, 4), float("inf"))).sum()).backward()
    optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def small_vae():
    torch.manual_seed(0)
    model = parts.new_vae()
    vae.set_posterior(model)
    return model


def steps(model, count: int) -> list[float]:
    x = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    x = nn.functional.avg_pool3d(x, (1, 9, 9), 1, (0, 4, 4)) * 4  # smooth: noise cannot be learned
    optimiser = Muon(model, lambda _, p: p.ndim >= 4 and min(p.shape[0], p[0].numel()) >= 8, 0.02, 1e-3)
    step, generator = vae.Step(model, optimiser, 0.0, 0.5, "cpu"), torch.Generator().manual_seed(3)
    return [float(step(x, generator)[0].mean()) for _ in range(count)]


def test_vae_steps_lower_the_error():
    errors = steps(small_vae(), 8)
    assert errors[-1] < 0.8 * errors[0]


def test_training_the_decoder_alone_leaves_the_latents():
    model = small_vae()
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(False)
    x = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        before, decoded = vae.encode(model, x), vae.decode(model, vae.encode(model, x))
    steps(model, 1)
    with torch.no_grad():
        assert torch.equal(vae.encode(model, x), before)
        assert not torch.equal(vae.decode(model, before), decoded)
