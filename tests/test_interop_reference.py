"""Claims about reference checkpoints; a re-enactment of the reference is the oracle."""

import dataclasses

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from safetensors.torch import load_file, save_file
from torch import nn

from tests.interop import some_theta
from vov import VovError
from vov.adapter.unilora import Projection
from vov.fitting import checkpoint
from vov.fitting.rate import RateModel
from vov.formats import export
from vov.formats.reference import load_reference, save_reference
from vov.model.wan import WanBackbone


def reference_tensors(dtype=torch.bfloat16):
    """What the reference saves after stage 2: every value in the training's dtype."""
    estimator = EntropyBottleneck(1)
    return {"unilora_theta_d": some_theta(500, 0.05).to(dtype), "unilora_scale_quant": torch.tensor(-4.5).to(dtype),
            **{f"unilora_bit_estimator.{k}": v.to(dtype) if v.is_floating_point() else v
               for k, v in estimator.state_dict().items()}}


def reference_factors(tensors, shapes, rank, seed=42):
    """A and B of every layer as the method defines them, slot by slot."""
    theta = tensors["unilora_theta_d"].float()
    if "unilora_scale_quant" in tensors:
        step = torch.nn.functional.softplus(tensors["unilora_scale_quant"].float())
        theta = step * torch.round(torch.clamp(theta / step, -128, 128))
    slots, length = sum(rank * (out + inn) for out, inn in shapes), len(theta)
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(length), slots // length)
    index = np.concatenate([index, rng.choice(length, slots % length, replace=False)])
    rng.shuffle(index)
    values = theta[index] / torch.from_numpy(np.bincount(index, minlength=length)[index]).float().sqrt()
    found, at = [], 0
    for out, inn in shapes:
        a, b = values[at:at + rank * inn], values[at + rank * inn:at + rank * (inn + out)]
        found.append((a.view(rank, inn), b.view(out, rank)))
        at += rank * (inn + out)
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_reference_checkpoint_decodes_to_the_same_a_and_b(tmp_path, dtype, stage):
    tensors = reference_tensors(dtype)
    if stage == 1:
        tensors = {"unilora_theta_d": tensors["unilora_theta_d"]}
    save_file(tensors, tmp_path / "x.safetensors")
    found = load_reference(tmp_path / "x.safetensors")
    shapes = [(24, 24), (24, 32), (32, 24)]
    projection = Projection(shapes, 2, 500)
    ours = projection.factors(projection.expand(found.theta_hat))
    for (a, b), (a_ref, b_ref) in zip(ours, reference_factors(tensors, shapes, 2), strict=True):
        assert torch.allclose(a, a_ref, rtol=2e-7, atol=0) and torch.allclose(b, b_ref, rtol=2e-7, atol=0)
    assert found.theta.dtype == torch.float32 and found.metadata == {} and (found.step is None) == (stage == 1)
    assert stage == 1 or not torch.equal(found.theta, found.theta_hat)


@pytest.mark.parametrize(("before", "after"), [("base_model.", ".default"), ("module.", ""), ("module.model.", "")])
def test_wrapped_names_are_understood_and_the_density_reaches_the_rate_model(tmp_path, before, after):
    tensors = reference_tensors(torch.float32)
    tensors["unilora_bit_estimator.matrices.0"] = torch.full((1, 3, 1), 0.25)
    wrapped = {before + k + (after if k == "unilora_theta_d" else ""): v for k, v in tensors.items()}
    wrapped["optimizer.0.exp_avg"] = torch.zeros(500)
    save_file(wrapped, tmp_path / "x.safetensors")
    found = load_reference(tmp_path / "x.safetensors")
    assert torch.equal(found.theta, tensors["unilora_theta_d"])
    rate = RateModel()
    rate.load_reference(found.estimator_state)
    assert rate.step_value == found.step
    assert torch.equal(rate.bit_estimator.matrices[0], torch.full((1, 3, 1), 0.25))


def test_what_we_save_has_the_references_names_and_comes_back(tmp_path):
    theta, rate = some_theta(500, 0.05), RateModel(0.02)
    state = {f"unilora_{k}": v for k, v in rate.state_dict().items()}
    save_reference(tmp_path / "x.safetensors", theta, rate.step_value, state, {"model": "wan", "rank": 1})
    found = load_reference(tmp_path / "x.safetensors")
    assert torch.equal(found.theta, theta) and found.metadata == {"model": "wan", "rank": 1}
    assert found.step == rate.step_value and found.estimator_state.keys() == state.keys()
    assert {"unilora_theta_d", "unilora_scale_quant"} <= load_file(tmp_path / "x.safetensors").keys()

    symbols = torch.arange(-128, 129)
    save_reference(tmp_path / "y.safetensors", symbols * torch.tensor(0.0123), 0.0123)
    again = load_reference(tmp_path / "y.safetensors")
    assert again.step == pytest.approx(0.0123, rel=1e-6)
    assert torch.equal(torch.round(again.theta_hat / again.step).int(), symbols.int())


