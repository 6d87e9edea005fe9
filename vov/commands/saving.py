"""A decoded file on disk: frames as PNG, an mp4 to look at; every command that decodes writes by this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vov import media
from vov.bitstream import Bitstream
from vov.bitstream.container import SOUND
from vov.commands.run_report import NAME, Clock, Meter, report
from vov.decoding.decode import Decoder
from vov.model.backbone import Backbone
from vov.runtime.background import Behind, ahead
from vov.runtime.files import write_json
from vov.runtime.resumable import Outputs


def decoded_paths(folder: Path, stem: str, stream: Bitstream) -> list[Path]:
    """What `save` writes: stem.png for a picture, the folder stem for an album; frames and a video for a clip."""
    if stream.header.num_frames > 1 or stream.sequence:
        return [folder / stem, folder / f"{stem}.mp4"]
    return [folder / stem] if len(stream.items) > 1 else [folder / f"{stem}.png"]


def save(decoder: Decoder, folder: Path, stem: str, meters: Sequence[Meter] = (), start: int = 0,
         count: int | None = None) -> None:
    """Writes what `decoded_paths` names, as it is decoded.

    Args:
        meters: of the items; they see every frame.
        start, count: frames of a video; files keep the numbers that frames have in the whole video. Sound goes along
            with the whole video alone.
    """
    stream, paths = decoder.stream, decoded_paths(folder, stem, decoder.stream)
    if len(paths) == 1:
        names = [paths[0]] if decoder.items == 1 else [
            paths[0] / f"{name}.png" for name in item_names([item.name for item in stream.items])]
        for item, path in enumerate(names):
            (frame,) = decoder.frames(item)
            media.write_image(path, frame)
            if meters:
                meters[item].add(frame)
        return
    whole = start == 0 and count in (None, decoder.passes[-1].first + decoder.passes[-1].frames)
    with Behind() as behind:
        frames = ahead(decoder.frames(0, start, count), stream.header.num_frames)  # the next chunk while one is written
        shown = _Shown(paths[0], frames, start, meters[0].add if meters else None, behind)
        media.write_video(paths[1], shown, stream.header.fps, sound=stream.extra.get(SOUND, b"") if whole else b"")


class _Shown:
    """Frames on their way to the video, written as PNG and measured as they pass."""

    def __init__(self, folder: Path, frames: Iterator[np.ndarray], start: int,
                 measure: Callable[[np.ndarray], None] | None, behind: Behind):
        self.folder, self.frames, self.measure, self.behind = folder, frames, measure, behind
        self.numbers = range(start, start)

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            number = self.numbers.stop
            self.behind(media.write_image, self.folder / f"{number:05d}.png", frame)
            if self.measure:
                self.measure(frame)
            self.numbers = range(self.numbers.start, number + 1)
            yield frame


def save_outputs(outputs: Outputs, stream: Bitstream, load: Callable[[], Backbone], paths: Sequence[Path],
                 write: Callable[[Decoder], None], texture: float = -1.0, collections: str = "") -> None:
    """Decodes into outputs of a command, unless all of them are there.

    paths: of `decoded_paths`. write: calls `save`.
    """
    if all(outputs.has(path) for path in paths):
        return
    for path in paths:
        outputs.forget(path)  # they are written in one pass

    def work() -> None:
        with Decoder(stream, load(), texture, collections) as decoder:
            write(decoder)

    outputs.make(paths[0], work)
    for path in paths[1:]:
        outputs.make(path, lambda: None)


def finish(outputs: Outputs, path: Path, stream: Bitstream, backbone: Backbone, originals: Sequence[Iterable],
           clock: Clock, collections: str = "", **more: object) -> dict:
    """Decodes the file at `path` from its bytes alone, measures, writes result.json; what every encoding ends in.

    Args:
        originals: frames of every item as it was given.
        collections: folder where a shared θ is looked for first.
        more: further entries of result.json.
    """
    meters = [Meter(original, stream) for original in originals]
    decoded = decoded_paths(path.parent, path.stem, stream)
    place = path.parent / NAME
    for one in (*decoded, place):
        outputs.forget(one)  # measured as they are decoded
    with Decoder(stream, backbone, collections=collections) as decoder:
        outputs.make(decoded[0], lambda: clock.time("decode", save, decoder, path.parent, path.stem, meters))
    for one in decoded[1:]:
        outputs.make(one, lambda: None)
    result = report(path, stream, meters, clock.seconds) | more
    outputs.make(place, lambda: write_json(place, result))
    outputs.finish()
    return result


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
