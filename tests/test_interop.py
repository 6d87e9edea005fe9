"""Claims about other people's files; PEFT, diffusers and a re-enactment of the reference are the oracles."""

import copy
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from diffusers import QwenImagePipeline, WanPipeline
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from peft import LoraConfig, PeftModel, UniLoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from scripts import export as script
from tests.tiny import build_qwen, build_wan
from video.backbone import WanBackbone
from vov import VovError, bitstream
from vov.bitstream.header import Header
from vov.config import load
from vov.fitting import checkpoint
from vov.fitting.rate import RateModel
from vov.formats import export, peft
from vov.formats.lora import WAN_NAMES, write_lora
from vov.formats.peft import read_peft, write_peft
from vov.formats.reference import load_reference, save_reference
from vov.model.unilora import Adapter, Projection, select_layers

QWEN_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
QWEN_MLP = tuple(f"{mlp}.net.{layer}" for mlp in ("img_mlp", "txt_mlp") for layer in ("0.proj", "2"))
QWEN_QKVO = (*QWEN_QKV, "attn.to_out.0")
QWEN_PRESETS = {"qkvo": QWEN_QKVO, "qkv": QWEN_QKV, "qkvo_mlp": QWEN_QKVO + QWEN_MLP}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    found = {"video": WanPipeline.from_pretrained(build_wan(folder / "wan", layers=3)),
             "image": QwenImagePipeline.from_pretrained(build_qwen(folder / "qwen", layers=3))}
    for pipeline in found.values():
        # Weights mapped from a file lie at odd addresses, for which the CPU's matmul rounds differently (5e-7) from
        # what it does for the copies below: bit equality needs the same alignment on both sides.
        pipeline.transformer = copy.deepcopy(pipeline.transformer)
    return found


def layers(tree, transformer, preset, last_k):
    if tree == "video":
        return select_layers(transformer, "blocks", WanBackbone.presets[preset], last_k)
    return select_layers(transformer, "transformer_blocks", QWEN_PRESETS[preset], last_k)


@torch.no_grad()
def output(tree, transformer):
    generator = torch.Generator().manual_seed(1)
    if tree == "video":
        x, text = torch.randn(1, 16, 2, 4, 6, generator=generator), torch.randn(1, 7, 32, generator=generator)
        return transformer(hidden_states=x, timestep=torch.tensor([500.0]), encoder_hidden_states=text,
                           return_dict=False)[0]
    x, text = torch.randn(1, 6, 16, generator=generator), torch.randn(1, 5, 16, generator=generator)
    return transformer(hidden_states=x, timestep=torch.tensor([0.5]), encoder_hidden_states=text,
                       encoder_hidden_states_mask=None, img_shapes=[[(1, 2, 3)]], return_dict=False)[0]


def adapted(tree, transformer, theta, preset="qkvo", last_k=3, rank=2, seed=42):
    """(names, projection, factors, output) of our own adapter with θ."""
    model = copy.deepcopy(transformer)
    adapter = Adapter(model, layers(tree, model, preset, last_k))
    projection = adapter.projection(rank, len(theta), seed)
    factors = projection.factors(projection.expand(theta))
    adapter.bind(factors)
    return adapter.names, projection, factors, output(tree, model)


def some_theta(length=300, scale=0.5):
    return torch.randn(length, generator=torch.Generator().manual_seed(7)) * scale


# --- reference checkpoints ------------------------------------------------------------------------------------------


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
        replaced = dataclasses.replace(exportable, notes=exportable.notes | {"index_hash": "00", "last_k": 1})
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


# --- PEFT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tree", "preset", "last_k"), [
    ("video", "qkvo", 3), ("video", "qkv", 2), ("video", "qkvo_mlp", 1), ("image", "qkvo_mlp", 2)])
def test_peft_opens_what_we_write_and_computes_the_same_bits(pipelines, tmp_path, tree, preset, last_k):
    transformer, theta = pipelines[tree].transformer, some_theta()
    names, projection, _, ours = adapted(tree, transformer, theta, preset, last_k)
    write_peft(tmp_path / "a", theta, names, projection, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    model = PeftModel.from_pretrained(copy.deepcopy(transformer), tmp_path / "a")
    theirs = [n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "unilora_indices_A")]
    assert theirs == names
    assert torch.equal(output(tree, model), ours)
    assert not torch.equal(ours, output(tree, transformer))

    found = read_peft(tmp_path / "a")
    assert torch.equal(found.theta, theta) and (found.rank, found.seed) == (2, 42)
    assert found.base_model.startswith("Wan-AI/") and found.layers(transformer) == names


