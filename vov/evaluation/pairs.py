"""What an evaluation compares: its configuration, and pairs of original and reproduction with their rates."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vov import VovError, media
from vov.config import option
from vov.evaluation.measure import Measured


@dataclass(frozen=True)
class EvalConfig:
    """Everything that an evaluation depends on."""

    real_dir: str = option("", "the original: a folder of frames, a video or an image; or a folder of several of "
                           "these, paired with FAKE_DIR by name (required unless MANIFEST)")
    fake_dir: str = option("", "the reproduction, likewise, or a .vov file (required unless MANIFEST)")
    name: str = option("", "name of what is evaluated; default: that of FAKE_DIR")
    bitstream: str = option("", "the compressed file, or a folder of them with FAKE_DIR's names: gives bpp and kB/s")
    manifest: str = option("", "CSV: name, original, decoded (or .vov) [, clip, codec, bitstream | bytes | bpp]; "
                           "many pairs in one run")
    media_dir: str = option("", "what relative paths in MANIFEST start from; default: the manifest's folder",
                            alias=("MEDIA",))
    num_frames: int = option(0, "compare the first N frames; 0: all, which must be equally many", minimum=0)
    out_dir: str = option("./results", "gets results.json, results.csv, results.md, rd.svg, report.html")
    work_dir: str = option("./fvd_clips", "scratch: streams of the anchors, frames decoded from .vov files")
    overwrite: bool = option(False, "replace existing results")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))
    skip_metrics: bool = option(False, "only PSNR, flicker and FVD")
    skip_fvd: bool = option(False, "no FVD")
    frame_step: int = option(1, "SSIM, MS-SSIM, LPIPS and DISTS of every N-th frame", minimum=1)
    metric_weights_dir: str = option("", "where VGG-16, AlexNet, DISTS and I3D weights are; then PyTorch's cache")
    anchors: str = option("", "codecs to encode for comparison, CODEC[=PRESET],…: x264, x265, svtav1, vvc, jpeg, "
                          "webp, avif, explicit (quantised latents of the same VAE); video or image: all of a kind")
    anchor_rates: str = option("0.5,1,2", "sizes of the anchors, as multiples of our bytes")
    anchor_bytes: str = option("", "sizes of the anchors in bytes, instead")
    bd_anchor: str = option("", "codec that BD-rates compare with; default: the first anchor")
    bd_method: str = option("pchip", "interpolation of BD-rates; akima needs 4 points",
                            choices=("pchip", "akima", "cubic"))
    reference_curves: str = option("", "CSV: label, clip, metric, bpp, value; published curves, drawn into the plots")
    report_frames: int = option(2, "frames per clip in the report's slider", minimum=1)
    report_video: bool = option(True, "put small videos into the report")
    model_id: str = option("", "foundation model of `explicit` and of .vov files; default for these: their header's")
    cache_dir: str = option("../pretrained_models", "where the foundation models are")


@dataclass
class Item:
    """One reproduction of one clip, and later what was measured of it."""

    name: str
    clip: str
    codec: str
    original: Path
    decoded: Any  # a path, or anything that yields frames
    bytes: float | None = None
    bpp: float | None = None
    rate_source: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    measured: Measured | None = None
    fps: float = 0.0
    count: int = 0
    crop: tuple[int, int] | None = None

    def reference(self) -> Any:
        """Frames of the original; of a clip that was cropped to the model's geometry, the same crop."""
        source = media.FrameSource(self.original)
        return Cropped(source, *self.crop) if self.crop else source

    def source(self) -> Any:
        """Frames of the reproduction."""
        return media.FrameSource(self.decoded) if isinstance(self.decoded, str | Path) else self.decoded


