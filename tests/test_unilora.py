"""Claims about UniLoRA, with PEFT's implementation as the independent oracle."""

import copy

import numpy as np
import pytest
import torch
from peft import UniLoraConfig, get_peft_model
from torch import nn

from vov import VovError
from vov.adapter.unilora import Adapter, LoRALinear, Projection, RankOne, index_hash, index_stream, select_layers


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_out = nn.Linear(12, 12), nn.ModuleList([nn.Linear(12, 20)])
        self.ffn = nn.Linear(20, 12)

    def forward(self, x):
        return x + self.ffn(torch.tanh(self.to_out[0](self.to_q(x))))


class Model(nn.Module):
    def __init__(self, blocks=3):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def adapted(model, length=50, rank=2, last_k=3):
    adapter = Adapter(model, select_layers(model, "blocks", ["to_q", "to_out.0"], last_k))
    return adapter, adapter.projection(rank, length)


def test_indices_and_outputs_are_bit_identical_to_peft():
    torch.manual_seed(0)
    model = Model()
    oracle = get_peft_model(copy.deepcopy(model), UniLoraConfig(
        r=2, theta_d_length=50, proj_seed=42, target_modules=["to_q", "to_out.0"]))
    adapter, projection = adapted(model)
    theta = oracle.base_model.unilora_theta_d["default"].detach().clone()

    theirs = [m for m in oracle.modules() if hasattr(m, "unilora_indices_A")]
    flat = projection.index.split(projection.sizes)
    for i, module in enumerate(theirs):
        assert torch.equal(flat[2 * i].long().view(2, -1), module.unilora_indices_A["default"])
        assert torch.equal(flat[2 * i + 1].long().view(-1, 2), module.unilora_indices_B["default"])

    theta_ours = theta.clone().requires_grad_()
    x = torch.randn(5, 12)
    adapter.bind(projection.factors(projection.expand(theta_ours)))
    ours, reference = model(x), oracle(x)
    assert torch.equal(ours, reference)

    ours.square().sum().backward()
    reference.square().sum().backward()
    assert torch.allclose(theta_ours.grad, oracle.base_model.unilora_theta_d["default"].grad, rtol=1e-5, atol=1e-7)


def test_the_published_video_geometry_has_the_published_size():
    # Wan2.1-1.3B, qkvo, r = 1: 240 layers of 1536 × 1536 (method: D = 737,280).
    assert len(index_stream(240 * 2 * 1536, 131072, 42)) == 737_280


def test_every_entry_is_used_floor_or_ceil_times_and_seeds_matter():
    counts = np.bincount(index_stream(1003, 100, 42), minlength=100)
    assert set(counts) == {10, 11} and counts.sum() == 1003
    assert index_hash(index_stream(1003, 100, 42)) != index_hash(index_stream(1003, 100, 43))
    # NumPy's own stream is guarded: this constant may never change.
    assert index_hash(index_stream(1003, 100, 42)).hex() == "92f362471e629a5f"


@pytest.mark.parametrize(("slots", "length"), [(6, 20), (20, 20), (23, 5)])
def test_expand_keeps_energy_and_its_gradient_is_the_adjoint(slots, length):
    projection = Projection([(slots - 1, 1)], 1, length)
    theta = torch.randn(length, dtype=torch.float64, requires_grad=True)
    flat = projection.expand(theta)
    used = projection.scale > 0
    assert torch.allclose(flat.square().sum(), theta[used].square().sum(), rtol=1e-6)  # 1/√count makes it orthonormal
    grad = torch.randn(slots, dtype=torch.float64)
    flat.backward(grad)
    dense = torch.zeros(slots, length, dtype=torch.float64)
    dense[torch.arange(slots), projection.index.long()] = projection.scale.double()[projection.index.long()]
    assert torch.allclose(theta.grad, dense.T @ grad)


