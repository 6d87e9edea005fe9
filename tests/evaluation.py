"""What tests of the evaluation share: a clip and a noisier one, settings that measure them quickly, counted frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.clips import noisy, panning
from vov import media
from vov.evaluation.pairs import EvalConfig

QUICK = "ssim,ms_ssim,warp"


def write_clips(folder: Path) -> tuple[Path, np.ndarray]:
    """original and decoded: 7 frames 64×96 as PNG folders, decoded is noisier; x.vov.bin of 777 bytes."""
    clip = panning(7, 64, 96)
    media.write_frames(folder / "original", clip)
    media.write_frames(folder / "decoded", noisy(clip, 10))
    (folder / "x.vov.bin").write_bytes(bytes(777))
    return folder, clip


def settings(clips, out, **more):
    folder, _ = clips
    values = {"real_dir": str(folder / "original"), "fake_dir": str(folder / "decoded"), "skip_fvd": True,
              "report_video": False, "metrics": QUICK, "work_dir": str(out / "work"),
              "out_dir": str(out / "results")} | more
    return EvalConfig(**values)


class Frames:
    """A clip as a source of frames that can be read again."""

    fps = 24.0

    def __init__(self, clip, path="clip"):
        self.clip, self.path = clip, path

    def __iter__(self):
        return iter(self.clip)


class Counted:
    """Makes frames and counts those that are alive at a time: `most`."""

    def __init__(self):
        self.alive = self.most = 0

    def frames(self, count: int, height: int, width: int):
        """Yields frames uint8 [height, width, 3]."""
        counter = self

        class Frame(np.ndarray):
            def __del__(self):
                counter.alive -= self.base is None

        for index in range(count):
            frame = Frame((height, width, 3), np.uint8)
            frame[:] = index
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield frame
