"""What a run leaves: decoded frames on disk, result.json, a table, and how long its parts took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vov import bitstream, media, metrics
from vov.codec import Encoder, Source, decode_file
from vov.config import FitConfig
from vov.files import refuse_existing, write_json
from vov.fitting.fit import Fitted


def report(path: Path, clips: Sequence[media.Clip], sources: Sequence[Source], settings: FitConfig,
           seconds: dict[str, float]) -> dict:
    """What a run achieved, from the bytes on disk and the frames that were decoded from them.

    bpp counts every byte of the file over the pixels of all decoded frames; kB/s is bytes over duration.
    """
    total = path.stat().st_size
    rows = []
    for clip, source in zip(clips, sources, strict=True):
        target = source.reference(settings.width, settings.height, settings.resize)
        rows.append({"name": source.name, "psnr": metrics.psnr(target, clip.frames),
                     "ms_ssim": metrics.ms_ssim(target, clip.frames)})
    pixels = sum(clip.frames.shape[0] * clip.frames.shape[1] * clip.frames.shape[2] for clip in clips)
    result = {
        "file": path.name, "bytes": total, "bpp": 8 * total / pixels,
        "psnr": float(np.mean([row["psnr"] for row in rows])),
        "ms_ssim": float(np.mean([row["ms_ssim"] for row in rows])),
        "bytes_by_part": bitstream.parts(path).__dict__, "seconds": seconds, "config_hash": settings.hash(),
        "frames": [len(clip.frames) for clip in clips],
        "size": "×".join(map(str, clips[0].size)),
    }
    if len(clips[0].frames) > 1:
        result["kB_per_s"] = total / 1000 / (len(clips[0].frames) / clips[0].fps)
    if len(rows) > 1:
        result |= {"items": rows, "bytes_per_item": total / len(rows)}
    return result


def finish(encoder: Encoder, path: Path, settings: FitConfig, fitted: Fitted, clock: Clock) -> str:
    """Writes the file of a fit to `path`, decodes it, and measures what came out.

    Beside the file: the decoded frames and result.json. Closes the encoder. Returns the result as lines to print.
    """
    encoder.write(path, settings, fitted)
    encoder.close()
    clips = clock.time("decode", decode_file, path, encoder.backbone)
    save_items(path.parent, path.stem, [source.name for source in encoder.sources], clips)
    result = report(path, clips, encoder.sources, settings, clock.seconds)
    write_json(path.parent / "result.json", result)
    return table(result)


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Refuses to start when an output is already there, before any time is spent."""
    for path in paths:
        refuse_existing(path, overwrite)


def save_decoded(folder: Path, name: str, clip: media.Clip) -> None:
    """Writes name/00000.png … and, for a clip, name.mp4."""
    if len(clip.frames) == 1:
        media.write_image(folder / f"{name}.png", clip.frames[0])
        return
    media.write_frames(folder / name, clip.frames)
    media.write_video(folder / f"{name}.mp4", clip.frames, clip.fps)


def save_items(folder: Path, stem: str, names: Sequence[str], clips: Sequence[media.Clip]) -> None:
    """Writes one clip as `stem` and several as stem/name, each name without its suffix."""
    for name, clip in zip(names, clips, strict=True):
        save_decoded(folder, f"{stem}/{name.rpartition('.')[0] or name}" if len(clips) > 1 else stem, clip)


def table(result: dict) -> str:
    """The result as lines to print."""
    rows = {"file": result["file"], "bytes": f"{result['bytes']:,}", "bpp": f"{result['bpp']:.5f}"}
    if "kB_per_s" in result:
        rows["kB/s"] = f"{result['kB_per_s']:.3f}"
    rows |= {
        "PSNR": f"{result['psnr']:.2f} dB", "MS-SSIM": f"{result['ms_ssim']:.4f}",
        "bytes for": ", ".join(f"{k} {v:,}" for k, v in result["bytes_by_part"].items() if v),
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items()),
    }
    lines = [f"{name:<10} {value}" for name, value in rows.items()]
    if "items" in result:
        wide = max(len(row["name"]) for row in result["items"])
        lines += [f"{'item':<{wide}}     bytes   PSNR dB  MS-SSIM"]
        lines += [f"{row['name']:<{wide}}  {result['bytes_per_item']:8,.0f}  {row['psnr']:8.2f}  {row['ms_ssim']:7.4f}"
                  for row in result["items"]]
    return "\n".join(lines)


class Clock:
    """Seconds of named parts of a run."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable, *args):
        """Runs work(*args), notes its seconds under `name`, returns its result."""
        start = time.monotonic()
        result = work(*args)
        self.seconds[name] = round(time.monotonic() - start, 2)
        return result
