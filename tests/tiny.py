"""Untrained stand-ins of the real architectures, small enough for a test; built locally, never downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)


def build_wan(folder: Path, layers: int = 2, seed: int = 0, wan22: bool = False) -> Path:
    """Writes a 2-layer Wan pipeline in diffusers' layout: latents of 16 channels, 8×8×4; or as Wan2.2-TI2V-5B's: 48
    channels, 16×16×4, a residual VAE on patches, a time for each token."""
    torch.manual_seed(seed)
    channels = 48 if wan22 else 16
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels,
        out_channels=channels, text_dim=32, freq_dim=256, ffn_dim=32, num_layers=layers, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32)
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           temperal_downsample=[False, True, True])
    if wan22:
        draw = torch.Generator().manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=4, decoder_base_dim=4, z_dim=48, dim_mult=[1, 2, 2, 2], num_res_blocks=1, is_residual=True,
            temperal_downsample=[False, True, True], in_channels=12, out_channels=12, patch_size=2,
            scale_factor_spatial=16, scale_factor_temporal=4, latents_mean=torch.randn(48, generator=draw).tolist(),
            latents_std=(1 + torch.rand(48, generator=draw)).tolist())
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = T5Tokenizer(vocab=pieces + [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz"], extra_ids=0)
    tokenizer.model_max_length = 32
    shift = 5.0 if wan22 else 3.0
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    WanPipeline(tokenizer=tokenizer, text_encoder=encoder, vae=vae, scheduler=scheduler, transformer=transformer,
                expand_timesteps=wan22).save_pretrained(folder)
    return folder


# The pipeline drops the first 34 tokens: this prompt in the real tokenizer, and in ours.
QWEN_PREFIX = ("<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
               "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n")


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Every word of the prompt's template is one token, everything else is single bytes."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: i for i, token in enumerate(special + sorted(ByteLevel.alphabet()))}
    merges, split = [], Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    for part in re.split(r"<\|\w+\|>", QWEN_PREFIX):
        for word, _ in split.pre_tokenize_str(part):
            for end in range(2, len(word) + 1):
                if word[:end] not in vocab:
                    vocab[word[:end]] = len(vocab)
                    merges.append((word[:end - 1], word[end - 1]))
    return Qwen2Tokenizer(vocab=vocab, merges=merges, extra_special_tokens=special[1:])


def build_qwen(folder: Path, layers: int = 2, seed: int = 0) -> Path:
    """Writes a 2-layer Qwen-Image pipeline in diffusers' layout; latents 4 channels at 1/8, patches of 2×2."""
    torch.manual_seed(seed)
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=layers, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4))
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 1, 2, 2], num_res_blocks=1,
                                 temperal_downsample=[False, True, True],
                                 latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[1.5, 2.0, 1.0, 0.8])
    tokenizer = qwen_tokenizer()
    assert len(tokenizer(QWEN_PREFIX).input_ids) == 34
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000000.0}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config={"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": rope,
                     "bos_token_id": 0, "eos_token_id": 0},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}))
    QwenImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae,
                      text_encoder=encoder, tokenizer=tokenizer, transformer=transformer).save_pretrained(folder)
    return folder
