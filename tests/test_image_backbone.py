"""Claims about Qwen-Image behind the backbone, on an untrained 2-layer one; diffusers and PEFT are the oracles."""

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from peft import UniLoraConfig, get_peft_model

from vov import VovError
from vov.adapter.adapt import AdapterSpec, adapted_layers
from vov.adapter.adapted import AdaptedModel
from vov.model import speed
from vov.model.flow import sample, sigma_grid
from vov.model.memory import split_precision, stream_blocks
from vov.model.qwen import QwenBackbone, pack, unpack
from vov.runtime.random import normal

CAPTIONS = ["a red ball", "a much longer caption of a green field"]


@pytest.fixture(scope="module")
def backbone(tiny_qwen):
    return QwenBackbone.load(str(tiny_qwen), "unused", "cpu")


@pytest.fixture(scope="module")
def pipeline(tiny_qwen):
    pipe = QwenImagePipeline.from_pretrained(tiny_qwen)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(height=32, width=48):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7, x + y], axis=-1).astype(np.uint8)[None]


def adapted(backbone, theta, preset="qkvo", rank=2, length=100):
    model = AdaptedModel(backbone, AdapterSpec(rank, length, 2, preset, 42))
    model.bind(theta)
    return model


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_sampler_is_the_stock_pipelines(backbone, pipeline, guidance):
    noise = normal(3, 0, backbone.latent_shape(48, 32))
    negative = backbone.embed([""])[0] if guidance > 1 else None
    velocity = backbone.guided(backbone.embed([CAPTIONS[0]])[0], negative, guidance)
    with torch.no_grad():
        ours = sample(velocity, noise, sigma_grid(4, backbone.native_shift(48, 32)))
    theirs = pipeline(CAPTIONS[0], negative_prompt="" if guidance > 1 else None, true_cfg_scale=guidance, width=48,
                      height=32, num_inference_steps=4, latents=pack(noise), output_type="latent").images
    assert torch.allclose(pack(ours), theirs, atol=1e-5)
    frames = backbone.decode(ours)
    pixels = pipeline(CAPTIONS[0], negative_prompt="" if guidance > 1 else None, true_cfg_scale=guidance, width=48,
                      height=32, num_inference_steps=4, latents=pack(noise), output_type="np").images
    assert np.abs(frames / 255 - pixels).max() < 0.51 / 255 + 1e-4


def test_packing_is_the_pipelines_and_undone(backbone):
    x = torch.randn(2, 4, 1, 6, 8)
    assert torch.equal(pack(x), QwenImagePipeline._pack_latents(x[:, :, 0], 2, 4, 6, 8))
    assert torch.equal(unpack(pack(x), 6, 8), x)


def test_the_shift_is_that_of_the_scheduler(backbone):
    assert backbone.native_shift(512, 512) == pytest.approx(math.exp(calculate_shift(1024)))


def test_unilora_is_bit_identical_to_peft_on_the_same_model(backbone):
    oracle = get_peft_model(copy.deepcopy(backbone.transformer), UniLoraConfig(
        r=4, theta_d_length=300, proj_seed=42, target_modules=r"transformer_blocks\.\d+\.attn\.to_(q|k|v|out\.0)"))
    theta = oracle.base_model.unilora_theta_d["default"].detach().clone()
    x, text = torch.randn(2, 4, 1, 4, 6), torch.randn(2, 5, 16)
    inputs = {"hidden_states": pack(x), "timestep": torch.tensor([0.3, 1.0]), "encoder_hidden_states": text,
              "img_shapes": [[(1, 2, 3)]] * 2, "return_dict": False}
    with torch.no_grad():
        plain = backbone.velocity(x, inputs["timestep"], {"text": text})
        adapter = adapted(backbone, theta, rank=4, length=300)
        ours = backbone.velocity(x, inputs["timestep"], {"text": text})
        adapter.remove()
        theirs = unpack(oracle.base_model.model(**inputs)[0], 4, 6)
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, plain)


def test_presets_name_the_layers_of_the_method(backbone):
    names = {preset: adapted_layers(AdapterSpec(1, 9, 1, preset, 42), backbone, backbone.transformer)
             for preset in backbone.presets}
    assert names["qkvo"] == [f"transformer_blocks.1.attn.{p}" for p in ("to_q", "to_k", "to_v", "to_out.0")]
    assert set(names["qkvo"]) - set(names["qkv"]) == {"transformer_blocks.1.attn.to_out.0"}
    assert set(names["qkvo_mlp"]) - set(names["qkvo"]) == {
        f"transformer_blocks.1.{mlp}.net.{layer}" for mlp in ("img_mlp", "txt_mlp") for layer in ("0.proj", "2")}


