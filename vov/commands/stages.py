"""From sources to a finished .vov file, stage after stage: what the training commands of both trees share."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vov import VovError, bitstream
from vov.bitstream import Item
from vov.commands.run_report import NAME, Clock, table
from vov.commands.saving import decoded_paths, finish
from vov.config import read_by
from vov.fitting.distributed import World, world
from vov.fitting.encoder import Encoder, read_start
from vov.fitting.rate import RateModel
from vov.fitting.rate_control import with_final_step
from vov.fitting.settings import FitConfig, refuse_disagreement
from vov.media.original import Original
from vov.model.backbone import Backbone
from vov.runtime.files import content_hash, locked, refuse_overlap, refuse_unwritable, write_bytes
from vov.runtime.resumable import FIT, Outputs, refuse_foreign

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of a fit: its name, its settings, the folder that gets its checkpoint and log."""

    name: str
    settings: FitConfig
    folder: Path


def train(kind: type[Backbone], originals: Sequence[Original], stages: Sequence[Stage], path: Path,
          prepare: Callable[[FitConfig, Backbone], FitConfig] = lambda settings, backbone: settings,
          round_at_end: bool = False, inputs: Sequence[Path] = ()) -> str:
    """Runs the stages one after the other; when the last has a rate term, writes, decodes and measures the file.

    Run again after a kill, it goes on where it was; run again when all is done, it changes nothing.

    Args:
        kind: the tree's backbone.
        originals: one clip, or pictures that share θ.
        path: of the .vov file; its folder gets the decoded frames and result.json, and is locked meanwhile.
        prepare: (settings, backbone) → settings, for what only the model knows.
        round_at_end: write a file even without a rate term, θ rounded at INIT_BITS per entry.
        inputs: what was read that no variable names.
    Returns:
        What to print: the table of the result, or what to do next; empty in all processes but the first.
    """
    refuse_impossible(stages)
    for original in originals:
        Item(original.caption, 1, 1)  # what a file can hold
    folders = {folder.resolve(): folder for folder in (path.parent, *(stage.folder for stage in stages))}
    fits = [stage.folder / name for stage in stages for name in FIT]
    last = _written(path, originals) if round_at_end or stages[-1].settings.lambda_rate > 0 else []
    refuse_overlap([*fits, *last], [*inputs, *(read for stage in stages for read in read_by(stage.settings))])
    refuse_foreign([*fits, *last])
    refuse_unwritable([path, *fits])
    with world() as here, ExitStack() as held:
        for folder in folders.values() if here.first else ():
            held.enter_context(locked(folder))
        return _run(kind, originals, stages, path, (prepare, round_at_end), here)


def _written(path: Path, originals: Sequence[Original]) -> list[Path]:
    """What `write` leaves."""
    several, moving = len(originals) > 1, len(originals[0].frames) > 1
    decoded = [path.with_suffix("")] if several or moving else [path.with_suffix(".png")]
    return [path, *decoded, *([path.with_suffix(".mp4")] if moving else []), path.parent / NAME]


def refuse_impossible(stages: Sequence[Stage]) -> None:
    """Raises VovError for stages that cannot follow each other."""
    refuse_disagreement({stage.name: stage.settings for stage in stages})
    first, *others = stages
    for stage in others:
        if stage.folder.resolve() == first.folder.resolve():
            raise VovError(f"{first.folder}: is the folder of {first.name} and of {stage.name}; set "
                           f"{first.name.upper()}_OUT_DIR and {stage.name.upper()}_OUT_DIR to different ones")
        if stage.settings.init_lora_path not in ("", first.settings.init_lora_path):
            raise VovError(f"{stage.name.upper()}_INIT_LORA_PATH={stage.settings.init_lora_path}: {stage.name} starts "
                           f"from what {first.name} ends in; leave it unset, or run {stage.name} alone")


def _run(kind: type[Backbone], originals: Sequence[Original], stages: Sequence[Stage], path: Path,
         ending: tuple[Callable[[FitConfig, Backbone], FitConfig], bool], here: World) -> str:
    settings, clock, (prepare, round_at_end) = stages[0].settings, Clock(), ending
    backbone = settings.load(kind)
    stages = [replace(stage, settings=prepare(stage.settings, backbone)) for stage in stages]
    last = stages[-1].settings
    with Encoder(backbone, originals, stages[0].settings, here) as encoder:
        for stage in stages:
            encoder.check(stage.settings)
        start = read_start(settings.init_lora_path, settings, backbone, encoder.model.projection)
        for stage in stages:
            fitted = clock.time(stage.name, encoder.fit, stage.settings, stage.folder, start)
            start = {"unilora_theta_d": fitted.theta}
        if fitted.step is None and round_at_end:
            log.info("no rate term: θ is rounded after the fit, at %g bits per entry", last.init_bits)
            fitted = replace(fitted, step=RateModel.from_theta(fitted.theta, last.init_bits).step_value)
        if not here.first:
            return ""
        fitted = with_final_step(encoder, last, fitted)
        if fitted.step is None:
            return f"{stages[-1].name} is done; go on with INIT_LORA_PATH={fitted.checkpoint} and stage 2"
        stream = encoder.bitstream(last, fitted)
    return write(path, stream, backbone, originals, last, clock)


def write(path: Path, stream: bitstream.Bitstream, backbone: Backbone, originals: Sequence[Original],
          settings: FitConfig, clock: Clock) -> str:
    """Writes the file of a fit to `path`, decodes it, and measures what came out; returns the lines to print.

    Beside the file: the decoded frames and result.json. What is there already and is of this very file is kept (a run
    that was stopped while writing).
    """
    data = bitstream.to_bytes(stream)
    place, identity = path.parent / NAME, content_hash(data)
    paths = [path, *decoded_paths(path.parent, path.stem, stream), place]
    with Outputs(path.name, paths, identity, settings.overwrite, known={path: identity}) as outputs:
        if outputs.complete:
            return table(json.loads(place.read_bytes()))
        outputs.make(path, lambda: write_bytes(path, data))
        read = bitstream.from_bytes(path.read_bytes(), str(path))
        return table(finish(outputs, path, read, backbone, [one.frames for one in originals], clock))
