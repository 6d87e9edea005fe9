"""How far frames may lie apart: .vov files decoded with one and two CPU threads, and on a GPU where there is one, there
also in bfloat16 by every kernel of attention that is installed.

For each pair: values that differ, the largest difference in levels, the PSNR between the two decodes, and, where
ORIGINAL is set, how much their PSNR to the original differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vov import VovError, bitstream, media, metrics
from vov.config import cli, option
from vov.decoding.decode import decode
from vov.model.backbone import Backbone
from vov.model.registry import backbone_class


@dataclass(frozen=True)
class Study:
    """Which files."""

    files: str = option("", ".vov files, with commas between (required)")
    original: str = option("", "their original, for the differences of PSNR")
    cache_dir: str = option("", "where foundation models are")


def load(header: bitstream.Header, device: str, precision: str, cache_dir: str) -> Backbone:
    """The model of a file."""
    return backbone_class(header.tree).load(header.model_id, cache_dir, device, precision)


def shown(path: str, cache_dir: str, device: str, threads: int, precision: str = "float32",
           attention: str = "auto") -> np.ndarray:
    """Frames of a file's first item, uint8 [T, H, W, 3]."""
    torch.set_num_threads(threads)
    backbone = load(bitstream.read(path).header, device, precision, cache_dir)
    backbone.choose_attention(attention)
    return decode(path, backbone)[0].frames


def apart(one: np.ndarray, other: np.ndarray) -> str:
    """What lies between two decodes, in words."""
    difference = np.abs(one.astype(int) - other.astype(int))
    share = (difference > 0).mean()
    between = f"{metrics.psnr(one, other):.1f} dB between them" if share else "equal to the bit"
    return f"{share:.1e} of the values differ, by at most {difference.max()} levels; {between}"


def main(settings: Study) -> None:
    """Prints a line for every file and pair of ways to decode it."""
    if not settings.files:
        raise VovError("FILES is not set; give .vov files, with commas between")
    ways = {"1 thread": ("cpu", 1), "2 threads": ("cpu", 2)}
    if torch.cuda.is_available():
        ways["GPU"] = ("cuda", 1)
        ways |= {f"GPU, bfloat16, ATTENTION={kernel}": ("cuda", 1, "bfloat16", kernel)
                 for kernel in ("cudnn", "flash")}
    original, where = settings.original, settings.cache_dir
    for path in settings.files.split(","):
        found = {}
        for name, way in ways.items():
            try:
                found[name] = shown(path, where, *way)
            except VovError as problem:
                if "ATTENTION" not in name:  # a kernel that is not here is only said
                    raise
                print(f"{path}: {name}: {problem}")
        first = found["1 thread"]
        print(f"{path}: 1 thread again: {apart(first, shown(path, where, 'cpu', 1))}", flush=True)
        for name, frames in list(found.items())[1:]:
            line = f"{path}: 1 thread, {name}: {apart(first, frames)}"
            if original:
                target = media.read_clip(original, len(first)).frames
                target = media.fit_geometry(target, first.shape[2], first.shape[1], "crop")
                line += f"; {metrics.psnr(target, frames) - metrics.psnr(target, first):+.6f} dB of PSNR"
            print(line, flush=True)


if __name__ == "__main__":
    cli.run(Study, main, "FILES=x.vov [ORIGINAL=clip.mp4] python -m studies.determinism.run")
