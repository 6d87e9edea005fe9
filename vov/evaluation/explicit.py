"""The explicit code of the same foundation model: its VAE latents, rounded and entropy coded, decoded by its VAE.

It shares everything with a `.vov` file but the idea, so it is the honest opponent of an implicit vector: same
autoencoder, same coder, real bytes on disk, decoded from those bytes. One uniform step for all channels (latents are
normalised, so channels compare), and for every channel the static table of counts that its own symbols have.

    file      magic 89 'VLQ', version byte, model fingerprint (8 bytes), varints width, height, frames and the latent's
              C, T, h, w, float32 step, float32 fps, coded symbols [C, T·h·w], CRC-32 of all before
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vov import VovError
from vov.bitstream.reader import Reader, varint
from vov.bitstream.symbols import MAX_SYMBOLS, decode_symbols, encode_symbols
from vov.media import Clip
from vov.runtime.files import write_bytes

MAGIC, VERSION = b"\x89VLQ", 1
STEPS = (2.0**-4, 2.0**4)  # the range in which a step is searched, in standard deviations of a latent channel


class Autoencoder(Protocol):
    """What is needed of a `vov.model.backbone.Backbone`."""

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 RGB [T, H, W, 3] → normalised latents [1, C, T', h, w], float32."""

    def decode(self, latents: Tensor) -> np.ndarray:
        """The inverse, as uint8 RGB."""

    def fingerprint(self) -> bytes:
        """8 bytes that tell one model from another."""


@dataclass(frozen=True)
class Explicit:
    """The contents of a file: integer symbols int32 [C, T', h, w] and what turns them into frames."""

    symbols: np.ndarray
    step: float
    width: int
    height: int
    frames: int
    fps: float
    fingerprint: bytes


def quantise(latents: np.ndarray, step: float) -> np.ndarray:
    """Nearest multiples of `step`, as int32."""
    return np.rint(latents / np.float32(step)).astype(np.int32)


def to_bytes(explicit: Explicit) -> bytes:
    """The file as bytes."""
    numbers = (explicit.width, explicit.height, explicit.frames, *explicit.symbols.shape)
    body = (MAGIC + bytes([VERSION]) + explicit.fingerprint + b"".join(varint(int(n)) for n in numbers)
            + struct.pack("<ff", explicit.step, explicit.fps)
            + encode_symbols(explicit.symbols.reshape(explicit.symbols.shape[0], -1)))
    return body + zlib.crc32(body).to_bytes(4, "little")


def from_bytes(data: bytes, source: str = "explicit file") -> Explicit:
    """The inverse of `to_bytes`; raises VovError, and only that, for anything it did not write."""
    reader = Reader(data[:-4], source)
    if data[:5] != MAGIC + bytes([VERSION]) or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise reader.error("file", "is damaged or not one of quantised latents", "encode it again")
    reader.take(5, "magic")
    fingerprint = reader.take(8, "fingerprint")
    width, height, frames = (reader.varint("size", high=1 << 16, low=1) for _ in range(3))
    shape = tuple(reader.varint("latent shape", high=MAX_SYMBOLS, low=1) for _ in range(4))
    step, fps = struct.unpack("<ff", reader.take(8, "step"))
    if not (STEPS[0] / 16 <= step <= STEPS[1] * 16) or not 0 < fps <= 1000:
        raise reader.error("step", f"{step:g} at {fps:g} frames per second is out of bounds")
    rows = (shape[0], shape[1] * shape[2] * shape[3])
    symbols = decode_symbols(reader.take(reader.remaining, "symbols"), rows, source).reshape(shape)
    return Explicit(symbols, step, width, height, frames, fps, fingerprint)


def write(path: str | Path, explicit: Explicit) -> int:
    """Writes the file, whole or not at all; returns its bytes."""
    data = to_bytes(explicit)
    write_bytes(path, data)
    return len(data)


def decode_file(path: str | Path, backbone: Autoencoder) -> Clip:
    """Frames of a file of quantised latents; raises VovError when another model made it."""
    explicit = from_bytes(Path(path).read_bytes(), str(path))
    if explicit.fingerprint != backbone.fingerprint():
        raise VovError(f"{path}: was made with another model than the one at hand; decode it with that model")
    latents = torch.from_numpy(explicit.symbols.astype(np.float32) * np.float32(explicit.step))[None]
    frames = backbone.decode(latents.to(getattr(backbone, "device", "cpu")))
    return Clip(frames[:explicit.frames, :explicit.height, :explicit.width], explicit.fps)


def encode(clip: Clip, backbone: Autoencoder, targets: Iterable[int], folder: Path) -> list[Path]:
    """One file of about each target size in bytes (within the coder's few per cent), smallest first.

    A clip whose size or length the model does not take is extended by repeating its edge and its last frame; the
    decoder cuts that off again.
    """
    latents = backbone.encode(_extended(clip.frames, getattr(backbone, "unit", 16)))[0].float().cpu().numpy()
    paths = []
    for target in sorted(targets):
        step = step_for(latents, target)
        width, height = clip.size
        explicit = Explicit(quantise(latents, step), step, width, height, len(clip.frames), clip.fps,
                            backbone.fingerprint())
        path = folder / f"step{step:.4f}.vlq"
        write(path, explicit)
        if path not in paths:
            paths.append(path)
    return paths


def _extended(frames: np.ndarray, unit: int) -> np.ndarray:
    """[T, H, W, 3] with T = 4n + 1 and sides that are multiples of `unit`."""
    count, height, width = frames.shape[:3]
    return np.pad(frames, ((0, -(count - 1) % 4), (0, -height % unit), (0, -width % unit), (0, 0)), mode="edge")


def step_for(latents: np.ndarray, target: int) -> float:
    """The step whose symbols have about `target` bytes by their order-0 entropy per channel plus their tables."""
    low, high = np.log2(STEPS)
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy_bytes(quantise(latents, 2.0**middle)) > target else (low, middle)
    return float(np.float32(2.0**high))


def entropy_bytes(symbols: np.ndarray) -> float:
    """Order-0 entropy per channel of int32 [C, …], in bytes, plus a byte for each entry of the tables and a header."""
    total = 42.0
    for row in symbols.reshape(symbols.shape[0], -1):
        counts = np.bincount(row - row.min())
        used = counts[counts > 0]
        total += float((used * np.log2(row.size / used)).sum()) / 8 + (len(counts) + 3 if len(used) > 1 else 2)
    return total
