"""Small runs of the real commands' functions, in this process: a Python start with torch costs more than the run."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.test_fit import ball
from vov import media
from vov.commands import fit
from vov.commands.encode import EncodeVideo, encode_video
from vov.commands.options import ImageFit, VideoFit
from vov.fitting.distributed import World

SHORT = dict(config="", last_k=2, rank=1, theta_length=300, lr=0.02, preview_every=0, train_steps=2, save_every=1,
             lr_warmup=1, decode_steps=1, lambda_rate_warmup=1, width=32, height=32, device="cpu")


def video_settings(model: Path, clip: Path, folder: Path, **changes) -> VideoFit:
    return VideoFit(**SHORT | dict(model_id=str(model), frames_dir=str(clip), out_dir=str(folder), name="ball",
                                   caption="a red ball rolls", num_frames=5) | changes)


def image_settings(model: Path, album: Path, folder: Path, **changes) -> ImageFit:
    return ImageFit(**SHORT | dict(model_id=str(model), description_file=str(album / "album.txt"), shift=1.5,
                                   data_root=str(album), out_dir=str(folder), caption_end=0, batch_size=1,
                                   name="album", accum_step=1) | changes)


FILM = dict(config="", width=32, height=32, num_frames=5, steps=4, bytes_per_frame=12.0, score="pixel", scenes="none",
            device="cpu")


def encode_film(model: Path, clip: Path, folder: Path, **changes) -> Path:
    """A video of several chunks, as video/encode.sh makes it; returns the .vov file."""
    settings = EncodeVideo(**FILM | dict(model_id=str(model), frames_dir=str(clip), out_dir=str(folder)) | changes)
    encode_video(settings)
    return settings.file


def two_stage(settings, **second) -> Path:
    """Both stages; `second` changes stage 2. Returns the .vov file."""
    later = dataclasses.replace(settings, lambda_rate=0.003, **second)
    if isinstance(settings, VideoFit):
        fit.two_stage(settings, settings, later)
        return Path(settings.out_dir) / f"{settings.name}.vov"
    fit.fit_pictures(settings, settings, later)
    return Path(settings.out_dir) / "album.vov"


def write_clip(folder: Path, shade: int = 0, frames: int = 5) -> Path:
    """A clip of 32×32; `shade` makes another one of the same size."""
    media.write_frames(folder, ball(frames, 32, 32) ^ np.uint8(shade))
    return folder


def write_album(folder: Path, count: int = 3) -> Path:
    """Pictures p0.png … and album.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(ball(1, 32, 32)[0] ^ np.uint8(40 * index)).save(folder / f"p{index}.png")
    (folder / "album.txt").write_text("".join(f"p{i}.png|picture {'abc'[i]}\n" for i in range(count)))
    return folder


def steps_logged(folder: Path) -> str:
    """The log of a stage: unchanged when nothing was fitted."""
    return (folder / "log.jsonl").read_text()


class Ring:
    """Stands for a process group: threads that exchange tensors as `World` does between processes."""

    def __init__(self, size: int):
        self.size, self.barrier, self.slots = size, threading.Barrier(size), [None] * size

    def exchange(self, rank: int, value):
        self.barrier.wait()
        self.slots[rank] = value
        self.barrier.wait()
        return list(self.slots)


@dataclasses.dataclass(frozen=True)
class Member(World):
    """One thread's place in a ring."""

    ring: Ring = None

    def gather(self, tensor):
        return self.ring.exchange(self.rank, tensor.detach().clone())

    def numbers(self, number):
        return self.ring.exchange(self.rank, number)

    def barrier(self):
        self.ring.exchange(self.rank, None)


def together(ring: Ring, work) -> list:
    """[work(rank) of every member], each in a thread of its own; raises what the first of them raised."""
    found, errors = [None] * ring.size, []

    def run(rank):
        torch.set_num_threads(1)
        try:
            found[rank] = work(rank)
        except BaseException as error:
            errors.append(error)
            ring.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ring.size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (wrong or errors)[0]
    return found
