"""Targets: whole commands, as `cli.run` runs them: exit code 0, or 1 with one line and nothing written."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import strategies as st

import image.edit
import image.reconstruct
import image.scale
import image.train
import scripts.export
import video.edit
import video.evaluate
import video.reconstruct
import video.scale
import video.train
from image.backbone import QwenBackbone
from image.options import ImageFit
from tests.fuzzing import files, models, weights
from tests.fuzzing.judge import Broken, Target
from video.backbone import WanBackbone
from video.options import VideoFit
from vov import VovError, cli, media
from vov.evaluation.pairs import EvalConfig


@dataclass(frozen=True)
class Command:
    """An entry point and variables with which it succeeds; `varied` are those that a case may change."""

    cls: type
    main: Callable
    base: dict[str, str]
    varied: tuple[str, ...]
    stages: tuple[str, ...] = ("",)
    shape: str = "vov"  # what a case's file is: vov, weights, or none


@functools.cache
def originals() -> Path:
    """A folder with a clip, a picture, and their .vov files."""
    folder = Path(tempfile.mkdtemp(prefix="vov-fuzz-"))
    ramp = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
    frames = np.stack([np.stack([ramp + 3 * t, 2 * ramp, 255 - ramp], -1) for t in range(5)])
    media.write_frames(folder / "clip", frames)
    media.write_image(folder / "a.png", frames[0])
    (folder / "d.txt").write_text("a.png|a ramp\n")
    (folder / "c.txt").write_text("a ramp that moves\n")
    return folder


def commands() -> dict[str, Command]:
    """Every command, with tiny settings. IN is the case's file, OUT its empty folder, MEDIA the originals."""
    wan, qwen = {"CACHE_DIR": "MODELS", "MODEL_ID": "tiny-wan"}, {"CACHE_DIR": "MODELS", "MODEL_ID": "tiny-qwen"}
    fit = {
        "LAST_K": "2",
        "THETA_D_LENGTH": "300",
        "TRAIN_STEPS": "1",
        "WIDTH": "16",
        "HEIGHT": "16",
        "OUT_DIR": "OUT",
        "LR_WARMUP": "0",
        "STAGE2_LAMBDA_RATE": "0.01",
        "DECODE_STEPS": "1",
        "LOSS": "latent",
        "BATCH_SIZE": "1",
        "PREVIEW_EVERY": "0",
    }
    shaping = (
        "RANK",
        "VOV_RANK",
        "LAST_K",
        "THETA_D_LENGTH",
        "WIDTH",
        "HEIGHT",
        "RESIZE",
        "LORA_PRESET",
        "PROJ_SEED",
        "THETA_INIT",
        "LR",
        "LR_SCHEDULE",
        "WEIGHT_DECAY",
        "GRAD_CLIP",
        "NOISE",
        "TIMESTEPS",
        "LOSS",
        "SEED",
        "SAMPLER",
        "SHIFT",
        "GUIDANCE",
        "STAGE2_LAMBDA_RATE",
        "LAMBDA_RATE_WARMUP",
        "INIT_BITS",
        "DTYPE",
        "QUANTIZE",
        "OFFLOAD",
        "DEVICE",
        "RESUME",
        "CAPTION",
        "NAME",
        "INIT_LORA_PATH",
        "STAGE2_WIDTH",
        "STAGE2_RANK",
        "STAGE1_LR",
        "CONFIG",
        "MODEL_ID",
        "OUT_DIR",
        "SAVE_EVERY",
        "CHECKPOINTING",
    )
    editing = (
        "STEPS",
        "SEED",
        "STRENGTH",
        "START_STEP",
        "STOP_STEP",
        "GUIDANCE",
        "REPLAY_NOISE",
        "BASE_CAPTION",
        "ITEM",
        "CAPTION",
        "RANK",
        "LAST_K",
        "WIDTH",
        "THETA_D_LENGTH",
        "NUM_FRAMES",
        "FPS",
        "DTYPE",
        "ORIGINAL_FRAMES_DIR",
        "ORIGINAL",
        "LORA_PRESET",
    )
    scaling = (
        "STEPS",
        "SCHEME",
        "SCALING_BYTES",
        "BITS",
        "ATOMS",
        "BLOCK",
        "CANDIDATES",
        "ETA",
        "FIRST_STEP",
        "CODED_STEPS",
        "THETA_STEPS",
        "START_LEVEL",
        "END_LEVEL",
        "SCORE",
        "CHOICE",
        "SCALING",
        "RANK",
        "DTYPE",
    )
    return {
        "video/train": Command(
            VideoFit,
            video.train.two_stage,
            wan
            | fit
            | {"CONFIG": "nano-video", "FRAMES_DIR": "MEDIA/clip", "NUM_FRAMES": "1", "CAPTION": "a ramp", "NAME": "x"},
            (*shaping, "NUM_FRAMES", "FPS", "FRAMES_DIR", "CAPTION_FILE"),
            ("", "stage1", "stage2"),
            "",
        ),
        "image/train": Command(
            ImageFit,
            image.train.main,
            qwen | fit | {"CONFIG": "nano-image", "DESCRIPTION_FILE": "MEDIA/d.txt", "DATA_ROOT": "MEDIA"},
            (*shaping, "IMAGE", "DATA_ROOT", "CAPTION_START", "CAPTION_END", "DESCRIPTION_FILE"),
            ("", "stage1", "stage2"),
            "",
        ),
        "video/reconstruct": Command(
            video.reconstruct.Reconstruct,
            video.reconstruct.main,
            wan | {"BITSTREAM": "IN", "OUTPUT_DIR": "OUT"},
            ("DTYPE", "QUANTIZE", "MODEL_ID", "OUTPUT_DIR"),
        ),
        "image/reconstruct": Command(
            image.reconstruct.Reconstruct,
            image.reconstruct.main,
            qwen | {"BITSTREAM": "IN", "OUTPUT_DIR": "OUT"},
            ("DTYPE", "QUANTIZE", "MODEL_ID", "OUTPUT_DIR"),
        ),
        "image/reconstruct a checkpoint": Command(
            image.reconstruct.Reconstruct,
            image.reconstruct.main,
            qwen
            | {
                "INIT_LORA_PATH": "IN",
                "OUTPUT_DIR": "OUT",
                "DESCRIPTION_FILE": "MEDIA/d.txt",
                "DATA_ROOT": "MEDIA",
                "LAST_K": "2",
                "THETA_D_LENGTH": "300",
                "WIDTH": "16",
                "HEIGHT": "16",
                "DECODE_STEPS": "2",
            },
            (*editing, "SHIFT", "SAMPLER"),
            shape="weights",
        ),
        "video/edit": Command(
            video.edit.EditMerge,
            video.edit.run,
            wan
            | {
                "WEIGHTS1": "IN",
                "WEIGHTS2": "GOLDEN/video_noise.vov",
                "CAPTION": "else",
                "OUTPUT_VIDEO": "OUT/e.mp4",
                "STEPS": "2",
                "LAST_K": "2",
                "THETA_D_LENGTH": "300",
                "WIDTH": "16",
                "HEIGHT": "16",
                "NUM_FRAMES": "1",
            },
            editing,
            shape="weights",
        ),
        "image/edit": Command(
            image.edit.EditMerge,
            image.edit.run,
            qwen
            | {
                "WEIGHTS1": "IN",
                "WEIGHTS2": "GOLDEN/image_noise.vov",
                "CAPTION": "else",
                "OUTPUT": "OUT/e.png",
                "STEPS": "2",
            },
            editing,
        ),
        "video/scale": Command(
            video.scale.Scale,
            video.scale.main,
            wan
            | {
                "BITSTREAM": "GOLDEN/video_theta.vov",
                "ORIGINAL_FRAMES_DIR": "MEDIA/clip",
                "OUTPUT": "OUT/s.vov",
                "STEPS": "3",
            },
            scaling,
            shape="",
        ),
        "image/scale": Command(
            image.scale.Scale,
            image.scale.main,
            qwen
            | {"BITSTREAM": "GOLDEN/image_noise.vov", "ORIGINAL": "MEDIA/a.png", "OUTPUT": "OUT/s.vov", "STEPS": "3"},
            scaling,
            shape="",
        ),
        "video/eval": Command(
            EvalConfig,
            video.evaluate.main,
            wan
            | {
                "REAL_DIR": "MEDIA/clip",
                "FAKE_DIR": "MEDIA/clip",
                "OUT_DIR": "OUT/results",
                "WORK_DIR": "OUT/work",
                "SKIP_METRICS": "1",
                "SKIP_FVD": "1",
                "REPORT_VIDEO": "0",
            },
            (
                "REAL_DIR",
                "FAKE_DIR",
                "NAME",
                "BITSTREAM",
                "MANIFEST",
                "NUM_FRAMES",
                "METRICS",
                "FRAME_STEP",
                "ANCHORS",
                "ANCHOR_RATES",
                "ANCHOR_BYTES",
                "BD_ANCHOR",
                "REFERENCE_CURVES",
                "JOD_DISPLAY",
                "REPORT_FRAMES",
            ),
            shape="",
        ),
        "scripts/export": Command(
            scripts.export.Export,
            scripts.export.main,
            wan | {"INPUT": "IN", "OUTPUT": "OUT/x.safetensors", "LAST_K": "2"},
            ("FORMAT", "LORA_KEYS", "RANK", "LAST_K", "LORA_PRESET", "PROJ_SEED", "OUTPUT", "MODEL_ID"),
            shape="weights",
        ),
    }