def test_a_caption_in_a_batch_of_longer_ones_means_the_same(backbone):
    conditions = backbone.embed(CAPTIONS)
    lengths = [c["text"].shape[1] for c in conditions]
    assert lengths[0] < lengths[1] and "mask" not in backbone.collate(conditions[:1])
    both = backbone.collate(conditions)
    x = torch.randn(2, 4, 1, 4, 4)
    with torch.no_grad():
        batched = backbone.velocity(x, 0.7, both)
        alone = [backbone.velocity(x[i:i + 1], 0.7, conditions[i]) for i in (0, 1)]
    assert torch.allclose(batched, torch.cat(alone), atol=1e-5)


def test_times_are_not_rounded_to_bfloat16(tiny_qwen):
    backbone = QwenBackbone.load(str(tiny_qwen), "unused", "cpu", "bfloat16")
    seen = []
    backbone.transformer.time_text_embed.timestep_embedder.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        for t in (0.999, 0.9995):  # one number in bfloat16
            backbone.velocity(torch.zeros(1, 4, 1, 4, 4), t, {"text": torch.zeros(1, 3, 16, dtype=torch.bfloat16)})
    assert not torch.equal(*seen)


def test_pictures_become_latents_of_an_eighth_and_come_back_at_their_size(backbone):
    latents = backbone.encode(picture())
    assert latents.shape == backbone.latent_shape(48, 32) == (1, 4, 1, 4, 6)
    assert backbone.decode(latents).shape == (1, 32, 48, 3)


@pytest.mark.parametrize(("size", "message"), [((500, 512, 1), "nearest are 496 and 512"), ((32, 32, 5), "video tree")])
def test_sizes_that_cannot_be_are_refused_with_the_nearest(backbone, size, message):
    with pytest.raises(VovError, match=message):
        backbone.check_geometry(*size)


def test_an_fp8_base_trains_at_half_the_memory_and_is_another_model(tiny_qwen, backbone):
    quantised = QwenBackbone.load(str(tiny_qwen), "unused", "cpu", "float32-fp8")
    blocks = quantised.transformer.transformer_blocks
    assert all(blocks[0].get_submodule(n).weight.dtype == torch.float8_e4m3fn for n in ("attn.to_q", "img_mlp.net.2"))
    assert quantised.fingerprint() != backbone.fingerprint() and quantised.precision == "float32-fp8"
    # The oracle: the full model with weights rounded to fp8, which computes in float32.
    rounded = copy.deepcopy(backbone)
    with torch.no_grad():
        for (_, ours), theirs in zip(rounded.transformer.named_parameters(), quantised.transformer.parameters(),
                                     strict=True):
            ours.copy_(theirs.float())
    x, condition, grads = torch.randn(1, 4, 1, 4, 4), {"text": torch.randn(1, 3, 16)}, []
    for model in (quantised, rounded):
        theta = torch.linspace(-0.1, 0.1, 100).requires_grad_()
        adapter = adapted(model, theta)
        speed.checkpoint_blocks(model.transformer.transformer_blocks, "full")
        model.velocity(x, 0.5, condition).square().sum().backward()
        grads.append(theta.grad)
        adapter.remove()
    assert torch.allclose(*grads, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "float32-fp8"])
def test_streamed_blocks_compute_the_same_and_leave(tiny_qwen, precision):
    grads, x, condition = [], torch.randn(1, 4, 1, 4, 4), {"text": torch.randn(1, 3, 16)}
    for streamed in (False, True):
        model = QwenBackbone.load(str(tiny_qwen), "unused", "cpu", precision)
        transformer = model.transformer
        before = {k: v.float().clone() for k, v in transformer.state_dict().items()}
        visitors = []
        if streamed:
            stream_blocks(transformer, "transformer_blocks", torch.device("cpu"))
        theta = torch.linspace(-0.1, 0.1, 100).requires_grad_()
        adapter = adapted(model, theta)
        assert speed.plan(transformer, model.device, "auto", "blocks")[0] == ("full" if streamed else "none")
        speed.checkpoint_blocks(transformer.transformer_blocks, "full")
        linear = transformer.transformer_blocks[0].attn.add_k_proj
        home = linear.weight
        linear.register_forward_pre_hook(lambda m, _, v=visitors: v.append(weakref.ref(m.weight)))
        loss = model.velocity(x, 0.5, condition).square().sum()
        loss.backward()
        grads.append(theta.grad)
        assert len(visitors) == 2 and linear.weight is home  # once forwards, once recomputed
        assert all((v() is home) != streamed for v in visitors)
        adapter.remove()
        del loss
        gc.collect()
        assert not streamed or all(v() is None for v in visitors)
        assert all(torch.equal(before[k], v.float()) for k, v in transformer.state_dict().items())
    assert torch.equal(*grads)


def test_nf4_without_bitsandbytes_says_what_to_do(tiny_qwen):
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(VovError, match="pip install bitsandbytes"):
            QwenBackbone.load(str(tiny_qwen), "unused", "cpu", "float32-nf4")
    assert split_precision("bfloat16-nf4") == ("bfloat16", "nf4") and split_precision("auto") == ("auto", "none")
    with pytest.raises(VovError, match="`offload`=none"):
        QwenBackbone.load(str(tiny_qwen), "unused", "cpu", "float32-nf4", offload="blocks")
