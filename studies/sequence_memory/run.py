"""Peak memory of encoding videos of two lengths: `python -m studies.sequence_memory.run`.

A model that is small and untrained codes a synthetic film of each length in a process of its own: whatever grows with
the length is the codec's, not the model's. Prints a line for each and their ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vov import media

SIZE = (192, 112)  # pixels of the film


def frames(count: int):
    """A disc that moves over a gradient: uint8 [112, 192, 3], one after the other."""
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        disc = (x - width / 2 - 60 * np.sin(t / 20)) ** 2 + (y - height / 2) ** 2 < 400
        yield np.stack([np.where(disc, 230, x), np.where(disc, 60, y), np.full_like(x, t % 200)], -1).astype(np.uint8)


def encode(film: Path, out: Path, model: str, size: tuple[int, int]) -> dict:
    """Codes and decodes a film as encode.sh does; returns bytes, frames and this process's peak memory in MiB."""
    from vov.commands.encode import EncodeVideo
    from vov.commands.film import encode as run

    settings = EncodeVideo(
        config="", frames_dir=str(film), out_dir=str(out), model_id=model, width=size[0], height=size[1],
        num_frames=17, steps=2, bytes_per_frame=4.0, score="likelihood", resize="stretch", scenes="none", key_every=8,
        device="cpu")
    run(settings)
    result = json.loads((out / "result.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"frames": result["frames"][0], "bytes": result["bytes"], "seconds": result["seconds"], "peak_mib": peak}


def main() -> int:
    """Both lengths; returns 1 when the longer one takes over a tenth more memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model, a small one")
    parser.add_argument("--lengths", default="300,3000", help="frames")
    parser.add_argument("--size", default="32,32", help="pixels at which the model codes them")
    parser.add_argument("--one", nargs=2, metavar=("FILM", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(encode(*map(Path, given.one), given.model, tuple(map(int, given.size.split(","))))))
        return 0
    rows = []
    for count in map(int, given.lengths.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "film.mp4"
            media.write_video(film, frames(count), 24.0)
            said = subprocess.run(
                [sys.executable, "-m", "studies.sequence_memory.run", "--model", given.model, "--size",
                 given.size, "--one", str(film), str(Path(folder) / "out")], check=True, stdout=subprocess.PIPE)
            rows.append(json.loads(said.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    ratio = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
    print(f"peak memory: {ratio:.3f} times as much")
    return 0 if ratio <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
