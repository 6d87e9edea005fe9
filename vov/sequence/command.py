"""What the video tree's commands do with sequences: a video to a file and its decode, a file to frames."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vov import VovError, bitstream, media, metrics
from vov.ahead import Behind, ahead
from vov.bitstream import Bitstream, Item
from vov.bitstream.container import SOUND
from vov.config import read_by
from vov.demand import check_work
from vov.files import content_hash, locked, refuse_overlap, refuse_unwritable, write_bytes, write_json
from vov.fitting import collection
from vov.fitting.distributed import World, world
from vov.media import FrameSource
from vov.model.backbone import Backbone
from vov.outputs import Outputs, claim, refuse_foreign
from vov.results import table
from vov.scaling import targets
from vov.sequence.decode import SequenceDecoder
from vov.sequence.encode import Coded, SequenceEncoder
from vov.sequence.plan import spans
from vov.sequence.scenes import scene_starts
from vov.sequence.settings import SequenceConfig


def encode(settings: SequenceConfig, kind: type[Backbone], clip: str, caption: str, path: Path) -> str:
    """Codes a video into `path`, decodes it from its bytes alone, measures; returns what to print.

    Beside the file: NAME.mp4, NAME/00000.png …, result.json, and the folder `chunks` from which a stopped run goes on.
    Of several processes all but the first return nothing.
    """
    Item(caption, 1, 1)  # its bounds, before any time is spent
    settings.one_rate()
    paths = outputs_of(settings, path)
    source = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps)
    with world() as here, locked(path.parent) if here.first else nullcontext():
        backbone, begun = settings.load(kind), time.monotonic()
        stream = _coded(settings, backbone, clip, caption, source, path, here)
        if stream is None:
            return ""
        if sound := source.sound() if settings.audio == "copy" else b"":
            stream = replace(stream, extra={SOUND: sound})
        seconds = {"encode": round(time.monotonic() - begun, 2)}
        data, beside = bitstream.to_bytes(stream), path.parent / "result.json"
        identity = content_hash(data)
        with Outputs(path.name, paths, identity, getattr(settings, "overwrite", False),
                     known={path: identity}) as outputs:
            if not outputs.complete:
                outputs.make(path, lambda: write_bytes(path, data))
                begun = time.monotonic()
                found = _decoded(outputs, path, backbone, source)
                seconds["decode"] = round(time.monotonic() - begun, 2)
                outputs.notes = {"result": _report(path, found, seconds, source.fps)}
                outputs.finish()
        claim(path.parent, [beside.name])  # of the last of several files that share a folder
        write_json(beside, outputs.notes["result"])
    return table(outputs.notes["result"])


def outputs_of(settings: SequenceConfig, path: Path) -> list[Path]:
    """What `encode` leaves beside the chunks and result.json: the file, its frames, its video.

    Raises VovError when these would touch what is read, or are there and no run made them, or cannot be written.
    """
    paths, beside = [path, path.with_suffix(""), path.with_suffix(".mp4")], path.parent / "result.json"
    refuse_overlap([*paths, beside, path.parent / "chunks"], read_by(settings))
    refuse_foreign([*paths, beside])
    refuse_unwritable(paths)
    return paths


def _decoded(outputs: Outputs, path: Path, backbone: Backbone, source: FrameSource) -> dict:
    """`decode` of the file at `path` against its original; frames and video are written in one pass."""
    found: dict = {}
    outputs.forget()
    outputs.make(path.with_suffix(""), lambda: found.update(decode(
        bitstream.read(path), backbone, path.parent, path.stem, original=source, file=str(path))))
    for one in (path, path.with_suffix(".mp4")):
        outputs.make(one, lambda: None)
    return found


def _coded(settings: SequenceConfig, backbone: Backbone, clip: str, caption: str, source: FrameSource, path: Path,
           here: World) -> Bitstream | None:
    """The file without its sound, at the rate or the PSNR that was asked for; None in all processes but the first."""

    def once(settings: SequenceConfig, folder: Path) -> Bitstream | None:
        encoder = encoder_of(settings, backbone, clip, caption, source, folder)
        with collection.applied(encoder.collection, backbone, settings.collection):
            check_work(encoder.header, 1, str(path), settings.decode_limit)
        code = _run(encoder, path.stem, here)
        return None if code is None else encoder.bitstream(code, source.info.width, source.info.height)

    def attempt(spend: int) -> tuple[float, Bitstream | None]:
        rate = replace(settings, target_psnr=0.0, bytes_per_frame=spend / len(source))
        stream = once(rate, path.parent / "chunks" / f"{spend}")
        measured = round(1e6 * _psnr(stream, backbone, source)) if stream else 0
        return here.numbers(measured)[0] / 1e6, stream

    if not settings.target_psnr:
        return once(settings, path.parent / "chunks")
    values = math.prod(backbone.latent_shape(settings.width, settings.height, settings.num_frames))
    most = values * (1 + len(source) // settings.num_frames)  # 8 bits a latent value
    return targets.aimed(settings.target_psnr, round(settings.usual_rate * len(source)), 4 * len(source), most, attempt)


def _psnr(stream: Bitstream, backbone: Backbone, original: FrameSource) -> float:
    """Of the decoded video, in its own geometry."""
    meter = Meter(original, stream)
    with SequenceDecoder(backbone, stream) as decoder:
        for frame in decoder.frames():
            meter.add(frame)
    return meter.result()["psnr"]


def encoder_of(settings: SequenceConfig, backbone: Backbone, clip: str, caption: str, source: FrameSource,
               folder: Path) -> SequenceEncoder:
    """The encoder of a video whose chunks go to `folder`; source: its frames in their own geometry."""
    shortest = settings.shortest_scene or settings.num_frames // 2 + 1
    starts = scene_starts(settings.scenes, source, len(source), shortest)
    planned = spans(starts, len(source), settings.num_frames, settings.key_every, backbone.temporal)
    size = (settings.width, settings.height)
    fitted = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps, size=size,
                         resize=settings.resize)
    return SequenceEncoder(backbone, fitted, planned, [caption] * len(starts), settings, folder)


def _run(encoder: SequenceEncoder, title: str, here: World):
    """The encoder's chunks under a progress bar."""
    hidden = None if here.first else True  # None: where there is no terminal
    with tqdm(total=len(encoder.spans), desc=title, unit="chunk", dynamic_ncols=True, disable=hidden) as bar:
        size, errors = 0, []

        def done(number: int, coded: Coded) -> None:
            nonlocal size
            size += -(-len(coded.chunk.symbols) * encoder.packings[coded.chunk.chained].width // 8)
            errors.append(coded.psnr)
            bar.set_postfix(scene=encoder.spans[number].scene, bytes=size, psnr=f"{np.mean(errors):.2f}", refresh=False)
            bar.update()

        return encoder.run(done, here)


def decode_to(stream: Bitstream, load: Callable[[], Backbone], folder: Path, name: str, identity: str,
              settings: Any, file: str = "the file") -> list[Path]:
    """`decode` of the frames START_AT and FRAMES ask for, unless that is there; returns what was written.

    load: gives the model. identity: of what is decoded, see `results.made_from`. settings: with these, TEXTURE and
    OVERWRITE.
    """
    paths = [folder / name, folder / f"{name}.mp4"]  # even of a single frame
    with Outputs(name, paths, identity, settings.overwrite, "OUTPUT_DIR") as outputs:
        if not outputs.complete:
            outputs.forget()  # both are written in one pass
            outputs.make(paths[0], lambda: decode(stream, load(), folder, name, settings.start_at,
                                                  settings.frames or None, file=file,
                                                  texture=settings.texture))
            outputs.make(paths[-1], lambda: None)
            outputs.finish()
    return paths


def decode(stream: Bitstream, backbone: Backbone, folder: Path, name: str, start: int = 0, count: int | None = None,
           original: FrameSource | None = None, file: str = "the file", texture: float = -1.0) -> dict:
    """Writes NAME.mp4 with its sound and NAME/00000.png …, frame by frame; returns frames, size and, with an original,
    PSNR and MS-SSIM over all frames, and PSNR by chunk."""
    with SequenceDecoder(backbone, stream, file, texture) as decoder, Behind() as behind:
        meter = Meter(original, stream) if original else None
        frames = ahead(decoder.frames(start, count), stream.header.num_frames)  # the next chunk while one is written
        shown = Shown(folder / name, frames, meter, behind)
        whole = start == 0 and count in (None, stream.sequence.frames)
        media.write_video(folder / f"{name}.mp4", shown, stream.header.fps,
                          sound=stream.extra.get(SOUND, b"") if whole else b"")
    found = {"frames": [shown.count], "size": "×".join(map(str, shown.size))}
    return found | (meter.result() if meter else {})


class Shown:
    """Frames on their way to the video, written as PNG and measured as they pass."""

    def __init__(self, folder: Path, frames: Iterator[np.ndarray], meter: Meter | None, behind: Behind):
        self.folder, self.frames, self.meter, self.count, self.size = folder, frames, meter, 0, (0, 0)
        self.behind = behind

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            self.behind(media.write_image, self.folder / f"{self.count:05d}.png", frame)
            if self.meter:
                self.meter.add(frame)
            self.count, self.size = self.count + 1, (frame.shape[1], frame.shape[0])
            yield frame


class Meter:
    """PSNR and MS-SSIM of decoded frames against an original that is read beside them."""

    def __init__(self, original: FrameSource, stream: Bitstream):
        header, crop = stream.header, stream.header.resize == "crop"
        size = (header.width, header.height) if crop else None
        self.originals = iter(original)
        self.fit = (lambda frame: media.fit_geometry(frame[None], *size, "crop")[0]) if size else (lambda frame: frame)
        self.ends = np.cumsum([chunk.frames for chunk in stream.sequence.chunks])
        self.scenes = [scene.chunks for scene in stream.sequence.scenes]
        self.mse: list[float] = []
        self.ms_ssim: list[float] = []
        self.changes: list[float] = []
        self.before: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, frame: np.ndarray) -> None:
        """The next decoded frame, uint8 [H, W, 3]."""
        target = self.fit(next(self.originals))
        if target.shape != frame.shape:
            raise VovError(f"the original is {target.shape[1]}×{target.shape[0]}, the decoded "
                           f"{frame.shape[1]}×{frame.shape[0]}; give the original that was coded")
        self.mse.append(float(np.mean((target.astype(np.float64) - frame) ** 2)))
        if self.before is not None:
            pairs = (np.stack(pair) for pair in zip(self.before, (target, frame), strict=True))
            self.changes.append(metrics.mse_of_change(*pairs))
        self.before = target, frame
        if min(frame.shape[:2]) >= metrics.WINDOW:
            self.ms_ssim.append(metrics.ms_ssim(target[None], frame[None]))

    def result(self) -> dict:
        """PSNR of the mean squared error, mean MS-SSIM, `metrics.seam` at the borders of chunks, PSNR by chunk."""
        cuts = set(np.cumsum([0, *self.scenes])[:-1].tolist())  # chunk numbers that begin a scene: a jump that is right
        borders = [end - 1 for number, end in enumerate(self.ends[:-1], 1) if number not in cuts]
        parts = np.split(np.array(self.mse), self.ends[:-1])
        return {"psnr": metrics.psnr_of_mse(float(np.mean(self.mse))),
                "ms_ssim": float(np.mean(self.ms_ssim)) if self.ms_ssim else None,
                "seam_db": metrics.seam(np.array(self.changes), borders),
                "psnr_by_chunk": [round(metrics.psnr_of_mse(float(part.mean())), 3) for part in parts if len(part)]}


def _report(path: Path, result: dict, seconds: dict[str, float], fps: float) -> dict:
    """result.json: the rate is the file, its sound apart."""
    total, parts = path.stat().st_size, bitstream.parts(path)
    pictures = total - parts.sound
    width, height = map(int, result["size"].split("×"))
    frames = result["frames"][0]
    return {"file": path.name, "bytes": pictures, "sound_bytes": parts.sound,
            "bpp": 8 * pictures / (width * height * frames),
            "bytes_by_part": {k: v for k, v in vars(parts).items() if v}, "bytes_per_frame": pictures / frames,
            "kB_per_s": pictures / 1000 / (frames / fps), "seconds": seconds, **result}