SMALL = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "16",
        "17",
        "24",
        "32",
        "-1",
        "-2",
        "0.5",
        "1e-30",
        "nan",
        "inf",
        "1e30",
        "x",
        "",
        " ",
        "1,2",
        "0,1",
        ",",
        "1,x",
        "\n",
        "a\nb",
        "①",
        "GOLDEN/video_theta.vov",
        "MEDIA/clip",
        "MEDIA/a.png",
        "MEDIA/d.txt",
        "MEDIA/none",
        "MEDIA",
        "IN",
        "OUT/o",
        "OUT/a/b",
        "/dev/null",
        "/proc/nothing",
        "GOLDEN/README.md",
        "x" * 300,
        "../x",
        "pixel",
        "lookahead",
        "likelihood",
        "random",
        "uniform",
        "euler",
        "unipc",
        "qkv",
        "qkvo_mlp",
        "stretch",
        "pad",
        "shifts",
        "paper",
        "blocks",
        "sample",
        "bfloat16",
        "float16",
        "fp8",
        "nf4",
        "cuda",
        "cpu",
        "tiny-wan",
        "tiny-qwen",
        "nano-video",
        "qwen-image",
        "peft",
        "reference",
        "psnr",
        "vvc",
        str(2**31),
        str(2**63),
        str(2**64),
        str(10**30),
        "猫",
        "a" * 20000,
    ]
)


