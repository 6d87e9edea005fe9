"""What an evaluation compares: its configuration, and pairs of original and reproduction with their rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vov import VovError, media
from vov.config import option
from vov.model.options import ModelOptions

if TYPE_CHECKING:  # --help needs no torch
    from vov.bitstream import Header
    from vov.evaluation.measure import Measured


@dataclass(frozen=True)
class EvalConfig(ModelOptions):
    """Everything that an evaluation depends on."""

    real_dir: str = option("", "the original: a folder of frames, a video or an image; or a folder of several of "
                           "these, paired with FAKE_DIR by name (required unless MANIFEST)")
    fake_dir: str = option("", "the reproduction, likewise, or a .vov file (required unless MANIFEST)")
    name: str = option("", "name of what is evaluated; default: that of FAKE_DIR")
    bitstream: str = option("", "the compressed file, or a folder of them with FAKE_DIR's names: gives bpp and kB/s")
    manifest: str = option("", "CSV: name, original, decoded (or .vov) [, clip, codec, bitstream | bytes | bpp]; "
                           "many pairs in one run")
    media_dir: str = option("", "what relative paths in MANIFEST start from; default: the manifest's folder",
                            name="DATA_ROOT", alias=("MEDIA_DIR", "MEDIA"))
    num_frames: int = option(0, "compare the first N frames; 0: all, which must be equally many", name="FRAMES",
                             alias=("NUM_FRAMES",), minimum=0)
    out_dir: str = option("./results", "gets results.json, results.csv, results.md, rd.svg, report.html")
    work_dir: str = option("./fvd_clips", "scratch: streams of the anchors, frames decoded from .vov files")
    overwrite: bool = option(False, "replace existing results")
    metrics: str = option("all", "which to compute, with commas between: psnr, ssim, ms_ssim, lpips_vgg, lpips_alex, "
                          "dists, stlpips_vgg, stlpips_alex, ssimulacra2, jod (ColorVideoVDP; seconds a frame on a "
                          "CPU), vmaf, xpsnr, warp, fvd; all: what is installed")
    jod_display: str = option("standard_4k", "display and distance of ColorVideoVDP: standard_4k, standard_fhd, …",
                             rare=True)
    skip_metrics: bool = option(False, "only PSNR, flicker and FVD")
    skip_fvd: bool = option(False, "no FVD")
    frame_step: int = option(1, "SSIM, MS-SSIM, LPIPS, DISTS, ST-LPIPS and SSIMULACRA2 of every N-th frame", minimum=1)
    metric_weights_dir: str = option("", "where VGG-16, AlexNet, DISTS and I3D weights are; then PyTorch's cache")
    anchors: str = option("", "codecs to encode for comparison, CODEC[=PRESET],…: x264, x265, svtav1, vvc, jpeg, "
                          "webp, avif, jxl, explicit (quantised latents of the same VAE); video, image: all of a kind")
    anchor_rates: str = option("0.5,1,2", "sizes of the anchors, as multiples of our bytes")
    anchor_bytes: str = option("", "sizes of the anchors in bytes, instead")
    bd_anchor: str = option("", "codec that BD-rates compare with; default: the first anchor")
    reference_curves: str = option("", "CSV: label, clip, metric, bpp, value; published curves, drawn into the plots")
    report_frames: int = option(2, "frames per clip in the report's slider", minimum=1, rare=True)
    report_video: bool = option(True, "put small videos into the report", rare=True)


@dataclass
class Pair:
    """An original and one reproduction of it, and later what was measured.

    Attributes:
        name, clip, codec: what the tables call the reproduction, the original, and what made the reproduction.
        decoded: a path, or anything that yields frames; a .vov file until `evaluate` has decoded it.
        bytes, bpp, rate_source: the size, one of both at first, and where it is from.
        detail: further entries of results.json: preset, quality, command, model_id, bytes_by_part.
        fps, count: frames per second and frames to compare; `open_pairs` fills them in.
        crop: (width, height) that the original is cropped to, as the fit did.
        header, header_size, header_frames: of a .vov file; (width, height) and number of the frames it decodes to.
    """

    name: str
    clip: str
    codec: str
    original: Path
    decoded: Any
    bytes: float | None = None
    bpp: float | None = None
    rate_source: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    measured: Measured = field(init=False, repr=False, compare=False)
    fps: float = 0.0
    count: int = 0
    crop: tuple[int, int] | None = None
    header: Header | None = None
    header_size: tuple[int, int] = (0, 0)
    header_frames: int = 0

    @property
    def is_coded(self) -> bool:
        """Whether the reproduction is a .vov file that has to be decoded."""
        return isinstance(self.decoded, str | Path) and Path(self.decoded).suffix == ".vov"

    def reference(self) -> Any:
        """Frames of the original at the reproduction's rate; of a clip that was cropped, the same crop."""
        source = media.FrameSource(self.original, fps=self.fps)
        return Cropped(source, *self.crop) if self.crop else source

    def source(self) -> Any:
        """Frames of the reproduction."""
        return media.FrameSource(self.decoded) if isinstance(self.decoded, str | Path) else self.decoded

    def fill_rate(self) -> None:
        """Bytes from bpp or bpp from bytes, whichever is known, once the pair is measured."""
        width, height = self.measured.size
        pixels = width * height * self.count
        if self.bytes is not None:
            self.bpp = 8 * self.bytes / pixels
        elif self.bpp is not None:
            self.bytes = self.bpp * pixels / 8

    def decoded_geometry(self) -> tuple[tuple[int, int], int]:
        """((width, height), frames) of the reproduction; of a .vov file, what its header promises."""
        if self.is_coded:
            return self.header_size, self.header_frames
        source = self.source()
        height, width = next(iter(source)).shape[:2]
        return (width, height), len(source)


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


