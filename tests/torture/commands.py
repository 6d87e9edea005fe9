"""The commands that are tortured, with tiny models, and how one is run in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fuzzing import models
from vov.runtime.files import REPO

VOLATILE = re.compile(r"tensorboard/|\.lock$|results\.(md|csv)$|report\.html$|rd\.svg$")  # hold dates and seconds
CLOCK = ("seconds", "created", "command", "config", "environment")


@dataclass(frozen=True)
class Command:
    """One command: entry (module of vov.commands, function) and script, and its variables. OUT in them is the folder it
    writes to."""

    name: str
    entry: str
    script: str
    variables: Mapping[str, str]

    def environment(self, out: Path) -> dict[str, str]:
        """The variables for one folder."""
        return {key: value.replace("OUT", str(out)) for key, value in self.variables.items()}


def all_commands(media: Path) -> list[Command]:
    """The commands, smallest useful settings; `media` gets a clip, and must hold fit/x.vov for the readers."""
    model = {"CACHE_DIR": str(models.folder()), "DEVICE": "cpu"}
    wan, qwen = model | {"MODEL_ID": "tiny-wan"}, model | {"MODEL_ID": "tiny-qwen"}
    fit = {
        "LAST_K": "2",
        "THETA_D_LENGTH": "300",
        "TRAIN_STEPS": "8",
        "SAVE_EVERY": "2",
        "PREVIEW_EVERY": "5",
        "LAMBDA_RATE_WARMUP": "4",
        "LR": "0.02",
        "LR_WARMUP": "2",
        "NOISE": "mix",
        "TIMESTEPS": "shifted",
    }
    clip = {
        "FRAMES_DIR": str(media / "clip"),
        "CAPTION": "a ramp",
        "NAME": "x",
        "WIDTH": "32",
        "HEIGHT": "32",
        "NUM_FRAMES": "5",
    }
    stage1 = wan | fit | clip | {"CONFIG": "nano-video"}
    sequence = wan | {
        "CONFIG": "nano-video",
        "FRAMES_DIR": str(media / "long"),
        "WIDTH": "32",
        "HEIGHT": "32",
        "NUM_FRAMES": "5",
        "KEY_EVERY": "2",
        "STEPS": "4",
        "OUT_DIR": "OUT",
        "NAME": "x",
    }
    return [
        Command("fit, stage 1", "fit:stage1", "video/train/stage1_train.sh", stage1 | {"OUT_DIR": "OUT"}),
        Command(
            "fit, both stages",
            "fit:two_stage",
            "video/train/run_two_stage.sh",
            stage1 | {"OUT_DIR": "OUT", "STAGE2_LAMBDA_RATE": "0.01"},
        ),
        Command(
            "fit of pictures",
            "fit:fit_pictures",
            "image/train_multi.sh",
            qwen
            | fit
            | {
                "CONFIG": "nano-image",
                "DESCRIPTION_FILE": str(media / "d.txt"),
                "CAPTION_END": "0",
                "DATA_ROOT": str(media),
                "WIDTH": "32",
                "HEIGHT": "32",
                "OUT_DIR": "OUT",
                "STAGE2_LAMBDA_RATE": "0.01",
            },
        ),
        Command(
            "noise search",
            "add_noise:add_noise_video",
            "video/scaling/sample.sh",
            wan
            | {
                "BITSTREAM": str(media / "fit" / "x.vov"),
                "ORIGINAL_FRAMES_DIR": str(media / "clip"),
                "STEPS": "6",
                "SCORE": "lookahead",
                "SCALING_BYTES": "60",
                "OUTPUT": "OUT/x.vov",
            },
        ),
        Command(
            "decode",
            "decode:decode_video",
            "video/reconstruct/reconstruct.sh",
            wan | {"BITSTREAM": str(media / "fit" / "x.vov"), "OUTPUT_DIR": "OUT"},
        ),
        Command("sequence of chunks", "encode:encode_video", "video/encode.sh", sequence | {"BYTES_PER_FRAME": "12"}),
        Command(
            "sequence with a theta for each scene",
            "encode:encode_video",
            "video/encode.sh",
            sequence | {"SCENE_THETA": "40", "SCENE_STEPS": "8", "TARGET_BYTES": "600"},
        ),
        Command(
            "noise of pictures",
            "encode:encode_pictures",
            "image/encode.sh",
            qwen
            | {
                "CONFIG": "nano-image",
                "DESCRIPTION_FILE": str(media / "d.txt"),
                "DATA_ROOT": str(media),
                "WIDTH": "32",
                "HEIGHT": "32",
                "STEPS": "6",
                "SCALING_BYTES": "60",
                "OUT_DIR": "OUT",
            },
        ),
        Command(
            "evaluation",
            "evaluate:evaluate_clips",
            "video/eval/eval.sh",
            wan
            | {
                "REAL_DIR": str(media / "clip"),
                "FAKE_DIR": str(media / "fit" / "x.vov"),
                "OUT_DIR": "OUT/results",
                "WORK_DIR": "OUT/work",
                "SKIP_FVD": "1",
                "METRICS": "psnr,ssim",
            },
        ),
    ]


STAGES = {
    "fit:two_stage": ("", "stage1", "stage2"),
    "fit:fit_pictures": ("", "stage1", "stage2"),
    "fit:stage1": ("stage1",),
    "encode:encode_video": ("encode",),
    "encode:encode_pictures": ("encode",),
}
CLASSES = {
    "fit:stage1": "options:VideoFit",
    "fit:two_stage": "options:VideoFit",
    "fit:fit_pictures": "options:ImageFit",
    "add_noise:add_noise_video": "add_noise:AddNoiseVideo",
    "encode:encode_video": "encode:EncodeVideo",
    "encode:encode_pictures": "encode:EncodePictures",
    "decode:decode_video": "decode:DecodeVideo",
    "evaluate:evaluate_clips": "evaluate:EvalConfig",
}


def _named(text: str):
    from importlib import import_module

    module, _, name = text.partition(":")
    return getattr(import_module(f"vov.commands.{module}"), name)


def make_media(folder: Path) -> None:
    """A clip of 5 frames, one of 17 and two pictures."""
    from vov import media

    ramp = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
    frames = np.stack([np.stack([ramp + 9 * t, 2 * ramp, 255 - ramp], -1) for t in range(17)])
    media.write_frames(folder / "long", frames)
    media.write_frames(folder / "clip", frames[:5])
    for name, frame in zip("ab", frames[:2], strict=True):
        media.write_image(folder / f"{name}.png", frame)
    (folder / "d.txt").write_text("a.png|a ramp\nb.png|another ramp\n")


def warm_up() -> None:
    """Everything that takes seconds and changes nothing: imports, and the models on disk."""
    import diffusers  # noqa: F401
    import torch
    from diffusers import (  # noqa: F401
        AutoencoderKLQwenImage,
        AutoencoderKLWan,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
        WanPipeline,
        WanTransformer3DModel,
    )
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: F401

    from vov.fitting.rate import RateModel

    torch.set_num_threads(1)  # before any work: threads do not survive a fork
    models.folder()
    for entry, cls in CLASSES.items():
        _named(entry)
        _named(cls)
    RateModel()
    import av  # noqa: F401

    import vov.commands.add_noise
    import vov.commands.film
    import vov.commands.stages
    import vov.evaluation.evaluate
    import vov.noise.items  # noqa: F401


def start(command: Command, out: Path, said: Path, before=None) -> int:
    """Forks a process that runs the command's entry point as its script would; returns its number.

    said: file that gets its standard error. before: called in the new process first (limits).
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        for number, path in ((1, "/dev/null"), (2, str(said))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(command.environment(out))
        sys.argv = [command.entry]
        if before:
            before()
        from tqdm import tqdm

        from vov.config import cli

        tqdm.set_lock(threading.RLock())  # its own is shared with all forks, and one that is killed never gives it back

        cli.run(_named(CLASSES[command.entry]), _named(command.entry), "usage", stages=STAGES.get(command.entry, ("",)))
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill(pid: int) -> None:
    """SIGKILL to a process of `start` and to its children, even when it has just been forked."""
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        os.kill(pid, 9)


def wait(pid: int, seconds: float = 120.0) -> int:
    """The exit code of a process, −9 for one that was killed; it is killed when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            kill(pid)
            os.waitpid(pid, 0)
            return 124
        time.sleep(0.005)


def typed(command: Command, out: Path, said: Path) -> subprocess.Popen:
    """The command as a user types it."""
    arguments = ["x"] if command.entry.startswith("add_noise") else []
    return subprocess.Popen(
        ["bash", str(REPO / command.script), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=said.open("w"),
        env=os.environ | command.environment(out) | {"NUM_GPUS": "1"},
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, str]:
    """{path: hash} of all files of a run, without what dates and seconds are in."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            continue
        found[name] = "" if VOLATILE.search(name) else hashlib.sha256(_timeless(path)).hexdigest()[:16]
    return {name: value for name, value in found.items() if not name.startswith(".lock") and "tensorboard/" not in name}


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name.startswith(".made-"):  # hashes of outputs, some of which hold seconds
        return json.dumps({key: value for key, value in json.loads(data).items() if key == "identity"}).encode()
    if path.suffix == ".json":
        return json.dumps({k: v for k, v in json.loads(data).items() if k not in CLOCK}).encode()
    if path.suffix == ".jsonl":
        return b"".join(
            json.dumps({k: v for k, v in json.loads(line).items() if k not in CLOCK}).encode() + b"\n"
            for line in data.splitlines()
        )
    return data