@pytest.mark.parametrize("save_indices", [False, True])
@pytest.mark.parametrize("targets", [["to_q", "attn2.to_out.0"], r"blocks\.[12]\.attn1\.(to_q|to_v)"])
def test_we_read_what_peft_writes_and_compute_the_same_bits(pipelines, tmp_path, targets, save_indices):
    transformer = pipelines["video"].transformer
    model = get_peft_model(copy.deepcopy(transformer), UniLoraConfig(
        r=3, theta_d_length=200, proj_seed=5, target_modules=targets, init_theta_d_bound=0.5,
        save_indices=save_indices))
    model.save_pretrained(tmp_path)
    found = read_peft(tmp_path)
    mine = copy.deepcopy(transformer)
    adapter = Adapter(mine, found.layers(mine))
    projection = found.projection(adapter)
    assert (projection.rank, projection.length, projection.seed) == (3, 200, 5)
    adapter.bind(projection.factors(projection.expand(found.theta)))
    assert torch.equal(output("video", mine), output("video", model))

    if save_indices:
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        key = next(k for k in tensors if "unilora_indices_B" in k)
        tensors[key][0, 0] += 1
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(VovError, match="unilora_indices_B: differs from the indices of this model"):
            read_peft(tmp_path).projection(adapter)


def test_indices_that_the_folder_was_not_made_with_are_found(pipelines, tmp_path):
    transformer, theta = pipelines["video"].transformer, some_theta()
    names, projection, _, _ = adapted("video", transformer, theta)
    write_peft(tmp_path, theta, names, projection)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"proj_seed": 43}))
    adapter = Adapter(copy.deepcopy(transformer), names)
    with pytest.raises(VovError, match="index_hash: differs"):
        read_peft(tmp_path).projection(adapter)


def test_an_expression_that_takes_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(peft, "PATIENCE", 1)
    with pytest.raises(VovError, match="takes too long to match; give a list of names"):
        peft.matching(r"([a-z0-9_.]+)+!", ["blocks.0.attn1.to_q.and.so.on.and.on"], Path("adapter_config.json"))
    assert peft.matching(r"blocks\.[01]\.(q|k)", ["blocks.0.q", "blocks.0.v", "blocks.1.k"], Path("x")) == [
        "blocks.0.q", "blocks.1.k"]


@pytest.mark.parametrize(("change", "said"), [
    ({"peft_type": "LORA"}, "peft_type: is 'LORA'; only UNILORA"),
    ({"bias": "all"}, "bias: is 'all'"),
    ({"layers_to_transform": [1]}, r"layers_to_transform: is \[1\]"),
    ({"modules_to_save": ["head"]}, "modules_to_save"),
    ({"target_modules": "all-linear"}, "target_modules: is 'all-linear'"),
    ({"target_modules": "(unclosed"}, r"target_modules: is '\(unclosed'"),
    ({"r": 0}, "r: is 0"), ({"r": True}, "r: is True"), ({"proj_seed": "x"}, "proj_seed: is 'x'"),
    ({"theta_d_length": 7}, "has 300 entries, but adapter_config.json says theta_d_length 7"),
])
def test_bad_adapter_folders_are_one_line(tmp_path, change, said):
    write_peft(tmp_path, some_theta(), ["blocks.0.a"], Projection([(400, 400)], 1, 300))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(VovError, match=said) as error:
        read_peft(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_adapter_or_with_a_standard_lora_is_named(tmp_path):
    with pytest.raises(VovError, match=r"adapter_config\.json: cannot be read"):
        read_peft(tmp_path)
    get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(target_modules=["0"])).save_pretrained(tmp_path)
    with pytest.raises(VovError, match="only UNILORA"):
        read_peft(tmp_path)


# --- standard LoRA files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tree", "kind", "preset", "last_k"), [
    ("video", "comfyui", "qkvo", 3), ("video", "comfyui", "qkv", 2), ("video", "comfyui", "qkvo_mlp", 1),
    ("video", "diffusers", "qkvo_mlp", 2),
    ("image", "comfyui", "qkvo", 3), ("image", "comfyui", "qkv", 2), ("image", "diffusers", "qkvo_mlp", 1)])