def test_zero_factors_leave_outputs_as_they_were_and_frozen_weights_never_change():
    model = Model()
    x = torch.randn(4, 12)
    before, expected = copy.deepcopy(model.state_dict()), model(x)
    adapter, projection = adapted(model)
    assert torch.equal(model(x), expected)
    theta = torch.full((50,), 0.1, requires_grad=True)
    optimiser = torch.optim.AdamW([theta], lr=0.1)
    for _ in range(3):
        adapter.bind(projection.factors(projection.expand(theta)))
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    assert not torch.allclose(model(x), expected)
    assert all(p.grad is None for p in model.parameters())
    adapter.remove()
    assert torch.equal(model(x), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_merge_is_w_plus_ba_idempotent_and_undone_to_the_bit():
    model = Model()
    x = torch.randn(4, 12)
    before = copy.deepcopy(model.state_dict())
    adapter, projection = adapted(model)
    factors = projection.factors(projection.expand(torch.randn(50)))
    adapter.bind(factors)
    expected = model(x)
    adapter.merge()
    merged = copy.deepcopy(adapter.layers[0].weight)
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert torch.allclose(merged, before["blocks.0.to_q.weight"] + factors[0][1] @ factors[0][0])
    adapter.merge()
    assert torch.equal(adapter.layers[0].weight, merged)
    adapter.remove()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_two_adapters_add_up_with_weights_without_a_dense_matrix():
    model = Model()
    adapter, one = adapted(model)
    other = adapter.projection(3, 70, seed=7)
    f1, f2 = one.factors(one.expand(torch.randn(50))), other.factors(other.expand(torch.randn(70)))
    adapter.bind(f1, f2, weights=[0.5, -2.0])
    layer = adapter.layers[1]
    assert layer.A.shape == (5, 12) and layer.B.shape == (20, 5)
    delta = 0.5 * f1[1][1] @ f1[1][0] - 2.0 * f2[1][1] @ f2[1][0]
    assert torch.allclose(layer.B @ layer.A, delta, atol=1e-5)


def test_last_k_counts_from_the_end_and_order_is_that_of_the_model():
    names = select_layers(Model(4), "blocks", ["to_out.0", "to_q"], 2)
    assert names == ["blocks.2.to_q", "blocks.2.to_out.0", "blocks.3.to_q", "blocks.3.to_out.0"]
    with pytest.raises(VovError, match="`last_k`=9"):
        select_layers(Model(4), "blocks", ["to_q"], 9)


def test_bad_targets_are_named():
    with pytest.raises(VovError, match="nope"):
        Adapter(Model(), ["blocks.0.nope"])
    with pytest.raises(VovError, match="not an nn"):
        Adapter(Model(), ["blocks.0"])


def test_a_bfloat16_base_takes_float32_theta():
    layer = LoRALinear(nn.Linear(4, 3).bfloat16())
    layer.A, layer.B = torch.randn(1, 4), torch.randn(3, 1)
    assert layer(torch.randn(2, 4).bfloat16()).dtype == torch.bfloat16


def test_the_branch_of_rank_one_is_two_linear_layers_to_the_bit_and_so_are_its_gradients():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        x, a, b = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((3, 40, 24), (1, 24), (64, 1)))
        pull = torch.randn(3, 40, 64, dtype=dtype)
        plain = torch.nn.functional.linear(torch.nn.functional.linear(x, a), b)
        ours = RankOne.apply(x, a, b)
        assert torch.equal(ours, plain)
        for found, wanted in zip(torch.autograd.grad(ours, (x, a, b), pull),
                                 torch.autograd.grad(plain, (x, a, b), pull, retain_graph=True), strict=True):
            assert torch.equal(found, wanted)
        frozen = RankOne.apply(x, a.detach(), b.detach())  # lookahead asks for no gradient of θ
        assert len(frozen.grad_fn.saved_tensors) == 2
        (found,) = torch.autograd.grad(frozen, x, pull)
        assert torch.equal(found, torch.autograd.grad(plain, x, pull)[0])
