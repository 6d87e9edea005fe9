"""Claims about standard LoRA files and the export script; diffusers is the oracle."""

import copy
import os

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.interop import adapted, layers, output, some_theta
from vov import VovError, bitstream
from vov.adapter.unilora import Adapter
from vov.bitstream.header import Header
from vov.commands import export as script
from vov.config import load
from vov.formats.lora import WAN_NAMES, write_lora
from vov.formats.reference import load_reference


@pytest.mark.parametrize(("tree", "preset", "last_k"), [
    ("video", "qkvo", 3), ("video", "qkv", 2), ("video", "qkvo_mlp", 1),
    ("image", "qkvo", 3), ("image", "qkv", 2), ("image", "qkvo_mlp", 1)])
def test_diffusers_opens_the_lora_with_no_difference_in_output(pipelines, tmp_path, tree, preset, last_k):
    pipeline = pipelines[tree]
    names, _, factors, ours = adapted(tree, pipeline.transformer, some_theta(), preset, last_k)
    plain = output(tree, pipeline.transformer)
    path = tmp_path / "x.safetensors"
    write_lora(path, names, factors, tree, {"caption": "a dog", "model_id": "some/model"})
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
    for arguments, said in [((["proj_out"], factors, "video"), "proj_out: has no name in a LoRA for Wan"),
                            (([], [], "video"), "no layers"), ((["x"], factors, "audio"), "tree 'audio'"),
                            ((["x"], [(torch.full((1, 4), torch.nan), factors[0][1])], "image"), "holds NaN")]:
        with pytest.raises(VovError, match=said):
            write_lora(tmp_path / "x.safetensors", *arguments)
    assert not list(tmp_path.iterdir())


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
                    height=64, num_frames=5, fps=24, resize="crop", sampler="euler", decode_steps=1, shift=3, seed=42)
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
    ({"LORA_PRESET": "all"}, "lora_preset: is 'all'"), ({"LAST_K": "9"}, "`last_k`=9"),
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
    with pytest.raises(VovError, match="`overwrite`=1"):
        run_export(monkeypatch, folder, **given)
    assert (tmp_path / "y.safetensors").read_bytes() == b"precious"
    with pytest.raises(VovError, match="no run made it"):
        run_export(monkeypatch, folder, **given, OVERWRITE=1)
    assert (tmp_path / "y.safetensors").read_bytes() == b"precious"
    (tmp_path / "y.safetensors").unlink()
    run_export(monkeypatch, folder, **given, OVERWRITE=0)
    (tmp_path / "y.safetensors").write_bytes(b"changed since")
    with pytest.raises(VovError, match="`overwrite`=1"):
        run_export(monkeypatch, folder, **given, OVERWRITE=0)
    run_export(monkeypatch, folder, **given, OVERWRITE=1)
    assert load_reference(tmp_path / "y.safetensors").metadata["caption"] == "a dog"
