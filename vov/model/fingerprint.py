"""8 bytes that name a foundation model by its content: everything that shapes a decode.

Version 2 covers transformer and VAE with their configurations, the text encoder and the tokenizer. Version 1, in
files of before 25 November 2026, covers the tensors of transformer and VAE alone; such files still decode.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SAMPLES = 64  # values of every tensor that are looked at
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "F8_E4M3": torch.float8_e4m3fn, "I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8}
LATENT_STATISTICS = ("latents_mean", "latents_std", "scaling_factor")


def _add(digest: hashlib._Hash, name: str, shape: tuple[int, ...], values: Tensor) -> None:
    """A tensor's name, shape and values as bfloat16: equal for one model in float32 and in bfloat16."""
    bits = values.to("cpu", torch.float32).to(torch.bfloat16).view(torch.int16).numpy()
    digest.update(f"{name} {shape} ".encode() + bits.astype("<i2").tobytes())


def _networks(digest: hashlib._Hash, transformer: nn.Module, vae: nn.Module) -> None:
    for part in (transformer, vae):
        for name, tensor in sorted(part.state_dict().items()):
            flat = tensor.detach().flatten()
            _add(digest, name, tuple(tensor.shape), flat[::max(1, flat.numel() // SAMPLES)][:SAMPLES])


def version_1(transformer: nn.Module, vae: nn.Module) -> bytes:
    """The fingerprint of old files: every tensor of transformer and VAE."""
    digest = hashlib.sha256()
    _networks(digest, transformer, vae)
    return digest.digest()[:8]


def version_2(transformer: nn.Module, vae: nn.Module, folder: Path) -> bytes:
    """The fingerprint of new files.

    Args:
        transformer, vae: as loaded, quantised if need be, before any adapter.
        folder: of the model in diffusers' layout: its text encoder is sampled on disk, without loading it.
    """
    digest = hashlib.sha256(b"2")
    _networks(digest, transformer, vae)
    for part in ("transformer", "vae"):  # heads, patches, rotary bases: what weights of one shape may differ in
        digest.update(_configuration(folder / part / "config.json"))
    for name in LATENT_STATISTICS:
        digest.update(repr(getattr(vae.config, name, None)).encode())
    files = sorted((folder / "text_encoder").glob("*.safetensors"))
    for name, (path, start, shape, kind) in sorted({k: v for file in files for k, v in _listed(file).items()}.items()):
        _add(digest, name, shape, _sampled(path, start, shape, kind))
    for path in sorted((folder / "tokenizer").glob("*")):
        if path.is_file():
            digest.update(f"{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()[:8]


def _configuration(path: Path) -> bytes:
    """A network's configuration without what says where it is from, as canonical JSON; empty where there is none."""
    if not path.is_file():
        return b""
    config = {key: value for key, value in json.loads(path.read_bytes()).items() if not key.startswith("_")}
    return json.dumps(config, sort_keys=True).encode()


def _listed(path: Path) -> dict[str, tuple[Path, int, tuple[int, ...], str]]:
    """{tensor: (file, first byte, shape, type)} of a safetensors file."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return {name: (path, 8 + size + entry["data_offsets"][0], tuple(entry["shape"]), entry["dtype"])
            for name, entry in header.items() if name != "__metadata__"}


def _sampled(path: Path, start: int, shape: tuple[int, ...], kind: str) -> Tensor:
    """Every n-th value of a tensor on disk, at most SAMPLES of them."""
    count, dtype = int(np.prod(shape)), TYPES.get(kind, torch.uint8)
    if not count:
        return torch.zeros(0)
    width = dtype.itemsize
    rows = np.memmap(path, np.uint8, "r", offset=start, shape=(count, width))[::max(1, count // SAMPLES)][:SAMPLES]
    return torch.from_numpy(np.array(rows)).view(dtype).flatten()
