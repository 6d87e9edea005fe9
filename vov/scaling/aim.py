"""What a candidate is scored by: the direction in which the state should move. See `search` for the kinds."""

from __future__ import annotations

import torch
from torch import Tensor

from vov.model.flow import Velocity, denoised
from vov.scaling.replay import Step
from vov.scaling.settings import GRADIENT


class Aim:
    """The direction of every step towards a target, and the velocity that it is measured by.

    Args:
        velocity: (x, t) → v of the sampler.
        target: the true latents x0 [1, C, T, h, w].
        score: one of `settings.SCORES`.
        weights: [2, C, C] of `loss.pixel_weights`, for all but likelihood; None: latent errors as they are.
        importance: what a squared error of each value counts, [1, 1, T, h, w]; None: the same everywhere.
        chained: the target begins with a later latent frame: the first is known.
        until: σ below which lookahead and blend give way to pixel, at a third of the cost.
    """

    def __init__(self, velocity: Velocity, target: Tensor, score: str, weights: Tensor | None, chained: bool = False,
                 until: float = 0.0, importance: Tensor | None = None):
        self.plain, self.target, self.chained = velocity, target, chained
        self.until, self.blend = until if score in GRADIENT else float("inf"), score == "blend"
        self.squares = None if weights is None else [w.T @ w for w in weights]
        self.importance = importance
        self.kept: list[Tensor] = []

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The velocity; for lookahead and blend, x and x̂0 are kept with the graph between them."""
        self.kept = []
        if t < self.until:
            return self.plain(x, t)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = self.plain(x, t)
            self.kept = [x, denoised(x, v, t)]
        return v.detach()

    def direction(self, step: Step, x0: Tensor) -> tuple[Tensor, float]:
        """The direction [1, C, T, h, w] in standard deviations of the step's noise; what a unit of score is worth."""
        error = self.weighted(self.target - x0)
        drift = step.drift * error
        if not self.kept:
            return drift, step.g / max(abs(step.drift), 1e-20)
        (pulled,) = torch.autograd.grad(self.kept[1], self.kept[0], error)
        if self.blend:
            pulled = pulled / pulled.norm().clamp_min(1e-20) + drift / drift.norm().clamp_min(1e-20)
        length = float(drift.norm() / pulled.norm().clamp_min(1e-20))  # as long as the drift, to compare with it
        return pulled * length, step.g / max(abs(step.drift) if self.blend else length, 1e-20)

    def weighted(self, error: Tensor) -> Tensor:
        """WᵀW·e, or e itself, times what each value counts."""
        if self.importance is not None:
            error = error * self.importance
        if self.squares is None:
            return error
        first, later = self.squares
        if self.chained:
            return torch.einsum("ij,bjthw->bithw", later, error)
        return torch.cat((torch.einsum("ij,bjthw->bithw", first, error[:, :, :1]),
                          torch.einsum("ij,bjthw->bithw", later, error[:, :, 1:])), dim=2)
