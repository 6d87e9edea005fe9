"""The tiny models that files are tried against, built once a process and kept in memory."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from tests import tiny

GOLDEN = Path(__file__).parents[1] / "golden"


@functools.cache
def folder() -> Path:
    """Where the models are: FUZZ_MODELS, or a new folder; built when it is empty."""
    place = Path(os.environ.get("FUZZ_MODELS") or tempfile.mkdtemp(prefix="vov-fuzz-"))
    for name, build in (("tiny-wan", tiny.build_wan), ("tiny-qwen", tiny.build_qwen)):
        if not (place / name / "model_index.json").is_file():
            build(place / name)
    return place


@functools.cache
def backbone(tree: str):
    """The tiny model of a tree, float32 on the CPU."""
    from vov.model.qwen import QwenBackbone
    from vov.model.wan import WanBackbone

    kind, name = (WanBackbone, "tiny-wan") if tree == "video" else (QwenBackbone, "tiny-qwen")
    return kind.load(str(folder() / name), "", "cpu", "float32")