@st.composite
def cases(draw) -> tuple[str, dict[str, str], bytes]:
    name = draw(st.sampled_from(sorted(commands())))
    command = commands()[name]
    environ = draw(st.dictionaries(st.sampled_from(command.varied), SMALL, max_size=3))
    tree = "image" if name.startswith("image") else "video"
    data = b""
    if command.shape == "vov" or (command.shape == "weights" and draw(st.booleans())):
        data = files.BYTES[f"{tree}_noise"] if draw(st.booleans()) else draw(files.whole_files(tree))
    elif command.shape:
        data = draw(weights.checkpoints() | weights.foreign())
    return name, environ, data


def run(case: tuple[str, dict[str, str], bytes], folder: Path) -> None:
    """Runs the command; a line on stderr and exit code 1 count as a refusal."""
    name, changes, data = case
    command = commands()[name]
    out = Path(tempfile.mkdtemp(prefix="vov-fuzz-in-"))
    ours = bytes(data[:4]) == b"\x89VOV"
    (source := out / ("case.vov" if ours else "case.safetensors")).write_bytes(data)
    places = {
        "MODELS": str(models.folder()),
        "MEDIA": str(originals()),
        "GOLDEN": str(models.GOLDEN),
        "OUT": str(folder),
        "IN": str(source),
    }

    def placed(value: str) -> str:
        head, slash, rest = value.partition("/")
        return places[head] + slash + rest if head in places else value

    environ = {key: placed(value) for key, value in (command.base | changes).items() if "\0" not in value}
    said, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.dict(os.environ, environ),
            mock.patch("sys.argv", ["fuzz"]),
            _kept("train" in name),
        ):
            cli.run(command.cls, command.main, "usage", stages=command.stages)
    except SystemExit as ended:
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        if ended.code != 1 or "Traceback" in said.getvalue() or sum(line.startswith("error: ") for line in lines) != 1:
            raise Broken(f"{name}: exit code {ended.code}, said {lines}") from ended
        if not lines[-1].startswith("error: "):
            raise Broken(f"{name}: an error of several lines: {lines}") from ended
        if "lower LR" in lines[-1]:  # a fit that went astray, not one that was refused
            for path in folder.iterdir():
                shutil.rmtree(path)
        raise VovError(lines[-1]) from ended
    finally:
        os.chdir(before)
        shutil.rmtree(out)


@contextlib.contextmanager
def _kept(fresh: bool):
    """Loading a tiny model gives the one in memory, or (for a fit, which may fail while it is adapted) a new one."""
    real = {kind: kind.load.__func__ for kind in (WanBackbone, QwenBackbone)}

    def load(cls, model_id, cache_dir, device="auto", precision="auto", trusted=True, offload="none"):
        if (
            model_id in ("tiny-wan", "tiny-qwen")
            and precision in ("auto", "float32", "")
            and offload == "none"
            and device != "cuda"
            and cls.usual_model.startswith("Wan") == (model_id == "tiny-wan")
        ):
            return models.backbone.__wrapped__(cls.tree) if fresh else models.backbone(cls.tree)
        return real[cls](cls, model_id, cache_dir, device, precision, trusted, offload)

    with (
        mock.patch.object(WanBackbone, "load", classmethod(load)),
        mock.patch.object(QwenBackbone, "load", classmethod(load)),
    ):
        yield


TARGETS = [Target("whole commands", cases(), run, 10)]
