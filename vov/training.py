"""From sources to a finished .vov file, stage after stage: what the training commands of both trees share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vov import VovError
from vov.codec import Encoder, Source, check_caption, read_start, rounded
from vov.config import read_by
from vov.files import locked, refuse_overlap, refuse_unwritable
from vov.fitting.distributed import World, world
from vov.fitting.settings import FitConfig, refuse_disagreement
from vov.landing import land
from vov.model.backbone import Backbone
from vov.outputs import FIT, refuse_foreign
from vov.results import Clock, decoded_paths, finish

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of a fit: its name, its settings, the folder that gets its checkpoint and log."""

    name: str
    settings: FitConfig
    folder: Path


def train(kind: type[Backbone], sources: Sequence[Source], stages: Sequence[Stage], path: Path,
          prepare: Callable[[FitConfig, Backbone], FitConfig] = lambda settings, backbone: settings,
          round_at_end: bool = False, inputs: Sequence[Path] = ()) -> str:
    """Runs the stages one after the other; when the last has a rate term, writes, decodes and measures the file.

    Run again after a kill, it goes on where it was; run again when all is done, it changes nothing.

    Args:
        kind: the tree's backbone.
        sources: one clip, or pictures that share θ.
        path: of the .vov file; its folder gets the decoded frames and result.json, and is locked meanwhile.
        prepare: (settings, backbone) → settings, for what only the model knows.
        round_at_end: write a file even without a rate term, θ rounded at INIT_BITS per entry.
        inputs: what was read that no variable names.
    Returns:
        What to print: the table of the result, or what to do next; empty in all processes but the first.
    """
    refuse_impossible(stages)
    for source in sources:
        check_caption(source)
    folders = {folder.resolve(): folder for folder in (path.parent, *(stage.folder for stage in stages))}
    fits = [stage.folder / name for stage in stages for name in FIT]
    last = [*decoded_paths(path.parent, path.stem, len(sources), len(sources[0].frames)), path,
            path.parent / "result.json"] if round_at_end or stages[-1].settings.lambda_rate > 0 else []
    refuse_overlap([*fits, *last], [*inputs, *(read for stage in stages for read in read_by(stage.settings))])
    refuse_foreign([*fits, *last])
    refuse_unwritable([path, *fits])
    with world() as here, ExitStack() as held:
        for folder in folders.values() if here.first else ():
            held.enter_context(locked(folder))
        return _run(kind, sources, stages, path, prepare, round_at_end, here)


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


def _run(kind: type[Backbone], sources: Sequence[Source], stages: Sequence[Stage], path: Path,
         prepare: Callable[[FitConfig, Backbone], FitConfig], round_at_end: bool, here: World) -> str:
    settings, clock = stages[0].settings, Clock()
    backbone = settings.load(kind)
    stages = [replace(stage, settings=prepare(stage.settings, backbone)) for stage in stages]
    encoder = Encoder(backbone, sources, stages[0].settings, here)
    for stage in stages:
        encoder.check(stage.settings)
    start = read_start(settings.init_lora_path, settings, backbone, encoder.projection)
    for stage in stages:
        fitted = clock.time(stage.name, encoder.fit, stage.settings, stage.folder, start)
        start = {"unilora_theta_d": fitted.theta}
    last = stages[-1].settings
    if fitted.step is None and round_at_end:
        log.info("no rate term: θ is rounded after the fit, at %g bits per entry", last.init_bits)
        fitted = rounded(fitted, last.init_bits)
    if not here.first:
        return ""
    fitted = land(encoder, last, fitted)
    if fitted.step is None:
        encoder.close()
        return f"{stages[-1].name} is done; go on with INIT_LORA_PATH={fitted.checkpoint} and stage 2"
    return finish(encoder, path, last, fitted, clock)