class Cropped:
    """Frames of another source, each scaled and cropped as `media.fit_geometry` does."""

    def __init__(self, source: media.FrameSource, width: int, height: int):
        self.inner, self.size, self.fps = source, (width, height), source.fps
        self.path = f"{source.path} cropped to {width}×{height}"

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 RGB [height, width, 3]."""
        for frame in self.inner:
            yield media.fit_geometry(frame[None], *self.size, "crop")[0]


def pair(settings: EvalConfig, images: bool) -> list[Item]:
    """Items from REAL_DIR and FAKE_DIR: one pair, or one for each name when both hold several clips or pictures."""
    for name in ("real_dir", "fake_dir"):
        value = getattr(settings, name)
        if not value:
            raise VovError(f"{name.upper()} is not set; give {'the original' if name == 'real_dir' else 'the decoded'} "
                           "folder, video or image (or a MANIFEST)")
        if not Path(value).exists():
            raise VovError(f"{name.upper()}={value}: no such folder, video or image; give a path that exists")
    real, fake = Path(settings.real_dir), Path(settings.fake_dir)
    codec = settings.name or fake.stem
    reals = members(real, images)
    if not reals:
        bitstream = Path(settings.bitstream) if settings.bitstream else None
        return [Item(codec, real.stem, codec, real, fake, **(file_rate(bitstream) if bitstream else own_rate(fake)))]
    fakes = members(fake, images)
    missing = [name for name in reals if name not in fakes]
    if missing:
        raise VovError(f"FAKE_DIR={fake}: lacks {missing[0]} and {len(missing) - 1} more of REAL_DIR's "
                       f"{len(reals)}; names must be equal up to the extension")
    rates: dict[str, dict] = {name: {} for name in reals}
    bitstream = Path(settings.bitstream) if settings.bitstream else None
    if bitstream and not bitstream.is_dir():
        # one file for all: every clip or picture bears its share of pixels
        pixels = {name: np.prod(next(iter(media.FrameSource(path))).shape[:2]) * len(media.FrameSource(path))
                  for name, path in reals.items()}
        total = file_rate(bitstream)
        for name in reals:
            rates[name] = total | {"bytes": float(total["bytes"] * pixels[name] / sum(pixels.values()))}
    elif bitstream:
        found = {path.stem: path for path in bitstream.iterdir() if path.is_file()}
        for name in reals:
            if name not in found:
                raise VovError(f"BITSTREAM={bitstream}: has no file for {name}; name each as its original, or give one "
                               "file for all")
            rates[name] = file_rate(found[name])
    return [Item(codec, name, codec, path, fakes[name], **rates[name] or own_rate(fakes[name]))
            for name, path in reals.items()]


def members(folder: Path, images: bool) -> dict[str, Path]:
    """{name: path} of the clips or pictures in a folder; empty when the path is itself one clip or picture."""
    if not folder.is_dir():
        return {}
    visible = sorted((p for p in folder.iterdir() if p.name[0] != "."), key=media.natural_key)
    suffixes = media.IMAGE_SUFFIXES if images else media.VIDEO_SUFFIXES
    found = {p.stem: p for p in visible if p.is_file() and p.suffix.lower() in (*suffixes, ".vov")}
    if not images and not any(p.is_file() and p.suffix.lower() in media.IMAGE_SUFFIXES for p in visible):
        found |= {p.name: p for p in visible if p.is_dir() and media.image_files(p)}
    return found


def file_rate(path: Path) -> dict[str, Any]:
    """Rate fields of an Item from its compressed file: all bytes on disk, and of a .vov file where they went."""
    if not path.is_file():
        raise VovError(f"BITSTREAM={path}: no such file; give the compressed file, or nothing if there is none")
    detail: dict[str, Any] = {}
    if path.suffix == ".vov":
        from vov import bitstream

        parts = dataclasses.asdict(bitstream.parts(path))
        detail["bytes_by_part"] = {k: v for k, v in parts.items() if v}
    return {"bytes": float(path.stat().st_size), "rate_source": "file", "detail": detail}


def own_rate(path: Path) -> dict[str, Any]:
    """Rate fields of a reproduction that is itself a .vov file; none for decoded frames, whose size says nothing."""
    return file_rate(path) if path.suffix == ".vov" else {}


def read_manifest(settings: EvalConfig) -> list[Item]:
    """Items of a CSV file; every problem names the line."""
    path = Path(settings.manifest)
    if not path.is_file():
        raise VovError(f"MANIFEST={path}: no such file; give a CSV file that exists")
    base = Path(settings.media_dir) if settings.media_dir else path.parent
    try:
        rows = list(csv.DictReader(line for line in path.read_text(encoding="utf-8-sig").splitlines()
                                   if line.strip() and not line.startswith("#")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise VovError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one") from error
    known = {"name", "original", "decoded", "clip", "codec", "bitstream", "bytes", "bpp"}
    for number, row in enumerate(rows, 1):
        if None in row:  # where DictReader puts what is beyond the last column
            raise VovError(f"{path}, row {number} ({row.get('name') or 'no name'}): {len(row[None])} cells more than "
                           f"columns; put text that contains commas in double quotes")
    unknown = {key for row in rows for key in row} - known
    if not rows or unknown or not {"name", "original"} <= set(rows[0]):
        problem = f"unknown column {sorted(map(str, unknown))[0]!r}" if unknown else "no rows with name and original"
        raise VovError(f"{path}: {problem}; columns, with commas between, are name, original, decoded [, clip, codec, "
                       "bitstream, bytes, bpp]")
    items = []
    for number, row in enumerate(rows, 1):
        row = {key: (value or "").strip() for key, value in row.items()}
        where = f"{path}, row {number} ({row['name'] or 'no name'})"
        decoded = row.get("decoded") or row.get("bitstream")
        if not row["name"] or not row["original"] or not decoded:
            raise VovError(f"{where}: needs name, original, and decoded or bitstream")
        for file in (row["original"], decoded, row.get("bitstream")):
            if file and not (base / file).exists():
                raise VovError(f"{where}: {base / file} does not exist; MEDIA_DIR is what paths start from")
        rate = file_rate(base / row["bitstream"]) if row.get("bitstream") else own_rate(base / decoded)
        for key in ("bytes", "bpp"):
            if row.get(key) and not rate:
                try:
                    value = float(row[key])
                except ValueError:
                    value = math.nan
                if not 0 < value < math.inf:
                    raise VovError(f"{where}: {key}={row[key]!r} is not a positive number")
                rate = {key: value, "rate_source": f"stated {key}"}
        items.append(Item(row["name"], row.get("clip") or Path(row["original"]).stem, row.get("codec") or row["name"],
                          base / row["original"], base / decoded, **rate))
    return items


def check(items: Sequence[Item], settings: EvalConfig) -> None:
    """Opens every pair: sizes and frame counts must agree. Sets each item's count and fps."""
    for item in items:
        original = item.reference()
        if str(item.decoded).endswith(".vov"):
            from vov import bitstream

            bitstream.read(item.decoded)  # a damaged file fails now, not after an hour
            continue
        decoded = item.source()
        counts = (len(original), len(decoded))
        if settings.num_frames > min(counts):
            raise VovError(f"{item.name}: NUM_FRAMES={settings.num_frames}, but the original has {counts[0]} frames "
                           f"and the reproduction {counts[1]}; set NUM_FRAMES={min(counts)} or less")
        if not settings.num_frames and counts[0] != counts[1]:
            raise VovError(f"{item.name}: the original has {counts[0]} frames, the reproduction {counts[1]}; "
                           f"set NUM_FRAMES={min(counts)} to compare the first {min(counts)}")
        a, b = next(iter(original)).shape, next(iter(decoded)).shape
        if a != b:
            raise VovError(f"{item.name}: the original is {a[1]}×{a[0]}, the reproduction {b[1]}×{b[0]}; metrics "
                           "compare at the original's size: decode to it, or scale the original to what was coded")
        item.count, item.fps = settings.num_frames or counts[0], original.fps


def read_curves(path: str) -> list[dict]:
    """Published curves: CSV with label, clip, metric, bpp, value; "*" as clip stands for every one."""
    if not path:
        return []
    try:
        rows = [row for row in csv.DictReader(Path(path).read_text(encoding="utf-8-sig").splitlines())]
        return [{"label": row["label"], "clip": row["clip"], "metric": row["metric"], "bpp": float(row["bpp"]),
                 "value": float(row["value"])} for row in rows]
    except FileNotFoundError:
        raise VovError(f"REFERENCE_CURVES={path}: no such file; give a CSV file that exists") from None
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise VovError(f"REFERENCE_CURVES={path}: needs columns label, clip, metric, bpp, value ({error})") from error


def numbers(name: str, text: str) -> list[float]:
    """"0.5,1,2" → [0.5, 1.0, 2.0]; raises VovError naming the variable unless all are positive."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < v < math.inf for v in values):
        raise VovError(f"{name}={text!r}: must be positive numbers with commas between")
    return values
