"""Claims about PEFT's UniLoRA folders; PEFT itself is the oracle."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, UniLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from tests.interop import adapted, output, some_theta
from tests.test_golden import GOLDEN
from vov import VovError
from vov.adapter.unilora import Adapter, Projection
from vov.commands import export
from vov.formats import peft
from vov.formats.peft import read_peft, write_peft


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


def test_an_export_that_was_killed_between_its_files_goes_on(tiny_wan, tmp_path, monkeypatch):
    settings = export.Export(input=str(GOLDEN / "video_theta.vov"), output=str(tmp_path / "a"), format="peft",
                             model_id=str(tiny_wan))
    with monkeypatch.context() as patch:
        patch.setattr(peft, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export.main(settings)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [peft.WEIGHTS]
    export.main(settings)
    assert read_peft(tmp_path / "a").theta.numel() == 300
    with monkeypatch.context() as patch:  # all is there: nothing is read, nothing is written
        patch.setattr(export, "write", lambda *_: pytest.fail("written again"))
        export.main(settings)
    with pytest.raises(VovError, match="a exists; set `overwrite`=1"):
        export.main(dataclasses.replace(settings, rank=2))
