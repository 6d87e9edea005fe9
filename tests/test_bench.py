"""The benches: they run on the smallest models, and count the arithmetic as PyTorch does."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.bench import fit, noise, parts
from scripts.bench.timing import OTHER, Ceilings, Work, kind_of
from vov import VovError

SMALL = {"width": 32, "height": 32, "num_frames": 5, "repeats": 1, "device": "cpu"}


def counted(layers):
    """(PyTorch's count, ours) of a forward pass."""
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, ffn_dim=40, num_layers=layers,
                                  text_dim=32, qk_norm="rms_norm_across_heads")
    latent = (1, 16, 3, 8, 6)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.randn(latent), torch.tensor([500.0]), torch.randn(1, 7, 32))
    work = Work.of(model, latent, text=7)
    return counter.get_total_flops(), work.linear + work.attention


def rows(bench, settings, tmp_path, **changed):
    """{what: row} of a bench."""
    out = tmp_path / "rows.jsonl"
    bench.main(settings(out=str(out), **SMALL, **changed))
    return {row["what"]: row for row in map(json.loads, out.read_text().splitlines())}


def test_the_work_of_blocks_is_what_pytorch_counts():
    one, three = counted(1), counted(3)  # the difference: two blocks, without the embedders
    assert three[0] - one[0] == pytest.approx(three[1] - one[1])


def test_a_floor_adds_passes_at_the_ceilings():
    ceilings = Ceilings(matmul=10.0, forward=5.0, backward=2.0)
    assert ceilings.bound(Work(100.0, 20.0), 3, 1, 1) == {"floor": pytest.approx(30 + 4 + 25),
                                                          "tera": pytest.approx(370e-12)}


def test_fits_and_decodes_of_the_smallest_video_model_are_measured(tmp_path):
    found = rows(fit, fit.Fit, tmp_path, model="tiny", modes="selective/never", decode_steps="1,2")
    assert [name for name in found if "ceiling" not in name] == [
        "selective/never: first step, batch 1 (compilation)", "selective/never: stage-2 step, batch 1",
        "selective/never: first sampler step", "selective/never: sampler step", "1-step decode, file to frames",
        "2-step decode, file to frames", "VAE encode, float32", "VAE decode, float32"]
    step = found["selective/never: stage-2 step, batch 1"]
    assert step["share_of_ceiling"] == pytest.approx(step["floor_s"] / step["seconds"], rel=0.05)  # all rounded


def test_fits_of_the_smallest_image_model_are_measured_without_a_floor(tmp_path):
    found = rows(fit, fit.Fit, tmp_path, model="tiny-image", modes="none/never", batch_sizes="1,2", decode_steps="none",
                 vae=False)
    assert "floor_s" not in found["none/never: stage-2 step, batch 2"]


def test_a_shared_step_is_measured_in_one_process(tmp_path):
    (row,) = rows(fit, fit.Fit, tmp_path, model="tiny", shared=True, warmup=1).values()
    assert (row["what"], row["processes"]) == ("1 process(es), 2 passes a step", 1)


def test_a_mode_that_is_no_pair_is_refused():
    with pytest.raises(VovError, match="MODES=full: full is no pair"):
        fit.main(fit.Fit(modes="full"))


def test_coded_noise_of_the_smallest_models_is_measured(tmp_path):
    found = rows(noise, noise.Noise, tmp_path, model="tiny", scores="lookahead", clip_bytes=400)
    assert [name.split(":")[0] for name in found] == [
        "noise, lookahead", "noise-coded clip, frames to file", "noise-coded clip, file to frames"]
    (tmp_path / "picture").mkdir()
    found = rows(noise, noise.Noise, tmp_path / "picture", model="tiny-image", scores="likelihood", picture_bytes=60,
                 noise_steps=4)
    assert [name.rpartition(", ")[2].split(" ")[0] for name in found] == ["encode", "one", "decode"]


def test_parts_are_measured(tiny_wan, tmp_path):
    found = rows(parts, parts.Parts, tmp_path, parts="coder,random,nano,attention", model_id=str(tiny_wan), tokens=64)
    names = " ".join(found)
    for part in ("131,072 symbols, encode", "131,072 symbols, decode", "noise of a latent", "forward and backward",
                 "VAE decode"):
        assert part in names
    assert 0 < float(found["entropy coder: 131,072 symbols, encode"]["over_entropy"].split()[0]) < 0.1
    with pytest.raises(VovError, match="no part called coders"):
        parts.main(parts.Parts(parts="coders"))


def test_kernels_are_sorted_by_what_they_do():
    assert kind_of("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16") == "attention"
    assert kind_of("nvjet_sm90_tst_256x152_64x4_1x2_h_bz_coopA_bias_TNT") == "matrix product"
    assert kind_of("triton_red_fused__to_copy_add_mul_native_layer_norm_0") == "fused (Triton)"
    assert kind_of("vectorized_elementwise_kernel<2, BitwiseXor>") == OTHER