def test_our_own_checkpoint_is_read_with_its_metadata_and_without_its_optimiser(tmp_path):
    theta, rate = nn.Parameter(some_theta(500, 0.05)), RateModel(0.02)
    optimizer = torch.optim.AdamW([theta, rate.scale_quant])
    (theta.sum() + rate.step).backward()
    optimizer.step()
    checkpoint.save(tmp_path / "x.safetensors", 7, theta, rate, optimizer,
                    {"model": "small/wan", "rank": 2, "config": {"caption": "a dog", "rank": 2}})
    found = load_reference(tmp_path / "x.safetensors")
    assert torch.equal(found.theta, theta) and found.step == rate.step_value and found.metadata["step"] == 7
    assert torch.equal(found.theta_hat, rate.theta_hat(theta, "round"))
    assert all(key.startswith("unilora_") for key in found.estimator_state)
    exportable = export.read(tmp_path / "x.safetensors")
    assert exportable.model_id == "small/wan" and exportable.told == {"caption": "a dog"}
    with pytest.raises(VovError, match="index_hash: differs"):
        replaced = dataclasses.replace(exportable, notes=exportable.notes | {"index_hash": "00" * 8, "last_k": 1})
        replaced.attach(WanBackbone, nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({
            "attn1": nn.ModuleDict({"to_q": nn.Linear(4, 4)})})])}), {})


def damaged(key, value):
    return lambda: reference_tensors() | {key: value}


@pytest.mark.parametrize(("tensors", "said"), [
    (lambda: {"blocks.0.lora_A.weight": torch.zeros(2, 3)}, "unilora_theta_d: is missing"),
    (damaged("unilora_theta_d", torch.zeros(3, 4)), r"unilora_theta_d: is float32 \[3, 4\], not a vector"),
    (damaged("unilora_theta_d", torch.zeros(0)), r"unilora_theta_d: is float32 \[0\]"),
    (damaged("unilora_theta_d", torch.zeros(5, dtype=torch.int64)), "unilora_theta_d: is int64"),
    (damaged("unilora_theta_d", torch.tensor([1.0, float("nan")])), "unilora_theta_d: holds NaN"),
    (damaged("unilora_scale_quant", torch.zeros(2)), "unilora_scale_quant: has shape"),
    (damaged("unilora_scale_quant", torch.tensor(float("inf"))), "unilora_scale_quant: holds NaN or inf"),
    (damaged("unilora_scale_quant", torch.tensor(-200.0)), "unilora_scale_quant: gives a step of 0"),
    (damaged("unilora_bit_estimator.matrices.0", torch.full((3,), float("nan"))), r"matrices\.0: holds NaN"),
    (damaged("module.unilora_theta_d", torch.ones(500)), "is a second unilora_theta_d"),
])
def test_bad_tensors_are_one_line_with_file_key_and_cure(tmp_path, tensors, said):
    save_file(tensors(), tmp_path / "x.safetensors")
    with pytest.raises(VovError, match=rf"x\.safetensors: .*{said}.*;") as error:
        load_reference(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_unopened_with_the_way_to_convert_it(tmp_path, zipped):
    torch.save({"unilora_theta_d": Trap()}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(VovError, match=r"x\.pt: is a pickle.*weights_only=True.*x\.safetensors"):
        load_reference(tmp_path / "x.pt")


def test_random_and_damaged_bytes_are_refused_in_one_line(tmp_path):
    path = tmp_path / "x.safetensors"
    rng = np.random.default_rng(0)
    save_file(reference_tensors(), path, {"vov": "{}"})
    good, refused = path.read_bytes(), 0
    for trial in range(400):
        data = bytearray(good if trial % 2 else rng.bytes(int(rng.integers(0, 300))))
        if trial % 2:
            data[int(rng.integers(len(data) // 2))] ^= 1 << int(rng.integers(8))
            data = data[:len(data) if trial % 4 == 1 else int(rng.integers(len(data)))]
        path.write_bytes(data)
        try:
            load_reference(path)
        except VovError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused > 250  # a flipped bit in a value is another valid value: only .vov files carry checksums
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(VovError, match="cannot be read"):
            load_reference(missing)
