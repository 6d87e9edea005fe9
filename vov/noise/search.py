"""The encoder's half of coded noise: one sampling that chooses as it goes. Pictures, clips, albums and chunks share it.
See `vov.decoding.replay` for the decoder's half.

A step's score of a candidate is <direction, z>. Four directions, all free choices of the encoder:

    likelihood  the drift: the score is the log-ratio of the posterior to the model, as in the paper
    pixel       the drift as pixels see it: WᵀW·drift with W of `loss.pixel_weights` where few bits move the state a
                little, the drift itself where they can move it all the way (`Aim.reached`)
    lookahead   Jᵀ·WᵀW·(x0 − x̂0) with J = ∂x̂0/∂x: the gradient of the squared pixel error of the model's own guess,
                so that a choice counts for what the model makes of it; a backward pass a coded step
    blend       the sum of the last two, each of length 1. J is that of one step, while many steps are still to come:
                what the end result owes to a choice lies between J and 1 (studies/coded_noise/README.md)

B bits move the state by at most √(2·ln 2·B) standard deviations along the direction, however they are spent; atoms on a
trellis come near that (`vov.noise.trellis`). They are chosen for the whole direction, not for what others left of
it: their sum is mostly noise, which a matching pursuit would undo. What is optimised, then, is how many atoms a step
gets; a first pass, the pilot, measures what they are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vov.bitstream.noise_code import NoiseCode
from vov.decoding.decode import Thetas
from vov.decoding.sampling import Sampling, Start
from vov.fitting.loss import pixel_weights
from vov.model import speed
from vov.model.backbone import Condition
from vov.model.flow import Velocity, euler
from vov.noise.aim import Aim
from vov.noise.choose import Chooser
from vov.noise.options import GRADIENT
from vov.noise.resume import ResumableSearch
from vov.runtime import signals


@dataclass(frozen=True, eq=False)
class Task:
    """One pass of the model that is to come out near a target.

    target: the true latents [1, C, T, h, w] of the frames that are sampled. importance: what a squared error of each
    of its values counts, [1, 1, T, h, w]; None: the same everywhere. weights: `loss.pixel_weights`, or None. scene: of
    its θ.
    """

    start: Start
    condition: Condition
    target: Tensor
    importance: Tensor | None = None
    weights: Tensor | None = None
    scene: int = 0


@dataclass(frozen=True, eq=False)
class Choice:
    """What a sampling chose.

    symbols: int32, of all coded steps. energy, worth: [coded steps, blocks], see `Chooser`. state: at the level of the
    last jump. sigmas: the levels. velocity: the sampler's.
    """

    symbols: np.ndarray
    energy: np.ndarray
    worth: np.ndarray
    state: Tensor
    sigmas: Sequence[float]
    velocity: Velocity


class Search:
    """Chooses the noise of passes.

    Args:
        sampling: the decoder's own sampler; its header has the final steps.
        score: what a candidate is chosen for, see the module.
        every: lookahead and blend take their backward pass in every so many steps alone.
        thetas: of the file; None where the caller adapts the model.
        resume: what a stopped search had chosen; a signal saves it there.
        progress: called after every sampler step.
    """

    def __init__(self, sampling: Sampling, score: str, every: int = 1, thetas: Thetas | None = None,
                 resume: ResumableSearch | None = None, progress: Callable[[], object] = lambda: None):
        backbone = sampling.backbone
        self.sampling, self.score, self.every, self.thetas = sampling, score, every, thetas
        self.resume, self.progress = resume or ResumableSearch(), progress
        self.signalled: Callable[[], int] = lambda: 0
        if score in GRADIENT:
            speed.recompute_blocks(backbone.transformer, backbone.blocks, backbone.device)

    def weights(self, target: Tensor) -> Tensor | None:
        """`loss.pixel_weights` where the score looks at pixels."""
        if self.score == "likelihood":
            return None
        return pixel_weights(self.sampling.backbone, target, self.sampling.header.seed)

    @torch.no_grad()
    def choose(self, task: Task, code: NoiseCode) -> Choice:
        """Fills the plan of `code` for one pass."""
        sigmas = self.sampling.sigmas(code.start, code.end)
        velocity = self.sampling.velocity(task.start, task.condition)
        saved = self.resume.begin()
        if self.thetas:
            self.thetas.bind(task.scene)
        if saved and saved.finished:
            return Choice(np.concatenate(saved.chosen), saved.energy, saved.worth, saved.x, sigmas, velocity)
        done = saved.done if saved else 0
        aim = Aim(velocity, task.target, self.score, task.weights, chained=task.start.known is not None,
                  importance=task.importance, every=self.every, done=done)
        chooser = Chooser(code, sigmas, self.sampling.header.seed, task.start.number, aim.direction)
        if saved:
            chooser.restore(saved.chosen, saved.energy, saved.worth)
        x = euler(aim.velocity, saved.x if saved else task.start.noise, sigmas[done:-1],
                  self._after_step(chooser, done, len(sigmas) - 1))
        self.resume.end()
        return Choice(np.concatenate(chooser.chosen), chooser.energy, chooser.worth, x, sigmas, velocity)

    def _after_step(self, chooser: Chooser, first: int, count: int) -> Callable[[int, Tensor, Tensor], Tensor]:
        """Chooses, notes what was chosen, and stops after a signal."""

        def after_step(i: int, x: Tensor, x0: Tensor) -> Tensor:
            x = chooser(first + i, x, x0)
            self.progress()
            self.resume.note(first + i + 1, chooser, x)
            if number := self.signalled():
                self.resume.save()
                raise signals.Stopped(number, f"saved at sampler step {first + i + 1} of {count}"
                                      if self.resume.path else "")
            return x

        return after_step

    def latents(self, choice: Choice, texture: float = 0.0) -> Tensor:
        """The latents that the decoder will end in, with `replay.textured`."""
        return self.sampling.jump(choice.velocity, choice.state, choice.sigmas, texture)

    def pilot(self, tasks: Sequence[Task], code: NoiseCode, atoms: int) -> tuple[np.ndarray, np.ndarray]:
        """(energy, worth) of every step and block, mean over the tasks, as a pass with equal shares measures them.

        atoms: of every step and block that can have any.
        """
        equal = replace(code, plan=np.minimum(code.plan, 1) * (min(atoms, code.most) if code.signed else 1))
        choices = [self.choose(task, equal) for task in tasks]
        return tuple(np.mean([getattr(one, name) for one in choices], axis=0) for name in ("energy", "worth"))
