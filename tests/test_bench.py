"""The benches: they run on the smallest model, and count the arithmetic as PyTorch does."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.experiments import bench, bench_nano, bench_parts, lr_figure
from scripts.experiments.kernels import OTHER, kind_of
from scripts.experiments.timing import Ceilings, Work


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


def test_the_work_of_blocks_is_what_pytorch_counts():
    one, three = counted(1), counted(3)  # the difference: two blocks, without the embedders
    assert three[0] - one[0] == pytest.approx(three[1] - one[1])


def test_a_floor_adds_passes_at_the_ceilings():
    ceilings = Ceilings(matmul=10.0, forward=5.0, backward=2.0)
    assert ceilings.floor(Work(100.0, 20.0), 3, 1, 1) == pytest.approx(30 + 4 + 25)


def test_the_bench_measures_every_part_on_the_smallest_model(tmp_path):
    out = tmp_path / "rows.jsonl"
    bench.main(bench.Bench(model="tiny", modes="selective/never", width=32, height=32, num_frames=5, repeats=1,
                           decode_steps="1,2", scores="lookahead", clip_bytes=400, out=str(out), device="cpu"))
    rows = {row["what"]: row for row in map(json.loads, out.read_text().splitlines())}
    for part in ("stage-2 step", "sampler step", "1-step decode", "2-step decode", "noise, lookahead", "frames to file",
                 "clip, file to frames", "VAE encode",
                 "VAE decode", "ceiling: matmul"):
        assert any(part in name for name in rows), part
    step = rows["selective/never: stage-2 step, batch 1"]
    assert step["share_of_ceiling"] == pytest.approx(step["floor_s"] / step["seconds"], rel=0.05)  # all rounded


def test_an_embedded_model_is_timed(tiny_wan, capsys):
    small = {"width": 32, "height": 32, "num_frames": 5, "repeats": 1, "device": "cpu"}
    bench_nano.main(bench_nano.Bench(model_id=str(tiny_wan), **small))
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["forward", "forward and backward", "VAE encode", "VAE decode"]


def test_parts_are_measured_with_their_errors(tmp_path):
    out = tmp_path / "rows.jsonl"
    bench_parts.main(bench_parts.Parts(width=32, height=32, num_frames=5, tokens=64, base=4, repeats=1, out=str(out),
                                       device="cpu"))
    errors = {row["what"]: row.get("relative_error") for row in map(json.loads, out.read_text().splitlines())}
    channels_last, halved = (float(errors[f"VAE decode, {name}"])
                             for name in ("TF32, weights channels last", "bfloat16 autocast"))
    assert channels_last < 1e-4 < halved


def test_kernels_are_sorted_by_what_they_do():
    assert kind_of("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16") == "attention"
    assert kind_of("nvjet_sm90_tst_256x152_64x4_1x2_h_bz_coopA_bias_TNT") == "matrix product"
    assert kind_of("triton_red_fused__to_copy_add_mul_native_layer_norm_0") == "fused (Triton)"
    assert kind_of("vectorized_elementwise_kernel<2, BitwiseXor>") == OTHER


def test_the_figure_of_learning_rates_is_drawn_from_its_rows(tmp_path):
    rows = [{"model": model, "fit": "anchored", "theta_length": 512, "lr": lr, "psnr": 20 + lr}
            for model in ("256x8", "nano-video") for lr in (0.1, 0.3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lr_figure.main(lr_figure.Figure(rows=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "figure.svg")))
    assert "256x8" in (drawn := (tmp_path / "figure.svg").read_text()) and drawn.startswith("<?xml")
