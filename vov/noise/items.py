"""Coded noise for a file of pictures or of one clip: how many atoms each step gets, and the search for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from vov import VovError
from vov.adapter.adapted import make_header
from vov.bitstream import Bitstream, Item
from vov.bitstream.noise_code import ETA_UNIT, NoiseCode
from vov.decoding import collection
from vov.decoding.decode import Thetas
from vov.decoding.replay import stochastic_step, usual_texture
from vov.decoding.sampling import Sampling, Start
from vov.media.original import Original
from vov.model.backbone import Backbone, Condition
from vov.noise.allocate import allocate, stretched
from vov.noise.options import JUMPS, ScalingConfig
from vov.noise.resume import ResumableSearch
from vov.noise.search import Choice, Search, Task
from vov.runtime import signals

RULES = 3  # how noise is chosen; to be raised with any change of it, so that no search of before is gone on with
END_STEP = 102  # 1024ths by which the last jump is lowered when a budget is too much for the steps above it
ROOM = 1.4  # times a budget that the steps above the last jump of a picture can use (studies/coded_noise/README.md)


@dataclass(frozen=True)
class NoiseRun:
    """How one search runs.

    resume: what a stopped one had chosen. progress: called after every sampler step. spend: bytes of noise, by the last
    coded step alone (`allocate.stretched`); 0: those that are planned for. collections: folder of shared θ.
    """

    resume: ResumableSearch = field(default_factory=ResumableSearch)
    progress: Callable[[], object] = lambda: None
    spend: int = 0
    collections: str = ""


class Plan:
    """How the noise of a file is planned: levels, jump, atoms of every step.

    Args:
        search: over the decoder's sampler.
        tasks: one for each item.
        settings: what to spend where.
        spend: as in `NoiseRun`.
    """

    def __init__(self, search: Search, tasks: Sequence[Task], settings: ScalingConfig, spend: int = 0):
        header = search.sampling.header
        self.search, self.tasks, self.settings, self.spend, self.header = search, tasks, settings, spend, header
        if header.sampler != "euler":
            raise VovError(f"the file's sampler is {header.sampler}; noise can be coded for euler only")
        target = tasks[0].target
        self.still = target.shape[2] == 1
        steps = len(search.sampling.sigmas()) - 1
        self._place(settings.code(steps, target.numel(), len(tasks), self.still))

    def _place(self, code: NoiseCode) -> None:
        """Makes `code` the one to fill, and its plan zero where a step takes no noise."""
        if self.header.sigmas and (code.start or code.end):
            raise VovError("the file has levels of its own; set `steps`, or `end_level`=0")
        self.code, self.sigmas = code, self.search.sampling.sigmas(code.start, code.end)
        edges = self.sigmas[code.first:][: code.steps + 1]
        noisy = np.array([stochastic_step(*pair, code.eta / ETA_UNIT).g > 0 for pair in pairwise(edges)])
        code.plan[~noisy] = 0  # the last step ends at level 0
        if not noisy.any():
            raise VovError("no step takes noise; raise `steps` to 2 or more")

    def run(self) -> tuple[NoiseCode, list[Choice]]:
        """The code with all symbols, and what was chosen for each item."""
        with signals.graceful() as self.search.signalled:
            code = self.planned()
            choices = [self.search.choose(task, code) for task in self.tasks]
        return replace(code, symbols=np.stack([choice.symbols for choice in choices])), choices

    def planned(self) -> NoiseCode:
        """The code to fill: its levels, and how many atoms every step gets."""
        budget, count = self.settings.scaling_bytes, len(self.tasks)
        free = self.settings.end_level < 0
        if budget and free and self.code.signed and self.code.end and self.still:
            self._fit_jump(budget)
        code, spent = self._allocated(budget) if budget else (self.code, True)
        while not spent and free and code.end > END_STEP:  # lower levels have use for the rest
            self._place(replace(self.code, end=max(END_STEP, code.end - END_STEP)))
            code, spent = self._allocated(budget)
        return stretched(code, self.spend, count) if self.spend else code

    def _fit_jump(self, budget: int) -> None:
        """Puts the last jump where following the original has come to cost ROOM times the budget.

        A detailed picture has use for its bits at high levels already, an even one only at lower ones.
        """
        usual = self.code.end
        self._place(replace(self.code, end=max(END_STEP, usual - END_STEP)))
        code, (energy, _) = self.code, self._pilot(budget)
        used = np.minimum(energy / (2 * math.log(2) * code.width), code.most).sum(1).cumsum() * code.width / 8
        edges = np.array(self.sigmas[code.first + 1:][: len(used)])
        level = np.interp(ROOM * budget / len(self.tasks), used, edges)
        self._place(replace(code, end=round(1024 * min(JUMPS[1], max(code.end / 1024, float(level))))))

    def _pilot(self, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """`Search.pilot` with the budget in equal shares."""
        code = self.code
        spread = code.steps * code.plan.shape[1] * code.width * len(self.tasks)
        atoms = min(max(1, code.most // 4), max(1, round(8 * budget / spread)))
        return self.search.pilot(self.tasks, code, atoms)

    def _allocated(self, budget: int) -> tuple[NoiseCode, bool]:
        """`allocate` for a budget, by what a pilot measures the steps to be worth."""
        return allocate(self.code, *self._pilot(budget), budget, len(self.tasks))


def frozen_file(backbone: Backbone, originals: Sequence[Original], settings: Any) -> Bitstream:
    """A file without θ and without noise yet: the frozen model as it is, for coded noise to steer.

    settings: width, height, resize, decode_steps, shift, seed.
    """
    frames = originals[0].frames.shape[0]
    backbone.check_geometry(settings.width, settings.height, frames)
    header = make_header(backbone, None, num_frames=frames, fps=originals[0].fps if frames > 1 else 0.0,
                         sampler="euler", **{name: getattr(settings, name) for name in (
                             "width", "height", "resize", "decode_steps", "shift", "seed")})
    items = [Item(one.caption, one.frames.shape[2], one.frames.shape[1], one.name if len(originals) > 1 else "")
             for one in originals]
    return Bitstream(header, tuple(items), np.zeros(1, np.int32))


def add_noise(stream: Bitstream, backbone: Backbone, originals: Sequence[Original], settings: ScalingConfig,
              run: NoiseRun | None = None) -> tuple[Bitstream, list[np.ndarray]]:
    """A file with a noise section, and the frames [T, height, width, 3] of each item as its decoder will show them.

    Args:
        stream: a file without one (a noise section it has is replaced).
        originals: its originals, in its order.
    """
    run, header = run or NoiseRun(), stream.header
    if settings.steps and settings.steps != header.decode_steps:
        header = replace(header, decode_steps=settings.steps, sigmas=())
    if settings.scaling:
        header = replace(header, sampler="euler")  # a multistep solver's memory has no place for injected noise
    if len(originals) != len(stream.items):
        raise VovError(f"the file holds {len(stream.items)} items, but {len(originals)} originals were given")
    backbone.refuse_stranger(header, stream.source)
    with collection.applied(stream.collection, backbone, stream.source, run.collections):
        thetas, sampling = Thetas(backbone, stream), Sampling(backbone, header)
        try:
            conditions = backbone.embed([item.caption for item in stream.items])
            starts = [sampling.start(number) for number in range(len(originals))]
            if not settings.scaling:
                return replace(stream, header=header, noise=None), _plain(sampling, conditions, thetas)
            search = Search(sampling, settings.score, settings.lookahead_every, thetas, run.resume, run.progress)
            tasks = [_task(search, start, condition, original)
                     for start, condition, original in zip(starts, conditions, originals, strict=True)]
            code, choices = Plan(search, tasks, settings, run.spend).run()
            texture = usual_texture(header.num_frames, code.end)
            frames = []
            for task, choice in zip(tasks, choices, strict=True):
                thetas.bind(task.scene)
                frames.append(sampling.frames(task.start, search.latents(choice, texture)))
            return replace(stream, header=header, noise=code.to_bytes()), frames
        finally:
            thetas.close()


def _plain(sampling: Sampling, conditions: Sequence, thetas: Thetas) -> list[np.ndarray]:
    """The items without any noise."""
    frames = []
    for number, condition in enumerate(conditions):
        thetas.bind(number)
        frames.append(sampling.show(condition, number))
    return frames


def _task(search: Search, start: Start, condition: Condition, original: Original) -> Task:
    """One item of a file."""
    header, backbone = search.sampling.header, search.sampling.backbone
    geometry = header.width, header.height, header.resize
    target: Tensor = backbone.encode(original.fitted(*geometry))
    return Task(start, condition, target, original.importance(*geometry, target), search.weights(target), start.number)
