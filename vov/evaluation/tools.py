"""Metrics that a package or ffmpeg brings whole: ST-LPIPS, SSIMULACRA2, ColorVideoVDP, VMAF and XPSNR.

Nothing of them is computed here; each is asked as its own tool would be, and only for what a table shows. The first
three come with requirements-metrics.txt (weights inside) and raise `Unavailable` with the cure where they are missing.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterable, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vov import VovError
from vov.evaluation.anchors import TO_YUV, ffmpeg
from vov.evaluation.catalogue import CURE
from vov.evaluation.perceptual import SMALLEST, Unavailable, check_size

PACKAGES = {"stlpips_vgg": "stlpips-pytorch", "stlpips_alex": "stlpips-pytorch", "ssimulacra2": "ssimulacra2",
            "jod": "cvvdp"}  # on the package index
GPU_GIB = 8  # of a GPU's memory that ColorVideoVDP may fill; more frames at once are no better


def load(module: str, package: str, *stand_ins: str) -> types.ModuleType:
    """An optional module; Unavailable, with the cure, when it is missing or broken.

    stand_ins: modules that it imports and does not use; where they are missing, empty ones serve while it is loaded.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it wants CUDA where there is none
    absent = [name for name in stand_ins if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in absent:
        sys.modules[name] = empty = types.ModuleType(name)
        vars(empty).update(summary=None, embed=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        why = "not installed" if importlib.util.find_spec(module.split(".")[0]) is None else f"broken ({error})"
        raise Unavailable(f"the package {package} is {why}; {CURE}") from error
    finally:
        for name in absent:
            del sys.modules[name]


def version(metric: str) -> str:
    """"stlpips-pytorch 0.0.2": the package that computes a metric; "" for those without one or not installed."""
    try:
        return f"{PACKAGES[metric]} {metadata.version(PACKAGES[metric])}"
    except (KeyError, metadata.PackageNotFoundError):
        return ""


class StLpips(nn.Module):
    """Ghildyal and Liu 2022, "Shift-tolerant Perceptual Similarity Metric", over "vgg" or "alex"; weights included."""

    def __init__(self, net: str):
        super().__init__()
        package = load("stlpips_pytorch.stlpips", "stlpips-pytorch", "torchsummary", "IPython")
        self.model = package.LPIPS(net=net, variant="shift_tolerant", verbose=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], twice → ST-LPIPS [B]; 0 for equal pictures. One picture at a time is in memory."""
        check_size(x, "ST-LPIPS")
        return torch.cat([self.model(a, b, normalize=True).flatten()
                          for a, b in zip(x.split(1), y.split(1), strict=True)])


class Ssimulacra2:
    """Sneyers, SSIMULACRA 2.1, as the Python package computes it: 100 for equal pictures, and down below 0.

    Its weights belong to six scales; with fewer of them, below 225 pixels, they meet other scales than they were
    trained for (noise that scores 64 at 256 pixels scores 43 at 192 and −37 at 96), so there it is not computed.
    """

    smallest = 225

    def __init__(self) -> None:
        self.compute = load("ssimulacra2", "ssimulacra2").compute_ssimulacra2

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], twice → SSIMULACRA2 [B], float64."""
        check_size(x, "SSIMULACRA2", self.smallest)
        return torch.tensor([float(self.compute(_bitmap(a), _bitmap(b))) for a, b in zip(x, y, strict=True)],
                            dtype=torch.float64)


def _bitmap(picture: Tensor) -> io.BytesIO:
    """[3, H, W] in [0, 1] as a file that the package opens; uint8 values come back exactly."""
    buffer = io.BytesIO()
    levels = (picture * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(np.ascontiguousarray(levels)).save(buffer, "BMP")
    buffer.seek(0)
    return buffer


class ColorVideoVdp:
    """Mantiuk et al. 2024: JOD, 10 for no visible difference, on `display`, one of the package's display models.

    Frames are read one after the other; the package keeps as many as its temporal filter is long, a quarter of a
    second, and on a GPU as many more as fit into GPU_GIB.
    """

    names = ("jod",)

    def __init__(self, display: str = "standard_4k", device: torch.device | str = "cpu"):
        package = load("pycvvdp", "cvvdp")
        try:
            self.metric = package.cvvdp(display_name=display, device=torch.device(device), quiet=True, gpu_mem=GPU_GIB)
        except (package.vq_exception, RuntimeError) as error:
            raise VovError(f"`jod_display`={display}: no display model of ColorVideoVDP ({error}); the usual ones are "
                           "standard_4k, standard_fhd, standard_phone") from error
        self.base = importlib.import_module("pycvvdp.video_source").video_source_dm

    @property
    def conditions(self) -> str:
        """The viewing conditions in words."""
        return self.metric.get_info_string().strip('"')

    def __call__(self, original: Iterable[np.ndarray], decoded: Iterable[np.ndarray], size: tuple[int, int], count: int,
                 fps: float) -> tuple[dict[str, float], dict[str, list[float]]]:
        """({"jod": value}, nothing per frame) of `count` frames uint8 [H, W, 3]; size: (width, height)."""
        _check_sides(size, "ColorVideoVDP needs")
        frames = {"test": iter(decoded), "reference": iter(original)}

        base: Any = self.base

        class Stream(base):
            """Hands out frames in the order in which the metric asks for them: each once, one after the other."""

            def get_video_size(self) -> tuple[int, int, int]:
                return size[1], size[0], count

            def get_frames_per_second(self) -> float:
                return fps if count > 1 else 0

            def get_test_frame(self, frame: int, device: torch.device, colorspace: str) -> Tensor:
                return self.next("test", device, colorspace)

            def get_reference_frame(self, frame: int, device: torch.device, colorspace: str) -> Tensor:
                return self.next("reference", device, colorspace)

            def next(self, side: str, device: torch.device, colorspace: str) -> Tensor:
                pixels = torch.from_numpy(np.ascontiguousarray(next(frames[side]))).to(device).float() / 255
                return self.apply_dm_and_color_transform(pixels.permute(2, 0, 1)[None, :, None], colorspace)

        with torch.no_grad():
            value, _ = self.metric.predict_video_source(Stream(self.metric.display_photometry))
        return {"jod": float(value)}, {}


# as their authors call them: the original comes second, first; {0} numbers the metric
GRAPHS = {"vmaf": "[d{0}][r{0}]libvmaf=model=version=vmaf_v0.6.1:log_fmt=json:log_path=vmaf[o{0}]",
          "xpsnr": "[r{0}][d{0}]xpsnr=stats_file=xpsnr[o{0}]"}


class FfmpegMetrics:
    """VMAF (Netflix, model vmaf_v0.6.1, mean of the frames) and XPSNR (Helmrich et al. 2020, of luma) by ffmpeg.

    Both on BT.709 4:2:0 of 8 bits. Original above reproduction go through one pipe, so only a few frames are in memory.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        filters = subprocess.run([ffmpeg(), "-hide_banner", "-filters"], capture_output=True, text=True, check=False)
        for name, needed in (("vmaf", " libvmaf "), ("xpsnr", " xpsnr ")):
            if name in names and needed not in filters.stdout:
                raise Unavailable(f"this ffmpeg has no{needed}filter; unset IMAGEIO_FFMPEG_EXE to use imageio-ffmpeg's")

    def __call__(self, original: Iterable[np.ndarray], decoded: Iterable[np.ndarray], size: tuple[int, int], count: int,
                 fps: float) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Values of the clip and of each frame; frames uint8 [H, W, 3], size: (width, height)."""
        _check_sides(size, "VMAF and XPSNR need")
        names = [name for name in self.names if name != "vmaf" or count > 1]
        if not names:
            return {}, {}
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
            command = [ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{2 * size[1]}",
                       "-r", f"{fps:g}", "-i", "-", "-filter_complex", _graph(names, size)]
            for index in range(len(names)):
                command += ["-map", f"[o{index}]", "-f", "null", "-"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                                  cwd=folder) as process:
                _feed(process, islice(zip(original, decoded, strict=False), count))
            if process.returncode:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
                raise Unavailable(f"ffmpeg failed with code {process.returncode} ({lines[-1][:120]})")
            return _read(Path(folder), names)


def _graph(names: Sequence[str], size: tuple[int, int]) -> str:
    """The filter graph: cut the two pictures apart, convert both, hand them to every metric."""
    width, height = size
    parts = ["split[a][b]"]
    for side, source, top in (("r", "a", 0), ("d", "b", height)):
        outputs = "".join(f"[{side}{index}]" for index in range(len(names)))
        parts.append(f"[{source}]crop={width}:{height}:0:{top}:exact=1,{TO_YUV},format=yuv420p,"
                     f"split={len(names)}{outputs}")
    return ";".join([*parts, *(GRAPHS[name].format(index) for index, name in enumerate(names))])


def _read(folder: Path, names: Sequence[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """What the filters left: VMAF's JSON; XPSNR's lines, with the average of the clip in the last one."""
    values: dict[str, float] = {}
    frames: dict[str, list[float]] = {}
    if "vmaf" in names:
        found = json.loads((folder / "vmaf").read_text())
        values["vmaf"] = found["pooled_metrics"]["vmaf"]["mean"]
        frames["vmaf"] = [frame["metrics"]["vmaf"] for frame in found["frames"]]
    if "xpsnr" in names:
        *frames["xpsnr"], values["xpsnr"] = map(float, re.findall(r"\by: *(\S+)", (folder / "xpsnr").read_text()))
    return values, frames


def _feed(process: subprocess.Popen, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes each original and its reproduction to ffmpeg; what it says when it gives up is read by the caller."""
    assert process.stdin is not None  # a pipe
    try:
        with process.stdin as pipe:
            for pair in pairs:
                for frame in pair:
                    pipe.write(np.ascontiguousarray(frame).data)
    except BrokenPipeError:
        pass


def _check_sides(size: tuple[int, int], who: str) -> None:
    if min(size) < SMALLEST:
        raise Unavailable(f"{who} pictures of at least {SMALLEST}×{SMALLEST}, not {size[0]}×{size[1]}")
