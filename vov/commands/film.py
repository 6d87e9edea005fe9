"""A video of any length to one file and its decode, at the rate or the quality that was asked for."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vov import VovError, bitstream
from vov.bitstream import Bitstream, Item
from vov.bitstream.container import SOUND
from vov.bitstream.sequence_code import SequenceCode
from vov.commands.run_report import NAME, Clock, Meter, table
from vov.commands.saving import finish
from vov.config import read_by
from vov.decoding import collection
from vov.decoding.decode import Decoder, read
from vov.decoding.limits import check_work
from vov.fitting.distributed import World, world
from vov.media import FrameSource
from vov.model.backbone import Backbone
from vov.model.registry import backbone_class
from vov.noise import rate_control
from vov.runtime.files import content_hash, locked, refuse_overlap, refuse_unwritable, write_bytes
from vov.runtime.resumable import Outputs, read_record, refuse_foreign
from vov.sequence.encode import Coded, SequenceEncoder
from vov.sequence.share import encoder_of

if TYPE_CHECKING:  # which calls this module
    from vov.commands.encode import EncodeVideo


def encode(settings: EncodeVideo) -> str:
    """Codes a video into its file, decodes it from its bytes alone, measures; returns what to print.

    Beside the file: NAME.mp4, NAME/00000.png …, result.json, and the folder `chunks` from which a stopped run goes on.
    Of several processes all but the first return nothing.
    """
    path = settings.file
    Item(settings.words, 1, 1)  # its bounds, before any time is spent
    settings.one_rate()
    paths = outputs_of(settings)
    source = FrameSource(settings.frames_dir, start=settings.start, frames=settings.frames, fps=settings.fps)
    with world() as here, locked(path.parent) if here.first else nullcontext():
        backbone, clock = settings.load(backbone_class("video")), Clock()
        stream = clock.time("encode", _coded, settings, backbone, source, here)
        if stream is None:
            return ""
        if sound := source.sound() if settings.audio == "copy" else b"":
            stream = replace(stream, extra={SOUND: sound})
        data, place = bitstream.to_bytes(stream), path.parent / NAME
        identity = content_hash(data)
        with Outputs(path.name, paths, identity, settings.overwrite, known={path: identity}) as outputs:
            if outputs.complete:
                return table(json.loads(place.read_bytes()))
            outputs.make(path, lambda: write_bytes(path, data))
            return table(finish(outputs, path, read(path, limit=0), backbone, [source], clock,
                                settings.collection))


def outputs_of(settings: EncodeVideo) -> list[Path]:
    """What `encode` leaves beside the chunks.

    Raises VovError when these would touch what is read, or are there and no run or that of another file made them, or
    cannot be written.
    """
    path = settings.file
    paths = [path, path.with_suffix(""), path.with_suffix(".mp4"), path.parent / NAME]
    refuse_overlap([*paths, path.parent / "chunks"], read_by(settings))
    refuse_foreign(paths)
    of = read_record(path.parent / NAME, "bytes_by_part").get("file", path.name)
    if of != path.name and not settings.overwrite:
        raise VovError(f"{path.parent / NAME} exists and is of {of}; choose another `out_dir`, or set `overwrite`=1 to "
                       "replace it")
    refuse_unwritable(paths)
    return paths


def _coded(settings: EncodeVideo, backbone: Backbone, source: FrameSource, here: World) -> Bitstream | None:
    """The file without its sound, at the rate or the PSNR that was asked for; None in all processes but the first."""
    chunks = settings.file.parent / "chunks"

    def once(settings: EncodeVideo, folder: Path) -> Bitstream | None:
        encoder = encoder_of(settings, backbone, settings.frames_dir, settings.words, source, folder)
        with collection.applied(encoder.collection, backbone, settings.collection):
            check_work(encoder.header, 1, str(settings.file), settings.decode_limit)
        code = _run(encoder, settings.file.stem, here)
        return None if code is None else encoder.bitstream(code, source.info.width, source.info.height)

    def attempt(spend: int) -> tuple[float, Bitstream | None]:
        rate = replace(settings, target_psnr=0.0, bytes_per_frame=spend / len(source))
        stream = once(rate, chunks / f"{spend}")
        measured = round(1e6 * _psnr(stream, backbone, source, settings.collection)) if stream else 0
        return here.numbers(measured)[0] / 1e6, stream

    if not settings.target_psnr:
        return once(settings, chunks)
    values = math.prod(backbone.latent_shape(settings.width, settings.height, settings.num_frames))
    most = values * (1 + len(source) // settings.num_frames)  # 8 bits a latent value
    first = round(settings.usual_rate * len(source))
    return rate_control.aimed(settings.target_psnr, first, 4 * len(source), most, attempt)


def _psnr(stream: Bitstream, backbone: Backbone, original: FrameSource, collections: str) -> float:
    """Of the decoded video, in its own geometry."""
    meter = Meter(original, stream)
    with Decoder(stream, backbone, collections=collections) as decoder:
        for frame in decoder.frames():
            meter.add(frame)
    return meter.psnr


def _run(encoder: SequenceEncoder, title: str, here: World) -> SequenceCode | None:
    """The encoder's chunks under a progress bar."""
    hidden = None if here.first else True  # None: where there is no terminal
    with tqdm(total=len(encoder.spans), desc=title, unit="chunk", dynamic_ncols=True, disable=hidden) as bar:
        size, values = 0, []

        def done(number: int, coded: Coded) -> None:
            nonlocal size
            size += -(-len(coded.chunk.symbols) * encoder.packings[coded.chunk.chained].width // 8)
            values.append(coded.psnr)
            bar.set_postfix(scene=encoder.spans[number].scene, bytes=size, psnr=f"{np.mean(values):.2f}", refresh=False)
            bar.update()

        return encoder.run(done, here)
