"""The benches: they run on the smallest model, and count the arithmetic as PyTorch does."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.experiments import bench
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
    assert step["share_of_ceiling"] == pytest.approx(step["floor_s"] / step["seconds"], rel=0.02)  # both rounded