def test_diffusers_opens_the_lora_with_no_difference_in_output(pipelines, tmp_path, tree, kind, preset, last_k):
    pipeline = pipelines[tree]
    names, _, factors, ours = adapted(tree, pipeline.transformer, some_theta(), preset, last_k)
    plain = output(tree, pipeline.transformer)
    path = tmp_path / "x.safetensors"
    write_lora(path, names, factors, tree, kind, {"caption": "a dog", "model_id": "some/model"})
    try:
        pipeline.load_lora_weights(tmp_path, weight_name=path.name)
        assert torch.equal(output(tree, pipeline.transformer), ours)
        assert not torch.equal(ours, plain)
    finally:
        pipeline.unload_lora_weights()
    assert torch.equal(output(tree, pipeline.transformer), plain)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "caption": "a dog", "model_id": "some/model", "rank": "2"}
        assert not any("default" in key for key in file.keys())  # noqa: SIM118
        assert sum(key.endswith("lora_A.weight") for key in file.keys()) == len(names)  # noqa: SIM118


def test_comfyui_finds_every_wan_layer_by_the_names_of_the_original_checkpoint(pipelines, tmp_path):
    # ComfyUI keeps the original names behind diffusion_model.; diffusers' converter of original checkpoints knows them.
    transformer = pipelines["video"].transformer
    names, _, factors, _ = adapted("video", transformer, some_theta(), "qkvo_mlp", 2)
    write_lora(tmp_path / "x.safetensors", names, factors, "video")
    tensors = load_file(tmp_path / "x.safetensors")
    downs = [key for key in tensors if key.endswith(".lora_A.weight")]
    original = {key.removeprefix("diffusion_model.").replace(".lora_A", ""): key for key in downs}
    converted = convert_wan_transformer_to_diffusers(dict(original))
    assert sorted(converted) == sorted(f"{name}.weight" for name in names)
    for name, (a, b) in zip(names, factors, strict=True):
        key = converted[f"{name}.weight"].removesuffix(".lora_A.weight")
        assert torch.equal(tensors[f"{key}.lora_A.weight"], a) and torch.equal(tensors[f"{key}.lora_B.weight"], b)
        assert float(tensors[f"{key}.alpha"]) == a.shape[0]
    assert len(WAN_NAMES) == 10


def test_two_adapters_become_one_lora_of_the_sum_of_ranks(pipelines, tmp_path):
    pipeline = pipelines["video"]
    model = copy.deepcopy(pipeline.transformer)
    adapter = Adapter(model, layers("video", model, "qkvo", 3))
    one, other = adapter.projection(2, 300), adapter.projection(1, 200, seed=3)
    adapter.bind(one.factors(one.expand(some_theta())), other.factors(other.expand(some_theta(200))),
                 weights=[1.0, 0.5])
    write_lora(tmp_path / "x.safetensors", adapter.names, [(m.A, m.B) for m in adapter.layers], "video")
    try:
        pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
        assert torch.equal(output("video", pipeline.transformer), output("video", model))
    finally:
        pipeline.unload_lora_weights()


def test_layers_that_a_lora_cannot_name_are_refused_and_nothing_is_written(tmp_path):
    factors = [(torch.ones(1, 4), torch.ones(4, 1))]
    for arguments, said in [((["proj_out"], factors, "video"), "proj_out: has no ComfyUI name"),
                            (([], [], "video"), "no layers"), ((["x"], factors, "audio"), "tree 'audio'"),
                            ((["x"], [(torch.full((1, 4), torch.nan), factors[0][1])], "image"), "holds NaN")]:
        with pytest.raises(VovError, match=said):
            write_lora(tmp_path / "x.safetensors", *arguments)
    assert not list(tmp_path.iterdir())


# --- scripts/export.sh ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exportable(pipelines, tmp_path_factory):
    """(folder with the model as small/wan and x.vov, the output of our own adapter with the file's θ)."""
    folder = tmp_path_factory.mktemp("export")
    pipeline = pipelines["video"]
    pipeline.save_pretrained(folder / "small" / "wan")
    symbols, step = np.clip(np.rint(some_theta(scale=20).numpy()), -128, 128).astype(np.int32), np.float32(0.02)
    _, projection, _, ours = adapted("video", pipeline.transformer, torch.from_numpy(symbols).float() * step,
                                     "qkvo_mlp", last_k=2, seed=9)
    header = Header(tree="video", model_id="small/wan", fingerprint=bytes(8), dtype="float32", lora_preset="qkvo_mlp",
                    last_k=2, rank=2, theta_length=300, proj_seed=9, index_hash=projection.hash, step=step, width=64,
                    height=64, num_frames=5, fps=24, fit="crop", sampler="euler", decode_steps=1, shift=3, seed=42)
    bitstream.write(folder / "x.vov", bitstream.Bitstream(header, (bitstream.Item("a dog", 64, 64),), symbols))
    return folder, ours


