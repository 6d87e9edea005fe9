"""What a run says of itself: result.json, its table, how long its parts took, and what its outputs are made from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vov import VovError, bitstream, media, metrics
from vov.bitstream import Bitstream
from vov.model.options import ModelOptions
from vov.runtime.files import content_hash, path_hash

T = TypeVar("T")

NAME = "result.json"


class Meter:
    """PSNR and MS-SSIM of an item's decoded frames against its original, which is read beside them.

    Args:
        original: frames [H, W, 3] of the item as it was given.
        stream: of the file.
    """

    def __init__(self, original: Iterable[np.ndarray], stream: Bitstream):
        header = stream.header
        self.crop = (header.width, header.height) if header.resize == "crop" else None
        self.originals: Iterator[np.ndarray] = iter(original)
        self.chunks = stream.sequence
        self.mse: list[float] = []
        self.ms_ssim: list[float] = []
        self.changes: list[float] = []
        self.before: tuple[np.ndarray, np.ndarray] | None = None
        self.size = (0, 0)

    def add(self, frame: np.ndarray) -> None:
        """The next decoded frame, uint8 [H, W, 3]."""
        target = next(self.originals)
        if self.crop:
            target = media.fit_geometry(target[None], *self.crop, "crop")[0]
        if target.shape != frame.shape:
            raise VovError(f"the original is {target.shape[1]}×{target.shape[0]}, the decoded "
                           f"{frame.shape[1]}×{frame.shape[0]}; give the original that was coded")
        self.size = frame.shape[1], frame.shape[0]
        self.mse.append(float(np.mean((target.astype(np.float64) - frame) ** 2)))
        if self.before is not None:
            pairs = (np.stack(pair) for pair in zip(self.before, (target, frame), strict=True))
            self.changes.append(metrics.mse_of_change(*pairs))
        self.before = target, frame
        if min(frame.shape[:2]) >= metrics.WINDOW:
            self.ms_ssim.append(metrics.ms_ssim(target[None], frame[None]))

    @property
    def psnr(self) -> float:
        """Of all frames together, in dB."""
        return metrics.psnr_of_mse(float(np.mean(self.mse)))

    def result(self) -> dict:
        """psnr and ms_ssim (None for pictures smaller than its window); of a video also the worst frame and, of many
        chunks, `metrics.seam` at their borders and PSNR by chunk."""
        found: dict[str, Any] = {"psnr": self.psnr, "ms_ssim": float(np.mean(self.ms_ssim)) if self.ms_ssim else None}
        if len(self.mse) > 1:
            found["psnr_of_worst_frame"] = metrics.psnr_of_mse(max(self.mse))
            found["psnr_of_first_frame"] = metrics.psnr_of_mse(self.mse[0])
        if self.chunks is not None:
            ends = np.cumsum([chunk.frames for chunk in self.chunks.chunks])
            scenes = np.cumsum([0, *(scene.chunks for scene in self.chunks.scenes)])[:-1].tolist()  # a jump is right
            borders = [end - 1 for number, end in enumerate(ends[:-1], 1) if number not in scenes]
            parts = np.split(np.array(self.mse), ends[:-1])
            found["seam_db"] = metrics.seam(np.array(self.changes), borders)
            found["psnr_by_chunk"] = [round(metrics.psnr_of_mse(float(part.mean())), 3) for part in parts if len(part)]
        return found


def report(path: Path, stream: Bitstream, meters: Sequence[Meter], seconds: dict[str, float]) -> dict:
    """What a run achieved, from the bytes on disk and the frames that were decoded from them.

    `bytes` is the whole file, sound included; bpp and kB/s are those of the pictures, over the pixels of all decoded
    frames and the duration. PSNR and MS-SSIM of an album are the means of its pictures.
    """
    parts = bitstream.parts(path)
    total, frames = path.stat().st_size, len(meters[0].mse)
    pictures, (width, height) = total - parts.sound, meters[0].size
    pixels = sum(meter.size[0] * meter.size[1] * len(meter.mse) for meter in meters)
    rows = [{"name": item.name, **meter.result()} for item, meter in zip(stream.items, meters, strict=False)]
    known = [row["ms_ssim"] for row in rows if row["ms_ssim"] is not None]
    result = {"file": path.name, "bytes": total, "bpp": 8 * pictures / pixels, "seconds": seconds,
              "bytes_by_part": {name: size for name, size in vars(parts).items() if size},
              "frames": [len(meter.mse) for meter in meters], "size": f"{width}×{height}",
              **{name: value for name, value in rows[0].items() if name != "name"},
              "psnr": float(np.mean([row["psnr"] for row in rows])),
              "ms_ssim": float(np.mean(known)) if known else None}
    if parts.sound:
        result["sound_bytes"] = parts.sound
    if stream.header.num_frames > 1:
        result |= {"bytes_per_frame": pictures / frames,
                   "kB_per_s": pictures / 1000 / (frames / stream.header.fps)}
    if len(rows) > 1:
        result |= {"items": rows, "bytes_per_item": total / len(rows)}
    return result


def table(result: dict) -> str:
    """The result as lines to print."""
    sound = f", {result['sound_bytes']:,} of them sound" if "sound_bytes" in result else ""
    rows = {"file": result["file"], "bytes": f"{result['bytes']:,}{sound}", "bpp": f"{result['bpp']:.5f}"}
    if "kB_per_s" in result:
        rows["kB/s"] = f"{result['kB_per_s']:.3f}"
    rows |= {
        "PSNR": f"{result['psnr']:.2f} dB", "MS-SSIM": _four_digits(result["ms_ssim"]),
        "bytes for": ", ".join(f"{k} {v:,}" for k, v in result["bytes_by_part"].items() if v),
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items()),
    }
    lines = [f"{name:<10} {value}" for name, value in rows.items()]
    if "items" in result:
        wide = max(len(row["name"]) for row in result["items"])
        lines += [f"{'item':<{wide}}     bytes   PSNR dB  MS-SSIM"]
        lines += [f"{row['name']:<{wide}}  {result['bytes_per_item']:8,.0f}  {row['psnr']:8.2f}  "
                  f"{_four_digits(row['ms_ssim']):>7}" for row in result["items"]]
    return "\n".join(lines)


def _four_digits(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def made_from(settings: ModelOptions, precision: str, source: str | Path | None, *parts: object) -> str:
    """The identity of what a command makes: the content of its source file, the arithmetic, and what else counts.

    Where files are does not count, nor does a DTYPE that only says what the source says.

    Args:
        settings: which model, in which arithmetic; a .vov file names its model by a fingerprint.
        precision: that of the source's header, "" for a checkpoint.
        source: the file; None where there is none.
        parts: settings that shape the outputs, hashes of further inputs.
    """
    return content_hash(path_hash(source) if source else "", settings.precision(precision, str(source)),
                        "" if precision else settings.model_id, *parts)


def settings_of(settings: object, cls: type) -> list[tuple[str, object]]:
    """(name, value) of the settings that `cls` declares and that shape the result."""
    return [(field.name, getattr(settings, field.name)) for field in dataclasses.fields(cls)
            if field.metadata["identity"] and field.name not in ("dtype", "quantize")]


class Clock:
    """Seconds of named parts of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[..., T], *args: Any) -> T:
        """Runs work(*args), notes its seconds under `name`, returns its result."""
        start = time.monotonic()
        result = work(*args)
        self.seconds[name] = round(time.monotonic() - start, 2)
        return result
