"""Making a step fast: recomputation that keeps attention, per-block compilation, a captured step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from vov.model.attention import SMALL_MODEL

ATTENTION_OPS = {
    getattr(torch.ops.aten, name).default
    for name in ("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
                 "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu")
    if hasattr(torch.ops.aten, name)
}
FEW_KEYS = 8  # queries for each key from which on an attention is computed again rather than kept
log = logging.getLogger(__name__)


def _keep_attention(context: object, op: object, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keeps what attention gives back, unless its keys are few beside its queries (cross-attention to a caption, as a
    rule): that is as large, 3 GiB at Wan2.1-1.3B's shape, and takes a hundredth of the time to compute again."""
    if op in ATTENTION_OPS and FEW_KEYS * args[1].shape[-2] >= args[0].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_blocks(blocks: Sequence[nn.Module], mode: str) -> None:
    """Recomputes a block's activations in the backward pass; in place.

    Args:
        mode: none; full (everything is recomputed); selective (attention outputs, most of the FLOPs at video
            lengths, are kept: 1.95 against 2.64 s a step for +5 GiB on Wan2.1-1.3B at 81×480×832).
    """
    if mode == "none" or getattr(type(blocks[0]), "recomputes", False):
        return
    context: dict[str, Any] = {} if mode == "full" else {
        "context_fn": partial(create_selective_checkpoint_contexts, _keep_attention)}
    kind: Any = type(blocks[0])

    class Checkpointed(kind):
        """The block's class with a checkpointed forward; compiled once for all blocks, unlike a closure each."""

        plain = kind.forward  # a method of self: what dynamo can trace into
        recomputes = True  # a second call of `checkpoint_blocks` must not wrap the wrapper

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return self.plain(*args, **kwargs)
            return checkpoint(self.plain, *args, use_reentrant=False, **context, **kwargs)

    for block in blocks:
        block.__class__ = Checkpointed


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compiles each block in place; equal blocks share one compilation."""
    torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    for block in blocks:
        if block._compiled_call_impl is None:
            block.compile()


def lay_out(vae: nn.Module, device: torch.device) -> None:
    """Puts the weights of a VAE's convolutions into the layout that a GPU computes in; in place. The numbers are as
    good: decoding 81 frames of 832×480 takes 2.58 instead of 2.78 s (H200)."""
    if device.type == "cuda":
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
            elif isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)


def plan(model: nn.Module, device: torch.device, checkpointing: str, compile: str) -> tuple[str, str]:
    """Resolves "auto" to (checkpointing, compile): small models are captured as a graph, large ones compiled.

    A model that `memory` has quantised runs eagerly; one whose blocks are streamed also recomputes everything, for what
    it keeps it keeps with the weights.
    """
    if getattr(model, "eager_only", False):
        compile = "never"
    if getattr(model, "streamed", False) and checkpointing in ("auto", "none"):
        checkpointing = "full"
    small = sum(p.numel() for p in model.parameters()) < SMALL_MODEL
    if checkpointing == "auto":
        checkpointing = "none" if small else "selective"
    if device.type != "cuda":
        compile = "never" if compile in ("auto", "graph") else compile
    elif compile == "auto":
        compile = "graph" if small else "blocks"
    return checkpointing, compile


def recompute_blocks(model: nn.Module, blocks: str, device: torch.device) -> None:
    """Prepares a model for gradients to its input alone (lookahead); in place. A large one keeps attention outputs and
    computes the rest again, for its activations cannot all wait for the backward pass. Nothing is compiled: the states
    on the way must be the decoder's to the bit, and fused blocks round otherwise."""
    recompute, _ = plan(model, device, "auto", "never")
    checkpoint_blocks(list(model.get_submodule(blocks).children()), recompute)


class CapturedStep:
    """Runs a step function as one CUDA graph: 58 → 4.9 ms on a launch-bound model.

    The function must read its changing inputs from `buffers` (static tensors), keep its state in place and
    return tensors. The first `warmup` calls run eagerly on a side stream, then the step is captured.
    """

    def __init__(self, step: Callable[[], dict[str, Tensor]], buffers: dict[str, Tensor], warmup: int = 3):
        self.step, self.buffers, self.left = step, buffers, warmup
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        for name, value in inputs.items():
            self.buffers[name].copy_(value)
        if self.left > 0:
            self.left -= 1
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                outputs = self.step()
            torch.cuda.current_stream().wait_stream(stream)
            return outputs
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.step()
        self.graph.replay()
        return self.outputs