def run_export(monkeypatch, folder, **variables):
    for name, value in {"CACHE_DIR": folder, **variables}.items():
        monkeypatch.setenv(name, str(value))
    script.main(load(script.Export, {}, os.environ))


def lora_output(pipeline, path):
    try:
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
        return output("video", pipeline.transformer)
    finally:
        pipeline.unload_lora_weights()


def test_a_vov_file_goes_to_every_format_and_back_with_the_same_output(exportable, pipelines, tmp_path, monkeypatch):
    folder, ours = exportable
    transformer = pipelines["video"].transformer
    for source, kind, target in [
            (folder / "x.vov", "lora", "1.safetensors"), (folder / "x.vov", "peft", "2"),
            (folder / "x.vov", "reference", "3.safetensors"), (tmp_path / "2", "lora", "4.safetensors"),
            (tmp_path / "3.safetensors", "lora", "5.safetensors")]:
        run_export(monkeypatch, folder, INPUT=source, OUTPUT=tmp_path / target, FORMAT=kind)
        if kind == "lora":
            # θ̂ of a reference checkpoint is step · symbol with a step 1e-6 off, see save_reference
            difference = (lora_output(pipelines["video"], tmp_path / target) - ours).abs().max()
            assert difference <= (1e-4 if target.startswith("5") else 0)
    model = PeftModel.from_pretrained(copy.deepcopy(transformer), tmp_path / "2")
    assert torch.equal(output("video", model), ours)
    with safe_open(tmp_path / "1.safetensors", "pt") as file:
        told = file.metadata()
    assert told["caption"] == "a dog" and told["model_id"] == "small/wan" and told["decode_steps"] == "1"


def test_a_reference_checkpoint_becomes_a_lora_when_told_what_it_does_not_say(exportable, pipelines, tmp_path,
                                                                             monkeypatch):
    folder, _ = exportable
    save_file({"unilora_theta_d": some_theta()}, tmp_path / "x.safetensors")
    given = {"INPUT": tmp_path / "x.safetensors", "OUTPUT": tmp_path / "y.safetensors", "RANK": 3, "LAST_K": 1}
    with pytest.raises(VovError, match="does not name its foundation model; set MODEL_ID"):
        run_export(monkeypatch, folder, **given)
    run_export(monkeypatch, folder, **given, MODEL_ID=folder / "small" / "wan")
    _, _, _, ours = adapted("video", pipelines["video"].transformer, some_theta(), "qkvo", 1, rank=3)
    assert torch.equal(lora_output(pipelines["video"], tmp_path / "y.safetensors"), ours)
    with safe_open(tmp_path / "y.safetensors", "pt") as file:
        assert file.metadata()["model_id"] == "wan"  # no path of this machine


@pytest.mark.parametrize(("variables", "said"), [
    ({"INPUT": ""}, "INPUT and OUTPUT must be set"), ({"INPUT": "nowhere.vov"}, "cannot be read"),
    ({"OUTPUT": "x.bin"}, "must end in .safetensors"), ({"RANK": "3"}, "index_hash: differs"),
    ({"LORA_PRESET": "all"}, "lora_preset: is 'all'"), ({"LAST_K": "9"}, "LAST_K=9"),
    ({"RANK": "4097"}, "rank: is 4097"), ({"CACHE_DIR": "nowhere"}, "no weights of small/wan"),
])
def test_export_refuses_in_one_line_and_writes_nothing(exportable, tmp_path, monkeypatch, variables, said):
    folder, _ = exportable
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VovError, match=said) as error:
        run_export(monkeypatch, folder, **{"INPUT": folder / "x.vov", "OUTPUT": "y.safetensors"} | variables)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_export_does_not_overwrite_unasked(exportable, tmp_path, monkeypatch):
    folder, _ = exportable
    (tmp_path / "y.safetensors").write_bytes(b"precious")
    given = {"INPUT": folder / "x.vov", "OUTPUT": tmp_path / "y.safetensors", "FORMAT": "reference"}
    with pytest.raises(VovError, match="OVERWRITE=1"):
        run_export(monkeypatch, folder, **given)
    assert (tmp_path / "y.safetensors").read_bytes() == b"precious"
    run_export(monkeypatch, folder, **given, OVERWRITE=1)
    assert load_reference(tmp_path / "y.safetensors").metadata["caption"] == "a dog"
