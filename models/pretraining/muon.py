"""Muon for matrices, AdamW for the rest (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

The momentum of every weight matrix is replaced by the nearest semi-orthogonal matrix, found by five Newton–Schulz
steps, so that all directions of a layer learn at the same speed. On the VAE it is decisive: after 200 CPU steps of
eight 64×64 stills AdamW (lr 2e-3) stands at 12.7 dB, Muon (lr 0.04) at 23.2 dB.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """[N, rows, columns] → about U Vᵀ of each; singular values end between 0.7 and 1.2, zero rows stay zero."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon:
    """Both optimisers behind one `step`, which may be captured in a CUDA graph.

    Args:
        model: its parameters are trained.
        is_matrix: (name, parameter) → whether Muon takes it; a convolution counts as [out, everything else].
        lr: of the matrices, in units of spectral norm per step.
        adam_lr: of everything else.
        momentum: of the matrices.
        clip: bound on the norm of the whole gradient; a gradient that is not finite changes nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        is_matrix: Callable[[str, Tensor], bool],
        lr: float,
        adam_lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clip: float = 1.0,
    ):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.matrices = [p for n, p in named if is_matrix(n, p)]
        taken = {id(p) for p in self.matrices}
        self.rest = [p for _, p in named if id(p) not in taken]
        device = named[0][1].device
        self.gradient = torch.zeros(sum(p.numel() for _, p in named), device=device)  # all gradients, one after another
        for (_, p), part in zip(named, self.gradient.split([p.numel() for _, p in named]), strict=True):
            p.grad = part.view_as(p)
        self.buffers = {id(p): torch.zeros_like(p) for p in self.matrices}
        self.lr, self.adam_lr, self.factor = lr, adam_lr, torch.ones((), device=device)
        self.momentum, self.weight_decay, self.clip = momentum, weight_decay, clip
        self.adam = torch.optim.AdamW(
            self.rest,
            lr=torch.tensor(adam_lr, device=device),
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=device.type == "cuda",
            capturable=device.type == "cuda",
        )

    def set_factor(self, factor: float) -> None:
        """Learning rates become `factor` times their peaks."""
        self.factor.fill_(factor)
        self.adam.param_groups[0]["lr"].fill_(self.adam_lr * factor)

    def state_dict(self) -> dict:
        """Everything that the next step depends on."""
        return {"momentum": [self.buffers[id(p)] for p in self.matrices], "adam": self.adam.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave. Raises ValueError when the number of matrices differs."""
        for p, saved in zip(self.matrices, state["momentum"], strict=True):
            self.buffers[id(p)].copy_(saved)
        rate = self.adam.param_groups[0]["lr"]
        self.adam.load_state_dict(state["adam"])
        self.adam.param_groups[0]["lr"] = rate

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self) -> Tensor:
        """One update from the present gradients; returns the gradient's norm before clipping."""
        norm = torch.linalg.vector_norm(self.gradient)
        scale = torch.where(norm.isfinite(), (self.clip / (norm + 1e-6)).clamp(max=1.0), torch.zeros_like(norm))
        self.gradient.nan_to_num_(0, 0, 0).mul_(scale)
        shapes = defaultdict(list)
        for p in self.matrices:
            shapes[(p.shape[0], p[0].numel())].append(p)
        for (rows, columns), group in shapes.items():
            self._update(group, (rows / columns) ** 0.5 if rows > columns else 1.0)
        self.adam.step()
        return norm

    def _update(self, group: Iterable[Tensor], gain: float) -> None:
        moments = [self.buffers[id(p)] for p in group]
        grads = [p.grad for p in group]
        torch._foreach_lerp_(moments, grads, 1 - self.momentum)
        ahead = torch.stack([g.lerp(m, self.momentum).flatten(1) for g, m in zip(grads, moments, strict=True)])
        update = orthogonalise(ahead) * (gain * self.lr * self.factor)
        if self.weight_decay:
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay * self.factor)
        torch._foreach_sub_(group, [u.view_as(p) for u, p in zip(update, group, strict=True)])
