"""The rows of `scripts/results.sh`: a file by one of our commands or by another codec, measured once and kept."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from scripts.results import ways
from scripts.results.kept import Rows, key
from scripts.results.originals import Measured
from scripts.results.settings import Results
from vov import media
from vov.evaluation import explicit
from vov.evaluation.anchors import anchor_points
from vov.evaluation.collect import ffmpeg_version, finite
from vov.evaluation.measure import Suite
from vov.model.backbone import Backbone
from vov.model.lookup import pick_device
from vov.runtime.files import REPO, content_hash

logger = logging.getLogger(__name__)


class Comparison:
    """Makes and keeps rows.

    Args:
        settings: of the command.
        backbones: {kind: loads its model}; each is loaded when it is first asked for.
        suite: the metrics.
    """

    def __init__(self, settings: Results, backbones: dict[str, Callable[[], Backbone]], suite: Suite):
        self.settings, self.suite, self.loads = settings, suite, backbones
        self.folder = Path(settings.out)
        self.kept = Rows(self.folder / "rows.jsonl", self.folder)
        self.notes: list[str] = []
        self.loaded: dict[str, Backbone] = {}

    @cached_property
    def device(self) -> str:
        """What the rows are measured on."""
        device = pick_device(self.settings.device)
        return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"

    @cached_property
    def metrics(self) -> tuple:
        """What a row's metrics depend on."""
        return (*sorted(self.suite.names()), *self.suite.versions, self.suite.conditions())

    def backbone(self, kind: str) -> Backbone:
        """The model of a kind."""
        load = self.loads[kind]
        if kind not in self.loaded:
            self.loaded[kind] = next((self.loaded[k] for k, other in self.loads.items() if other is load
                                      and k in self.loaded), None) or load()
        return self.loaded[kind]

    def ours(self, original: Measured, way: str, asked: int) -> list[dict]:
        """The row of one of our ways at one size; none, and a note, when the command refuses."""
        settings, quick = self.settings, self.settings.extent == "quick"
        out = self.folder / original.kind / original.name / f"{way}-{asked}"
        more, share = settings.shared(original.kind) if ways.WAYS[way].shared else ("", 0.0)
        values = {"name": original.name, "original": str(original.path), "out": str(out), "fps": f"{original.fps:g}",
                  "bytes": str(asked - round(share)), "caption": original.caption, "more": more}
        command = ways.commands(way, original.kind, values, quick)
        named = command.replace(str(self.folder), "OUT")
        found = key(self.backbone(original.kind), [original.original()], way, named, share, self.metrics)
        if rows := self.kept.find(found):
            return rows
        if any(out.rglob("checkpoint.safetensors")):  # of a stopped run, or of another machine: it goes on with them
            self.begun = None
        if problem := run(command, out, settings.environment()):
            self.note(f"{original.name}, {way}, {asked:,} bytes: {problem}")
            return []
        file = out / f"{original.name}.vov"
        decoded = ways.decoded_path(original.kind, out, original.name)
        return self.add(found, original, way, asked, file, decoded, round(file.stat().st_size + share), command)

    def codec(self, original: Measured, name: str, preset: str, asked: int) -> list[dict]:
        """The row of another codec: its finest stream of at most `asked` bytes; none, and a note, if there is none."""
        found = content_hash(name, preset, asked, original.frames.shape, original.frames.tobytes(), original.fps,
                             ffmpeg_version(), self.metrics)
        if rows := self.kept.find(found):
            return [row for row in rows if row["bytes"] <= asked]
        place = self.folder / original.kind / original.name / f"{name}-{asked}"
        (made,) = anchor_points(name, preset, original.frames, len(original.frames), original.fps or 24.0, [asked],
                                place)
        rows = self.add(found, original, name, asked, made.path, made.open(), made.bytes, made.command)
        return [row for row in rows if row["bytes"] <= asked]

    def explicit(self, original: Measured, asked: int) -> list[dict]:
        """The row of quantised latents of about `asked` bytes."""
        backbone = self.backbone(original.kind)
        found = key(backbone, [original.original()], "explicit", asked, self.metrics)
        if rows := self.kept.find(found):
            return rows
        clip = media.Clip(original.frames, original.fps or 1.0)
        place = self.folder / original.kind / original.name / f"explicit-{asked}"
        (file,) = explicit.encode(clip, backbone, [asked], place)
        frames = explicit.decode_file(file, backbone).frames
        return self.add(found, original, ways.EXPLICIT, asked, file, list(frames), file.stat().st_size,
                        f"vov.evaluation.explicit, {file.stem}")

    def add(self, found: str, original: Measured, way: str, asked: int, file: Path, decoded: Any, size: int,
            command: str) -> list[dict]:
        """Measures and keeps one row. decoded: a path, or frames; size: the bytes that count."""
        seconds = None if self.begun is None else round(time.monotonic() - self.begun, 1)
        shown = media.FrameSource(decoded) if isinstance(decoded, Path) else decoded
        reference = media.FrameSource(original.path, fps=original.fps)
        measured = self.suite.measure(reference, shown, len(original.frames))
        height, width = original.frames.shape[1:3]
        picture, middle = file.with_name(f"{file.stem}.shown.png"), len(original.frames) // 2
        media.write_image(picture, next(islice(iter(shown), middle, None)))
        values = {name: value for name, value in measured.values.items() if name in self.settings.wanted()}
        return self.kept.add(found, [finite({
            "kind": original.kind, "clip": original.name, "way": way, "asked": asked, "bytes": size,
            "frames": len(original.frames), "size": f"{width}×{height}", "metrics": values, "command": command,
            "seconds": seconds, "date": datetime.now(timezone.utc).date().isoformat(), "device": self.device,
            "torch": torch.__version__, "file": str(file.relative_to(self.folder)),
            "picture": str(picture.relative_to(self.folder))})])

    def rows(self, originals: Sequence[Measured], sizes: dict[str, list[int]]) -> Iterator[dict]:
        """Every row that the settings ask for, kept or new: the other codecs first, then ours, the cheap ones first."""
        for original, name, asked in self.plan(originals, sizes):
            self.begun = time.monotonic()
            preset = dict(self.settings.codecs(original.kind)).get(name)
            if preset is not None:
                yield from self.codec(original, name, preset, asked)
            elif name == ways.EXPLICIT:
                yield from self.explicit(original, asked)
            else:
                yield from self.ours(original, name, asked)

    def plan(self, originals: Sequence[Measured], sizes: dict[str, list[int]]) -> list[tuple[Measured, str, int]]:
        """(original, way or codec, bytes) of every row, in the order in which they are made."""
        settings, found = self.settings, []
        for original in originals:
            every = [round(size * (len(original.frames) if original.kind == "sequences" else 1))
                     for size in sizes[original.kind]]
            others = [name for name, _ in settings.codecs(original.kind)]
            others += [ways.EXPLICIT] if settings.takes_explicit() else []
            found += [(0, original, name, size) for name in others for size in every]
            ours = ways.chosen(settings.extent, original.kind, settings.ways, settings.collection_of(original.kind))
            for rank, name in enumerate(ours, 1):
                found += [(rank, original, name, size)
                          for size in ways.sizes_of(name, original.kind, every, settings.extent)]
        return [tuple(rest) for _, *rest in sorted(found, key=lambda one: one[0])]

    def note(self, text: str) -> None:
        """Says what has no row, and why; the page says it too."""
        logger.warning(text)
        self.notes.append(text)


def run(command: str, out: Path, environ: dict[str, str]) -> str:
    """Runs a command of the repository, its output in OUT/log.txt; returns its last line if it failed."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    with log.open("wb") as file:
        done = subprocess.run(["bash", "-c", command], cwd=REPO, env=os.environ | environ, stdout=file,
                              stderr=subprocess.STDOUT, check=False)
    said = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    return said[-1][:300] if done.returncode else ""
