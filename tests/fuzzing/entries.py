"""Targets: whole commands, as `cli.run` runs them: exit code 0, or 1 with one line and nothing written."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from tests.fuzzing import files, models, sequences, weights
from tests.fuzzing.commands import commands
from tests.fuzzing.judge import Broken, Target
from vov import VovError, media
from vov.config import cli
from vov.model.qwen import QwenBackbone
from vov.model.wan import WanBackbone


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


SMALL = st.sampled_from([
    "0", "1", "2", "3", "4", "5", "16", "17", "24", "32", "-1", "-2", "0.5", "1e-30", "nan", "inf", "1e30", "x", "",
    " ", "1,2", "0,1", ",", "1,x", "\n", "a\nb", "①", "GOLDEN/video_theta.vov", "MEDIA/clip", "MEDIA/a.png",
    "MEDIA/d.txt", "MEDIA/none", "MEDIA", "IN", "OUT/o", "OUT/a/b", "/dev/null", "/proc/nothing", "GOLDEN/README.md",
    "x" * 300, "../x", "pixel", "lookahead", "likelihood", "random", "uniform", "euler", "unipc", "qkv", "qkvo_mlp",
    "stretch", "pad", "shifts", "paper", "blocks", "sample", "bfloat16", "float16", "fp8", "nf4", "cuda", "cpu",
    "tiny-wan", "tiny-qwen", "nano-video", "qwen-image", "peft", "reference", "psnr", "vvc", str(2**31), str(2**63),
    str(2**64), str(10**30), "猫", "a" * 20000,
])


@st.composite
def cases(draw) -> tuple[str, dict[str, str], bytes]:
    name = draw(st.sampled_from(sorted(commands())))
    command = commands()[name]
    environ = draw(st.dictionaries(st.sampled_from(command.varied), SMALL, max_size=3))
    tree = "image" if name.startswith("image") else "video"
    data = b""
    if command.shape == "vov" or (command.shape == "weights" and draw(st.booleans())):
        data = files.BYTES[f"{tree}_noise"] if draw(st.booleans()) else draw(files.whole_files(tree))
        if not draw(st.integers(0, 4)):
            data = draw(sequences.whole_files())[0] if draw(st.booleans()) else sequences.DATA
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
            and (cls is WanBackbone) == (model_id == "tiny-wan")
        ):
            return models.backbone.__wrapped__(cls.tree) if fresh else models.backbone(cls.tree)
        return real[cls](cls, model_id, cache_dir, device, precision, trusted, offload)

    with (
        mock.patch.object(WanBackbone, "load", classmethod(load)),
        mock.patch.object(QwenBackbone, "load", classmethod(load)),
    ):
        yield


TARGETS = [Target("whole commands", cases(), run, 10)]
