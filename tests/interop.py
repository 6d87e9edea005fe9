"""What the tests of other people's formats share: adapters of our own on small models, and what they compute."""

import copy

import torch

from vov.adapter.unilora import Adapter, select_layers
from vov.model.wan import WanBackbone

QWEN_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
QWEN_MLP = tuple(f"{mlp}.net.{layer}" for mlp in ("img_mlp", "txt_mlp") for layer in ("0.proj", "2"))
QWEN_QKVO = (*QWEN_QKV, "attn.to_out.0")
QWEN_PRESETS = {"qkvo": QWEN_QKVO, "qkv": QWEN_QKV, "qkvo_mlp": QWEN_QKVO + QWEN_MLP}


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
