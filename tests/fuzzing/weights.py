"""Targets: checkpoints that a fit resumes, starts from, edits or exports, and PEFT folders."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.fuzzing import edits, models
from tests.fuzzing.judge import Broken, Target
from tests.fuzzing.tensors import Tensors, other_tensors, safetensors, safetensors_beside, tensor
from vov.adapter.adapted import AdaptedModel
from vov.commands.options import VideoFit
from vov.editing import edit as editing
from vov.fitting.encoder import Encoder, read_start
from vov.fitting.fit import Fit, FitContext
from vov.formats import export
from vov.formats.peft import CONFIG, WEIGHTS, write_peft
from vov.formats.reference import load_reference
from vov.media.original import Original

FIT = VideoFit(
    config="",
    width=32,
    height=32,
    num_frames=1,
    rank=1,
    theta_length=300,
    last_k=2,
    train_steps=4,
    lr_warmup=0,
    preview_every=0,
    noise="anchored",
    loss="latent",
    lambda_rate=0.01,
    seed=3,
)


@functools.cache
def job() -> tuple[Encoder, Fit]:
    """A stage-2 fit of one grey frame, in a model of its own; after one step it only reads checkpoints."""
    backbone = models.backbone.__wrapped__("video")
    encoder = Encoder(backbone, [Original(np.full((1, 32, 32, 3), 90, np.uint8), 8.0, "a ball", "x")], FIT)
    folder = Path(tempfile.mkdtemp(prefix="vov-fuzz-"))
    fit = Fit(encoder.model, encoder.items, FIT, folder, FitContext(content=encoder.content, notes=encoder.notes))
    fit.advance(0)
    fit._save(folder / "checkpoint.safetensors", 1)
    return encoder, fit


@functools.cache
def base() -> tuple[Tensors, dict[str, Any]]:
    """Tensors and our metadata of that fit's checkpoint."""
    data = (job()[1].folder / "checkpoint.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    metadata = json.loads(header.pop("__metadata__")["vov"])
    return {
        name: (entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }, metadata


@st.composite
def checkpoints(draw) -> bytes:
    """One of our checkpoints, in which a few tensors or facts are others."""
    tensors, metadata = base()
    if draw(st.booleans()):
        metadata = draw(edits.damaged(metadata))
    if draw(st.booleans()):
        tensors = draw(
            other_tensors(
                tensors,
                (
                    "unilora_theta_d",
                    "base_model.unilora_theta_d",
                    "fit.x",
                    "optimizer.9.step",
                    "unilora_bit_estimator.x",
                ),
            )
        )
    told = edits.dumped(metadata) if draw(st.integers(0, 9)) else draw(edits.TEXT)
    data = safetensors(tensors, {"vov": told} if draw(st.integers(0, 9)) else None)
    return draw(edits.changed(data, 3)) if draw(st.integers(0, 9)) == 0 else data


LORA = {
    f"diffusion_model.blocks.0.self_attn.{name}.lora_{part}.weight": tensor(np.zeros(shape, np.float32))
    for name in "qkv"
    for part, shape in (("A", (1, 24)), ("B", (24, 1)))
}


@st.composite
def foreign(draw) -> bytes:
    """A checkpoint of the reference: bare or wrapped names, any type; or a standard LoRA."""
    wrap = draw(st.sampled_from(["{}", "{}", "module.{}", "base_model.{}", "base_model.model.blocks.0.{}.default"]))
    tensors = {
        wrap.format("unilora_theta_d"): tensor(np.zeros(300, np.float32)),
        wrap.format("unilora_scale_quant"): tensor(np.array(-5, np.float32)),
        wrap.format("unilora_bit_estimator._matrix0"): tensor(np.zeros((1, 3, 1), np.float32)),
    }
    if draw(st.integers(0, 4)) == 0:
        tensors = LORA
    tensors = draw(other_tensors(tensors, ("unilora_theta_d", "x.unilora_theta_d.default")))
    data = safetensors(
        tensors,
        draw(st.none() | st.dictionaries(st.sampled_from(["format", "vov"]), edits.TEXT | edits.JUNK, max_size=2)),
    )
    if draw(st.integers(0, 9)) == 0:
        data = draw(st.sampled_from([b"PK\x03\x04", b"\x80\x02}", b"", b"\xff" * 16, struct.pack("<Q", 2**40)])) + data
    return draw(edits.changed(data, 3)) if draw(st.integers(0, 4)) == 0 else data


@contextlib.contextmanager
def _at(folder: Path, data: bytes):
    path = folder / "case.safetensors"
    path.write_bytes(data)
    try:
        yield path
    finally:
        path.unlink()


def resume(data: bytes, folder: Path) -> None:
    """Goes on from a checkpoint; what is accepted leaves the fit whole."""
    fit = job()[1]
    with _at(folder, data) as path:
        step = fit._resume(path)
    state = fit.optimizer.state[fit.theta]
    if type(step) is not int or not 0 <= step <= FIT.train_steps:
        raise Broken(f"goes on at step {step!r}")
    if fit.theta.shape != (300,) or state["exp_avg"].shape != (300,) or state["exp_avg"].dtype != torch.float32:
        raise Broken("θ or its optimiser has another shape or type")
    if not all(torch.isfinite(tensor).all() for tensor in (fit.theta, state["exp_avg"], *fit.rate.parameters())):
        raise Broken("goes on from NaN or infinity")


def start(data: bytes, folder: Path) -> None:
    """INIT_LORA_PATH: starts a fit from a checkpoint."""
    encoder, fit = job()
    with _at(folder, data) as path:
        found = read_start(str(path), FIT, fit.backbone, encoder.model.projection)
    if not torch.isfinite(fit._initial_theta(found)).all():
        raise Broken("starts from NaN or infinity")
    fit._initial_rate(found)


def edit(data: bytes, folder: Path) -> None:
    """WEIGHTS: merges a checkpoint's θ into the model."""
    backbone = models.backbone("video")
    settings = editing.EditConfig(rank=1, theta_length=300, last_k=2, width=32, height=32, num_frames=1)
    with _at(folder, data) as path:
        found = editing.load(path, settings, "video")
    settings.load(Kept, found.stream.header if found.stream else found.metadata, found.source)
    backbone.check_geometry(found.settings.width, found.settings.height, found.num_frames)
    with AdaptedModel(backbone, found.spec) as merged:
        merged.bind(found.theta, weights=[1.0])


class Kept:
    """A backbone's class whose `load` takes what the real one takes, and loads nothing."""

    usual_model = "tiny-wan"

    @staticmethod
    def load(model_id: str, cache_dir: str, device: str, precision: str, trusted: bool,
             offload: str) -> SimpleNamespace:
        from vov.model.lookup import find_model, pick_dtype
        from vov.model.memory import split_precision

        pick_dtype(split_precision(precision)[0], torch.device("cpu"))
        find_model(model_id, str(models.folder()), trusted)
        return SimpleNamespace()


def exported(data: bytes, folder: Path) -> None:
    """INPUT: reads a checkpoint and expands it."""
    with _at(folder, data) as path:
        found = export.read(path)
        _attach(found)
        load_reference(path)


def _attach(found: export.Exportable) -> None:
    backbone = models.backbone("video")
    adapter, projection = found.attach(type(backbone), backbone.transformer, {"last_k": 2, "rank": None})
    try:
        projection.factors(projection.expand(found.theta))
    finally:
        adapter.remove()


@functools.cache
def peft_base() -> tuple[dict[str, Any], Tensors]:
    """What we ourselves write."""
    encoder, _ = job()
    folder = Path(tempfile.mkdtemp(prefix="vov-fuzz-"))
    write_peft(folder, torch.zeros(300), encoder.model.adapter.names, encoder.model.projection, "tiny-wan")
    return json.loads((folder / CONFIG).read_text()), {
        "base_model.unilora_theta_d": tensor(np.zeros(300, np.float32))
    }


PATTERNS = st.sampled_from(
    [
        r"(([a-z0-9_.])+)+!",
        r"(.*)*!",
        r"((a|.)*)*x{2,}",
        ".*",
        "blocks.*to_q",
        "(" * 200,
        "to_q",
        "a{1000000}",
        r"(x{1000}){1000}",
        "[",
        r"(?P<a>.)(?P=a)",
        "(?:" * 90 + ")" * 90,
        r"\1",
        "(?i)BLOCKS.*TO_Q",
        r"(\w+\s?)*$",
        "^(a+)+$",
        r"(?=(\w+))\1:",
        "all-linear",
    ]
)
KEYS = (
    "r",
    "theta_d_length",
    "proj_seed",
    "target_modules",
    "peft_type",
    "base_model_name_or_path",
    "bias",
    "modules_to_save",
    "layers_to_transform",
    "fan_in_fan_out",
    "exclude_modules",
)


@st.composite
def peft_folders(draw) -> tuple[bytes, bytes]:
    """adapter_config.json and adapter_model.safetensors."""
    config, tensors = peft_base()
    fields = dict.fromkeys(KEYS, edits.JUNK) | {
        "r": edits.WHOLE,
        "proj_seed": edits.WHOLE,
        "target_modules": PATTERNS | st.lists(edits.TEXT, max_size=3),
    }
    config = draw(edits.replaced(config, fields))
    tensors = draw(other_tensors(tensors, ("base_model.model.blocks.0.attn1.to_q.unilora_indices_A",)))
    head = edits.dumped(config).encode()
    if draw(st.integers(0, 4)) == 0:
        head = draw(edits.changed(head, 3) | st.sampled_from([b"[" * 100_000, b"1" * 10_000, b"\xff", b"null", b"[]"]))
    told = {
        "format": "pt",
        "vov": draw(
            st.just("{}") | st.builds(edits.dumped, st.fixed_dictionaries({"index_hash": edits.JUNK})) | edits.TEXT
        ),
    }
    data = safetensors(tensors, told)
    return head, draw(edits.changed(data, 2)) if draw(st.integers(0, 4)) == 0 else data


def peft_folder(case: tuple[bytes, bytes], folder: Path) -> None:
    """Reads a PEFT adapter and expands it."""
    for name, data in zip((CONFIG, WEIGHTS), case, strict=True):
        (folder / name).write_bytes(data)
    try:
        _attach(export.read(folder))
    finally:
        for name in (CONFIG, WEIGHTS):
            (folder / name).unlink()


TARGETS = [
    Target("checkpoint to go on from", st.deferred(lambda: checkpoints()), resume, 40, safetensors_beside),
    Target(
        "checkpoint to start from", st.deferred(lambda: checkpoints()) | foreign(), start, 30, safetensors_beside
    ),
    Target("checkpoint to edit", st.deferred(lambda: checkpoints()) | foreign(), edit, 30, safetensors_beside),
    Target(
        "checkpoint to export", st.deferred(lambda: checkpoints()) | foreign(), exported, 30, safetensors_beside
    ),
    Target("PEFT folder", st.deferred(lambda: peft_folders()), peft_folder, 25, safetensors_beside),
]