def read_folders(settings: EvalConfig, images: bool) -> list[Pair]:
    """Pairs from REAL_DIR and FAKE_DIR: one, or one for each name when both hold several clips or pictures."""
    for name, what in (("real_dir", "the original"), ("fake_dir", "the decoded")):
        value = getattr(settings, name)
        if not value:
            raise VovError(f"`{name}` is not set; give {what} folder, video or image (or a `manifest`)")
        if not Path(value).exists():
            raise VovError(f"`{name}`={value}: no such folder, video or image; give a path that exists")
    real, fake = Path(settings.real_dir), Path(settings.fake_dir)
    codec, stream = settings.name or fake.stem, Path(settings.bitstream) if settings.bitstream else None
    reals = members(real, images)
    if not reals:
        return [Pair(codec, real.stem, codec, real, fake, **(file_rate(stream) if stream else own_rate(fake)))]
    fakes = members(fake, images)
    if missing := [name for name in reals if name not in fakes]:
        raise VovError(f"`fake_dir`={fake}: lacks {missing[0]} and {len(missing) - 1} more of `real_dir`'s "
                       f"{len(reals)}; names must be equal up to the extension")
    rates = member_rates(stream, reals) if stream else {name: own_rate(fakes[name]) for name in reals}
    return [Pair(codec, name, codec, path, fakes[name], **rates[name]) for name, path in reals.items()]


def member_rates(stream: Path, originals: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """{name: rate fields} from BITSTREAM: a folder with a file for each name, or one file that all of them share."""
    if stream.is_dir():
        found = {path.stem: path for path in stream.iterdir() if path.is_file()}
        if missing := [name for name in originals if name not in found]:
            raise VovError(f"`bitstream`={stream}: has no file for {missing[0]}; name each as its original, or give "
                           "one file for all")
        return {name: file_rate(found[name]) for name in originals}
    # one file for all: every clip or picture bears its share of pixels
    pixels = {}
    for name, path in originals.items():
        source = media.FrameSource(path)
        height, width = next(iter(source)).shape[:2]
        pixels[name] = len(source) * height * width
    total = file_rate(stream)
    return {name: total | {"bytes": total["bytes"] * pixels[name] / sum(pixels.values())} for name in originals}


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
    """Rate fields of a `Pair` from its compressed file: all bytes on disk, and of a .vov file where they went."""
    if not path.is_file():
        raise VovError(f"`bitstream`={path}: no such file; give the compressed file, or nothing if there is none")
    found: dict[str, Any] = {"bytes": float(path.stat().st_size), "rate_source": "file", "detail": {}}
    if path.suffix == ".vov":
        from vov import bitstream

        parts = dataclasses.asdict(bitstream.parts(path))
        found["detail"]["bytes_by_part"] = {k: v for k, v in parts.items() if v}
        header = bitstream.read(path).header
        if header.resize == "crop":  # its decode shows a part of the original, which is compared with just that part
            found["crop"] = (header.width, header.height)
    return found


def own_rate(path: Path) -> dict[str, Any]:
    """Rate fields of a reproduction that is itself a .vov file; none for decoded frames, whose size says nothing."""
    return file_rate(path) if path.suffix == ".vov" else {}


def open_pairs(pairs: Sequence[Pair], num_frames: int, limit: float = 1.0) -> None:
    """Opens every pair, so that what does not match is known before any long work; fills in `count` and `fps`.

    Args:
        num_frames: compare the first so many; 0: all, which must then be equally many on both sides.
        limit: DECODE_LIMIT, see `vov.decoding.limits`.
    Raises:
        VovError: a side cannot be read, a file asks for too much, or frame counts or sizes differ.
    """
    for pair in pairs:
        if pair.is_coded:
            read_header(pair, limit)
        size, count = pair.decoded_geometry()
        if pair.crop and pair.crop != size:  # frames of the original's size beside a file of a crop: not its decode
            pair.crop = None
        original = pair.reference()
        counts = (len(original), count)
        if num_frames > min(counts):
            raise VovError(f"{pair.name}: `frames`={num_frames}, but the original has {counts[0]} frames "
                           f"and the reproduction {counts[1]}; set `frames`={min(counts)} or less")
        if not num_frames and counts[0] != counts[1]:
            raise VovError(f"{pair.name}: the original has {counts[0]} frames, the reproduction {counts[1]}; "
                           f"set `frames`={min(counts)} to compare the first {min(counts)}")
        height, width = next(iter(original)).shape[:2]
        if (width, height) != size:
            raise VovError(f"{pair.name}: the original is {width}×{height}, the reproduction {size[0]}×{size[1]}; "
                           "metrics compare at the original's size: decode to it, or scale the original to what was "
                           "coded")
        pair.count, pair.fps = num_frames or counts[0], original.fps


def read_header(pair: Pair, limit: float = 1.0) -> None:
    """Reads what a pair's .vov file says of itself; a damaged file is known now, not after an hour."""
    from vov import bitstream
    from vov.decoding.limits import check_file

    stream = bitstream.read(pair.decoded)
    check_file(stream, str(pair.decoded), limit)
    if len(stream.items) != 1 and not stream.sequence:
        raise VovError(f"{pair.decoded}: holds {len(stream.items)} pictures; decode it first, then give the folder as "
                       "`fake_dir` and the file as `bitstream`")
    header, item = stream.header, stream.items[0]
    cropped = header.resize == "crop"
    pair.header, pair.header_frames = header, stream.sequence.frames if stream.sequence else header.num_frames
    pair.header_size = ((header.width, header.height) if cropped else (item.original_width, item.original_height))
    pair.crop = pair.header_size if cropped else None
    pair.detail["model_id"] = header.model_id
