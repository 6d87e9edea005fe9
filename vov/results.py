"""What a run leaves: decoded frames on disk, result.json, a table, and how long its parts took."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vov import bitstream, media, metrics
from vov.codec import Encoder, Source, decode_file
from vov.files import content_hash, path_hash, refuse_overlap, write_bytes, write_json
from vov.fitting.fit import Fitted
from vov.fitting.settings import FitConfig
from vov.model.options import ModelOptions
from vov.outputs import Outputs


def report(path: Path, clips: Sequence[media.Clip], sources: Sequence[Source], settings: FitConfig,
           seconds: dict[str, float]) -> dict:
    """What a run achieved, from the bytes on disk and the frames that were decoded from them.

    bpp counts every byte of the file over the pixels of all decoded frames; kB/s is bytes over duration. MS-SSIM is
    None for pictures smaller than its window, and its mean that of the others.
    """
    total = path.stat().st_size
    rows = []
    for clip, source in zip(clips, sources, strict=True):
        target = source.reference(settings.width, settings.height, settings.resize)
        rows.append({"name": source.name, "psnr": metrics.psnr(target, clip.frames),
                     "ms_ssim": metrics.ms_ssim(target, clip.frames) if min(clip.size) >= metrics.WINDOW else None})
    known = [row["ms_ssim"] for row in rows if row["ms_ssim"] is not None]
    pixels = sum(clip.frames.shape[0] * clip.frames.shape[1] * clip.frames.shape[2] for clip in clips)
    result = {
        "file": path.name, "bytes": total, "bpp": 8 * total / pixels,
        "psnr": float(np.mean([row["psnr"] for row in rows])),
        "ms_ssim": float(np.mean(known)) if known else None,
        "bytes_by_part": bitstream.parts(path).__dict__, "seconds": seconds,
        "frames": [len(clip.frames) for clip in clips],
        "size": "×".join(map(str, clips[0].size)),
    }
    if len(clips[0].frames) > 1:
        result["kB_per_s"] = total / 1000 / (len(clips[0].frames) / clips[0].fps)
    if len(rows) > 1:
        result |= {"items": rows, "bytes_per_item": total / len(rows)}
    return result


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


def finish(encoder: Encoder, path: Path, settings: FitConfig, fitted: Fitted, clock: Clock) -> str:
    """Writes the file of a fit to `path`, decodes it, and measures what came out.

    Beside the file: the decoded frames and result.json. Closes the encoder. Returns the result as lines to print.
    What is there already and is of this very file is kept (a run that was stopped while writing).
    """
    stream = encoder.bitstream(settings, fitted)
    encoder.close()
    data, names = bitstream.to_bytes(stream), [source.name for source in encoder.sources]
    json_path = path.parent / "result.json"
    paths = [path, *decoded_paths(path.parent, path.stem, len(names), stream.header.num_frames), json_path]
    made_from = content_hash(data)
    with Outputs(path.name, paths, made_from, settings.overwrite, known={path: made_from}) as outputs:
        if outputs.complete:
            return table(json.loads(json_path.read_bytes()))
        outputs.make(path, lambda: write_bytes(path, data))
        clips = clock.time("decode", decode_file, path, encoder.backbone, settings.decode_limit)
        save_clips(outputs, path.parent, path.stem, names, clips)
        result = report(path, clips, encoder.sources, settings, clock.seconds)
        outputs.make(json_path, lambda: write_json(json_path, result))
        outputs.finish()
        return table(result)


def decoded_paths(folder: Path, stem: str, items: int, frames: int) -> list[Path]:
    """What `save_clips` writes: stem.png for a picture, the folder stem for several; frames and a video for a clip."""
    if items > 1:
        return [folder / stem]
    return [folder / f"{stem}.png"] if frames == 1 else [folder / stem, folder / f"{stem}.mp4"]


def save_clips(outputs: Outputs, folder: Path, stem: str, names: Sequence[str], clips: Sequence[media.Clip]) -> None:
    """Writes those of `decoded_paths` that are missing; names: of the items."""
    (clip, *others) = clips
    if others:
        outputs.make(folder / stem, lambda: [
            media.write_image(folder / stem / f"{name}.png", one.frames[0])
            for name, one in zip(item_names(names), clips, strict=True)])
    elif len(clip.frames) == 1:
        outputs.make(folder / f"{stem}.png", lambda: media.write_image(folder / f"{stem}.png", clip.frames[0]))
    else:
        outputs.make(folder / stem, lambda: media.write_frames(folder / stem, clip.frames))
        outputs.make(folder / f"{stem}.mp4",
                     lambda: media.write_video(folder / f"{stem}.mp4", clip.frames, clip.fps))


def decode_to(folder: Path, stem: str, names: Sequence[str], frames: int, identity: str, overwrite: bool,
              decode: Callable[[], list[media.Clip]], inputs: Sequence[Path] = ()) -> list[Path]:
    """Writes the clips that decode() gives, which is not called when all is there; returns `decoded_paths`.

    inputs: what is read for it, which outputs may not touch.
    """
    paths = decoded_paths(folder, stem, len(names), frames)
    refuse_overlap(paths, inputs, "OUTPUT_DIR")
    with Outputs(stem, paths, identity, overwrite, "OUTPUT_DIR") as outputs:
        if not outputs.complete:
            save_clips(outputs, folder, stem, names, decode())
            outputs.finish()
    return paths


def item_names(names: Sequence[str]) -> list[str]:
    """Where each picture of an album is decoded to, relative and without ".png": its name without the suffix.

    A picture whose name is empty, too long for a file system, or would share a file or folder with another's (`a.png`
    and `a.jpg`; `a.png` and `a.png/b.c`) is called by its number instead, counted from 1: 00002.
    """
    wanted = [name.rpartition(".")[0] or name for name in names]
    files = [f"{name}.png".casefold() for name in wanted]
    folders = {"/".join(file.split("/")[:depth]) for file in files for depth in range(1, file.count("/") + 1)}
    numbered = {i for i, (name, file) in enumerate(zip(wanted, files, strict=True))
                if not name or files.count(file) > 1 or file in folders
                or any(len(part.encode()) > 240 for part in file.split("/"))}
    numbers = {f"{i + 1:05d}.png" for i in numbered}
    numbered |= {i for i, file in enumerate(files) if file in numbers or file.split("/")[0] in numbers}
    return [f"{i + 1:05d}" if i in numbered else name for i, name in enumerate(wanted)]


def table(result: dict) -> str:
    """The result as lines to print."""
    rows = {"file": result["file"], "bytes": f"{result['bytes']:,}", "bpp": f"{result['bpp']:.5f}"}
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
