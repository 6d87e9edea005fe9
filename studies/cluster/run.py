"""A set of clips on a Ray cluster of two nodes, and what may go wrong: `python -m studies.cluster.run`.

Clips, one file that is none and, if wanted, a film that is shared out. The command is killed after some of the work and
started again; then one worker is killed. At the end every file must be the one that video/encode.sh writes, to the
byte, and no file and no chunk be made twice.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError, media
from vov.config import cli, option


@dataclass(frozen=True)
class Trial:
    """Where the clips are cut from; how they are coded comes from the environment, as for video/encode.sh."""

    sources: str = option("", "videos to cut the clips from, with commas between (required)")
    clips: int = option(11, "how many", minimum=0)
    frames: int = option(9, "of a clip", minimum=1)
    film: int = option(0, "frames of a film besides; KEY_EVERY and SPLIT_FROM say how it is shared out", minimum=0)
    out: str = option("runs/cluster", "gets the clips and both sets of files; must be new")
    kill_after: int = option(3, "items and groups after which the command is killed", minimum=1)
    lose_after: int = option(6, "items and groups after which a worker is killed", minimum=1)


def cut(settings: Trial, folder: Path) -> None:
    """Folders of frames out of the sources in turn, a file that is no video, and the film from the first source."""
    places = [Path(source) for source in settings.sources.split(",")]
    for number in range(settings.clips):
        source = media.FrameSource(places[number % len(places)])
        first = (number // len(places)) * settings.frames
        media.write_frames(folder / f"clip{number:02d}", np.stack(list(source.read(first, settings.frames))))
    if settings.film:
        media.write_frames(folder / "film", media.FrameSource(places[0]).read(0, settings.film))
    (folder / "poison.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(2000))


def workers() -> list[int]:
    """The processes that are at a clip."""
    found = subprocess.run(["pgrep", "-f", "ray::Worker.run"], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def command(clips: Path, out: Path, until: int, then) -> list[str]:
    """Runs the command and gives its lines; after `until` items and groups `then` is called with its process."""
    environ = os.environ | {"MANIFEST": str(clips), "OUT_DIR": str(out), "REPORT": "0"}
    process = subprocess.Popen([sys.executable, "-m", "vov.commands.dataset"], env=environ, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        print(line, end="", flush=True)
        if ended(line) and sum(map(ended, lines)) == until:
            then(process)
    process.wait()
    return lines


def ended(line: str) -> bool:
    """Whether it tells of an item or a group."""
    return line.startswith("[") or "  coded, " in line


def made(out: Path) -> dict[Path, int]:
    """When each file and chunk was made."""
    found = [*out.glob("*/*.vov"), *out.glob("*/chunks/chunk*.safetensors")]
    return {path: path.stat().st_mtime_ns for path in found}


def alone(clips: Path, out: Path) -> float:
    """video/encode.sh on one clip after the other, one model for all; seconds."""
    from vov.commands.encode import EncodeVideo, encode_video
    from vov.config import load

    begun = time.monotonic()
    for clip in sorted(p for p in clips.iterdir() if p.is_dir()):
        place = {"frames_dir": str(clip), "out_dir": str(out / clip.name), "name": clip.name}
        with contextlib.redirect_stdout(io.StringIO()):
            encode_video(load(EncodeVideo, place, os.environ, "encode"))
    return time.monotonic() - begun


def main(settings: Trial) -> None:
    """Runs the trial, checks, prints what was seen."""
    from ray.cluster_utils import Cluster

    if not settings.sources or Path(settings.out).exists():
        raise VovError("SOURCES must be set, and OUT be new")
    clips, out = Path(settings.out) / "clips", Path(settings.out) / "set"
    cut(settings, clips)
    os.environ.setdefault("RAY_worker_niceness", "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = nodes.address
    os.environ.setdefault("GPUS", "0")  # these nodes have none
    begun = time.monotonic()
    command(clips, out, settings.kill_after, lambda process: process.send_signal(signal.SIGKILL))
    before = made(out)
    killed: list[int] = []

    def lose(process: subprocess.Popen) -> None:
        killed.append(workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    lines = command(clips, out, settings.lose_after - settings.kill_after, lose)
    together = time.monotonic() - begun
    nodes.shutdown()
    print("one after the other …", flush=True)
    seconds = alone(clips, Path(settings.out) / "alone")
    names = sorted(clip.name for clip in clips.iterdir() if clip.is_dir())
    equal = [name for name in names if (out / name / f"{name}.vov").read_bytes() == (
        Path(settings.out) / "alone" / name / f"{name}.vov").read_bytes()]
    failed = list(csv.DictReader((out / "failed.csv").open()))
    after = made(out)
    again = [path.name for path, when in before.items() if after[path] != when]
    files, chunks = (sum(path.suffix == suffix for path in before) for suffix in (".vov", ".safetensors"))
    print(f"files equal to encode.sh's: {len(equal)} of {len(names)}; failed: {len(failed)} "
          f"({failed[0]['reason']:.60}…); made before the kill: {files} files, {chunks} chunks, made again: "
          f"{len(again)}; workers killed: {len(killed)}, noticed: {sum('process died' in line for line in lines)}")
    print(f"seconds with both kills, two processes: {together:.0f}; one after the other: {seconds:.0f}")
    if equal != names or len(failed) != 1 or again:
        raise VovError("the trial failed")


if __name__ == "__main__":
    cli.run(Trial, main, "SOURCES=a.mp4,b.mp4 [VARIABLE=value …] python -m studies.cluster.run")
