"""The encoder's half of coded noise: which candidates, and how many bits for which step. See `vov.decoding.replay`.

A step's score of a candidate is <direction, z>. Four directions, all free choices of the encoder:

    likelihood  the drift: the score is the log-ratio of the posterior to the model, as in the paper
    pixel       the drift as pixels see it: WᵀW·drift with W of `loss.pixel_weights` where few bits move the state a
                little, the drift itself where they can move it all the way (`Aim.reached`)
    lookahead   Jᵀ·WᵀW·(x0 − x̂0) with J = ∂x̂0/∂x: the gradient of the squared pixel error of the model's own guess,
                so that a choice counts for what the model makes of it; a backward pass a coded step
    blend       the sum of the last two, each of length 1. J is that of one step, while many steps are still to come:
                what the end result owes to a choice lies between J and 1 (studies/coded_noise)

B bits move the state by at most √(2·ln 2·B) standard deviations along the direction, however they are spent; atoms on a
trellis come near that (`vov.noise.trellis`). They are chosen for the whole direction, not for what others left of
it: their sum is mostly noise, which a matching pursuit would undo. What is optimised, then, is how many atoms a step
gets; a first pass measures what they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vov import VovError
from vov.bitstream import Bitstream
from vov.bitstream.noise_code import ETA_UNIT, NoiseCode
from vov.codec import Decoder, Source
from vov.decoding import collection
from vov.decoding.replay import levels, stochastic_step, textured, usual_texture
from vov.fitting.loss import pixel_weights
from vov.fitting.rate import from_symbols
from vov.model import speed
from vov.model.backbone import Backbone, Condition
from vov.model.flow import euler
from vov.noise.aim import Aim
from vov.noise.allocate import allocate, stretched
from vov.noise.choose import Chooser
from vov.noise.options import GRADIENT, JUMPS, ScalingConfig
from vov.noise.progress import Progress
from vov.runtime import signals

RULES = 2  # how noise is chosen; to be raised with any change of it, so that no search of before is gone on with
END_STEP = 102  # 1024ths by which the last jump is lowered when a budget is too much for the steps above it
ROOM = 1.4  # times a budget that the steps above the last jump of a picture can use (studies/coded_noise)


class Search:
    """Finds the noise code of a file: samples each item with the decoder's own steps, choosing as it goes.

    Args:
        decoder: of the file that will carry the code; its header has the final steps.
        theta: θ̂ [d] as decoded.
        conditions, targets: of the items; targets are their true latents [1, C, T, h, w].
        settings: what to spend where.
        kept: what a stopped search had found; a signal saves it there.
        importance: of the items' latents, `Source.importance`.
        spend: bytes of noise, by the last coded step alone (`allocate.stretched`); 0: those that are planned for.
    """

    def __init__(self, decoder: Decoder, theta: Tensor, conditions: Sequence[Condition], targets: Sequence[Tensor],
                 settings: ScalingConfig, kept: Progress | None = None,
                 importance: Sequence[Tensor | None] | None = None, spend: int = 0):
        decoder.backbone.refuse_eight_bits("coded noise")
        self.spend = spend
        self.kept, self.signalled = kept or Progress(), lambda: 0
        if decoder.header.sampler != "euler":
            raise VovError(f"the file's sampler is {decoder.header.sampler}; noise can be coded for euler only")
        self.decoder, self.theta, self.settings = decoder, theta, settings
        self.conditions, self.targets = conditions, targets
        self.importance = importance or [None] * len(targets)
        self._place(settings.code(len(decoder.sigmas) - 1, targets[0].numel(), len(targets),
                                  targets[0].shape[2] == 1))
        if settings.score in GRADIENT:
            model = decoder.backbone
            speed.recompute_blocks(model.transformer, model.blocks, model.device)

    def _place(self, code: NoiseCode) -> None:
        """Makes `code` the one to fill, its levels the sampler's, and its plan zero where a step takes no noise."""
        header = self.decoder.header
        if header.sigmas and (code.start or code.end):
            raise VovError("the file has levels of its own; set STEPS, or START_LEVEL=0 END_LEVEL=0")
        self.code, self.sigmas = code, levels(header, code.start, code.end)
        edges = self.sigmas[code.first:][: code.steps + 1]
        noisy = np.array([stochastic_step(*pair, code.eta / ETA_UNIT).g > 0 for pair in pairwise(edges)])
        code.plan[~noisy] = 0  # the last step ends at level 0
        if not noisy.any():
            raise VovError("no step takes noise; raise STEPS (to 2 or more) or ETA, or lower FIRST_STEP")

    def run(self, progress: Callable[[int, Tensor], None] = lambda step, x: None) -> tuple[NoiseCode, list[Tensor]]:
        """The code and the latents of every item, as the decoder will find them.

        progress: called after every sampler step with its number and the state.
        """
        with signals.graceful() as self.signalled:
            return self._run(progress)

    def _run(self, progress: Callable[[int, Tensor], None]) -> tuple[NoiseCode, list[Tensor]]:
        budget, count = self.settings.scaling_bytes, len(self.targets)
        if budget and self.settings.end_level < 0 and self.code.signed and self.code.end and self.still:
            self._fit_jump(budget, progress)
        code, spent = self._planned(budget, progress) if budget else (self.code, True)
        while not spent and self.settings.end_level < 0 and code.end > END_STEP:  # lower levels have use for the rest
            self._place(replace(self.code, end=max(END_STEP, code.end - END_STEP)))
            code, spent = self._planned(budget, progress)
        code = stretched(code, self.spend, count) if self.spend else code
        choosers, latents = zip(*(self._sample(code, item, progress, last=True) for item in range(count)), strict=True)
        symbols = np.stack([np.concatenate(chooser.found) for chooser in choosers])
        return replace(code, symbols=symbols), list(latents)

    @property
    def still(self) -> bool:
        """Whether pictures are coded."""
        return self.targets[0].shape[2] == 1

    def _fit_jump(self, budget: int, progress: Callable) -> None:
        """Puts the last jump where following the original has come to cost ROOM times the budget.

        A detailed picture has use for its bits at high levels already, an even one only at lower ones.
        """
        usual = self.code.end
        self._place(replace(self.code, end=max(END_STEP, usual - END_STEP)))
        code, (energy, _) = self.code, self._pilot(budget, progress)
        used = np.minimum(energy / (2 * math.log(2) * code.width), code.most).sum(1).cumsum() * code.width / 8
        edges = np.array(self.sigmas[code.first + 1:][: len(used)])
        level = np.interp(ROOM * budget / len(self.targets), used, edges)
        self._place(replace(code, end=round(1024 * min(JUMPS[1], max(code.end / 1024, float(level))))))

    def _pilot(self, budget: int, progress: Callable) -> tuple[np.ndarray, np.ndarray]:
        """(energy, worth) of every step and block, mean over the items, as a pass with equal shares finds them."""
        code, count = self.code, len(self.targets)
        spread = code.steps * code.plan.shape[1] * code.width * count
        pilot = min(max(1, code.most // 4), max(1, round(8 * budget / spread)))
        first = replace(code, plan=np.minimum(code.plan, 1) * (pilot if code.signed else 1))
        pilots = [self._sample(first, item, progress)[0] for item in range(count)]
        return tuple(np.mean([getattr(p, name) for p in pilots], axis=0) for name in ("energy", "worth"))

    def _planned(self, budget: int, progress: Callable) -> tuple[NoiseCode, bool]:
        """`allocate` for a budget, by what a first pass finds the steps to be worth."""
        energy, worth = self._pilot(budget, progress)
        return allocate(self.code, energy, worth, budget, len(self.targets))

    @torch.no_grad()
    def _sample(self, code: NoiseCode, item: int, progress: Callable, last: bool = False) -> tuple[Chooser, Tensor]:
        """What a sampling chooses, and where it ends: in the last one, where the decoder's will by itself."""
        decoder, settings, target = self.decoder, self.settings, self.targets[item]
        aim = Aim(decoder.velocity(self.conditions[item]), target, settings.score, self._weights(target),
                  until=settings.lookahead_until, importance=self.importance[item], every=settings.lookahead_every)
        chooser = Chooser(code, self.sigmas, decoder.header.seed, item, aim.direction, settings.choice == "sample",
                          decoder.adapter.unbind)

        first, x, finished = self.kept.begin(chooser, decoder.noise(item))
        if finished:
            return chooser, x
        aim.steps, jump = first, len(self.sigmas) - 2
        before = x  # the jump

        def after_step(i: int, x: Tensor, x0: Tensor) -> Tensor:
            nonlocal before
            x = chooser(first + i, x, x0)
            before = x if first + i < jump else before
            progress(first + i, x)
            if first + i < jump or not last:  # what follows the jump's level is not in a saved state
                self.kept.note(first + i + 1, chooser, x)
            if (number := self.signalled()) and first + i < jump:
                self.kept.save()
                raise signals.Stopped(number, f"saved at sampler step {first + i + 1} of {len(self.sigmas) - 1}"
                                       if self.kept.path else "")
            return x

        decoder.bind(self.theta)
        if first and code.theta_steps and first >= code.theta_steps:
            decoder.adapter.unbind()
        x = euler(aim.velocity, x, self.sigmas[first:], after_step)
        if last:
            if texture := usual_texture(decoder.header.num_frames, code.end):
                x = euler(aim.plain, before, textured(self.sigmas, texture)[jump:])
            self.kept.note(jump + 1, chooser, x)
        self.kept.end()
        return chooser, x

    def _weights(self, target: Tensor) -> Tensor | None:
        """`loss.pixel_weights` where the score looks at pixels."""
        if self.settings.score == "likelihood":
            return None
        return pixel_weights(self.decoder.backbone, target, self.decoder.header.seed)


def scale(stream: Bitstream, backbone: Backbone, sources: Sequence[Source], settings: ScalingConfig,
          progress: Callable[[int, Tensor], None] = lambda step, x: None,
          kept: Progress | None = None, spend: int = 0) -> tuple[Bitstream, list[np.ndarray]]:
    """A file with a noise section, and the frames [T, height, width, 3] of each item as the encoder sees them.

    stream: a file without one (a noise section it has is replaced). sources: its originals, in its order.
    kept, spend: as in `Search`.
    """
    header = stream.header
    if settings.steps and settings.steps != header.decode_steps:
        header = replace(header, decode_steps=settings.steps, sigmas=())
    if settings.scaling:
        header = replace(header, sampler="euler")  # a multistep solver's memory has no place for injected noise
    if len(sources) != len(stream.items):
        raise VovError(f"the file holds {len(stream.items)} items, but {len(sources)} originals were given")
    with collection.applied(stream.collection, backbone), Decoder.for_file(backbone, header) as decoder:
        theta = from_symbols(stream.symbols, header.step)
        conditions = backbone.embed([item.caption for item in stream.items])
        if not settings.scaling:
            latents = [decoder.latents(theta, condition, index) for index, condition in enumerate(conditions)]
            return replace(stream, header=header, noise=None), [backbone.decode(x) for x in latents]
        targets = [backbone.encode(s.fitted(header.width, header.height, header.resize)) for s in sources]
        importance = [s.importance(header.width, header.height, header.resize, x)
                      for s, x in zip(sources, targets, strict=True)]
        code, latents = Search(decoder, theta, conditions, targets, settings, kept, importance, spend).run(progress)
        return replace(stream, header=header, noise=code.to_bytes()), [backbone.decode(x) for x in latents]
