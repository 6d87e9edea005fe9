"""What a candidate is scored by: the direction in which the state should move. See `search` for the kinds."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vov.decoding.replay import Step
from vov.model.flow import Velocity, denoised
from vov.noise.options import GRADIENT


class Wanted(NamedTuple):
    """What the noise of a step should be like: three of [1, C, T, h, w].

    direction: a candidate's score is its inner product with this. drift: the whole way to the target in standard
    deviations of the noise, where it counts. gain: what a unit of noise gains anywhere.
    """

    direction: Tensor
    drift: Tensor
    gain: Tensor


class Aim:
    """The direction of every step towards a target, and the velocity that it is measured by.

    Args:
        velocity: (x, t) → v of the sampler.
        target: the true latents x0 [1, C, T, h, w].
        score: one of `settings.SCORES`.
        weights: [2, C, C] of `loss.pixel_weights`, for all but likelihood; None: latent errors as they are.
        importance: what a squared error of each value counts, [1, 1, T, h, w]; None: the same everywhere.
        chained: the target begins with a later latent frame: the first is known.
        every: lookahead and blend give way to pixel, at a third of the cost, except in every so many steps.
        done: sampler steps that are over.
    """

    def __init__(self, velocity: Velocity, target: Tensor, score: str, weights: Tensor | None, *,
                 chained: bool = False, importance: Tensor | None = None, every: int = 1, done: int = 0):
        self.plain, self.target, self.chained = velocity, target, chained
        self.gradient, self.blend = score in GRADIENT, score == "blend"
        squares = None if weights is None else [w.T @ w for w in weights]
        self.squares = squares
        self.axes = None if squares is None else [torch.linalg.eigh(square.double()) for square in squares]
        self.importance = importance
        self.every, self.steps = every, done
        self.graph: list[Tensor] = []

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The velocity; for lookahead and blend, x and x̂0 stay with the graph between them."""
        self.graph = []
        self.steps += 1
        if not self.gradient or (self.steps - 1) % self.every:
            return self.plain(x, t)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = self.plain(x, t)
            self.graph = [x, denoised(x, v, t)]
        return v.detach()

    def direction(self, step: Step, x0: Tensor, reach: float) -> Wanted:
        """What the noise of a step should be like, if it can move the state by about `reach` standard deviations."""
        error = self.target - x0
        drift, wanted = step.drift * error, self.weighted(error)
        towards, gain = self.reached(drift, reach), step.g * wanted
        if self.graph:
            (pulled,) = torch.autograd.grad(self.graph[1], self.graph[0], wanted)
            if self.blend:
                towards = unit(pulled) + unit(towards)
            else:
                towards, gain = pulled, step.g * pulled
        usable = drift if self.importance is None else drift * (self.importance > 0)
        return Wanted(towards, usable, gain)

    def reached(self, drift: Tensor, reach: float) -> Tensor:
        """The move that leaves the least weighted error of all that are not longer than `reach`: [1, C, T, h, w].

        With gains ω of the axes of WᵀW, times importance, that is ω/(ω + λ)·drift on each: the gradient where little
        can be reached, the drift itself where all of it can. So no axis is moved beyond its target.
        """
        if self.axes is None and self.importance is None:
            return drift
        gains, moved = self.turned(drift)
        low, high = 1e-12, 1e12
        top = gains.max()
        for _ in range(40):
            middle = math.sqrt(low * high)
            long = float((gains / (gains + middle * top) * moved).norm()) > reach
            low, high = (middle, high) if long else (low, middle)
        return self.turned(gains / (gains + high * top) * moved, back=True)[1]

    def turned(self, x: Tensor, back: bool = False) -> tuple[Tensor, Tensor]:
        """(gain of every axis and place, x along the axes of WᵀW); back: x from there."""
        gains = torch.ones(1, 1, 1, 1, 1, device=x.device) if self.importance is None else self.importance
        if self.axes is None:
            return gains, x
        parts, found = [], []
        for (values, vectors), part in zip(self.axes, self.split(x), strict=True):
            vectors = (vectors if back else vectors.T).to(x.dtype)
            found.append(torch.einsum("ij,bjthw->bithw", vectors, part))
            parts.append(values.clamp_min(0).to(x.dtype).view(1, -1, 1, 1, 1).expand(-1, -1, part.shape[2], -1, -1))
        return torch.cat(parts, 2) * gains, torch.cat(found, 2)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first latent frame, which is of one picture (a chained chunk has none), and the later ones."""
        return (x[:, :, :0], x) if self.chained else (x[:, :, :1], x[:, :, 1:])

    def weighted(self, error: Tensor) -> Tensor:
        """WᵀW·e, or e itself, times what each value counts."""
        if self.importance is not None:
            error = error * self.importance
        if self.squares is None:
            return error
        return torch.cat([torch.einsum("ij,bjthw->bithw", square, part)
                          for square, part in zip(self.squares, self.split(error), strict=True)], dim=2)


def unit(x: Tensor) -> Tensor:
    """x at length 1."""
    return x / x.norm().clamp_min(1e-20)
