"""The distortion of a fit: errors of the velocity, which are errors of the latents, seen as pixels see them."""

from __future__ import annotations

import torch
from torch import Tensor

from vov.model.backbone import Backbone
from vov.model.cache import cached
from vov.runtime.files import content_hash
from vov.runtime.random import Stream, normal

PROBES = 6  # random pixel directions; each is averaged over all positions of a crop
CROP = (2, 8, 8)  # latent frames, rows, columns that a probe sees; keeps the VAE's backward pass small


def pixel_weights(backbone: Backbone, latents: Tensor, seed: int = 0) -> Tensor:
    """How the VAE decoder turns latent errors into pixel errors near `latents` [N, C, T, h, w], averaged over N items.

    For a small error e, the pixel error is J e with J the decoder's Jacobian, so the squared pixel error is
    eᵀ(JᵀJ)e. The C×C blocks of JᵀJ on its diagonal, averaged over positions, are E[g gᵀ] of g = Jᵀu for random
    signs u (Hutchinson), one vector-Jacobian product a probe. The first latent frame of a video (one picture)
    and the later ones (four pictures each) have blocks of their own.

    Returns:
        float32 [2, C, C]: matrices W for the first and the later latent frames with |W e|² ≈ squared pixel
        error, scaled so that white errors of unit variance keep a mean square of 1 over the clip.
    """
    key = content_hash("weights", backbone.fingerprint(), seed, PROBES, CROP, latents.cpu().numpy().tobytes())
    return cached("weights", key, lambda: {"w": _estimate(backbone, latents, seed)})["w"].to(latents.device)


def _estimate(backbone: Backbone, latents: Tensor, seed: int) -> Tensor:
    count, channels, frames = latents.shape[:3]
    probes = max(1, min(PROBES, 4 * PROBES // count))  # of each item; many items average among themselves
    blocks = torch.zeros(2, channels, channels, dtype=torch.float64)
    for item in range(count):
        for probe in range(probes):
            blocks += _probe(backbone, latents[item:item + 1], seed, probe)
    trace = blocks.diagonal(dim1=1, dim2=2).mean(1)  # mean weight of a latent value, per kind of frame
    blocks /= (trace[0] + (frames - 1) * trace[1]) / frames
    ridge = 1e-3 * torch.eye(channels, dtype=torch.float64)  # keeps directions that the decoder ignores in place
    return torch.linalg.cholesky(blocks + ridge).mT.float().contiguous()


def _probe(backbone: Backbone, latents: Tensor, seed: int, probe: int) -> Tensor:
    """One estimate of the blocks, float64 [2, C, C], from one of four crops of latents [1, C, T, h, w]."""
    _, _, frames, height, width = latents.shape
    depth, rows, columns = min(CROP[0], frames), min(CROP[1], height), min(CROP[2], width)
    top = (height - rows) * (probe // 2 % 2 * 2 + 1) // 4  # crops around four points of the picture
    left = (width - columns) * (probe % 2 * 2 + 1) // 4
    crop = latents[:, :, :depth, top:top + rows, left:left + columns].detach().clone().requires_grad_()
    with torch.enable_grad():
        pixels = backbone.decode_pixels(crop)
        signs = normal(seed, (Stream.OTHER, probe), pixels.shape, device=pixels.device).sign()
        (grad,) = torch.autograd.grad((pixels * signs).sum(), crop)
    grad = grad[0].double().flatten(2).cpu()  # [C, T, positions]
    first = torch.einsum("cp,dp->cd", grad[:, 0], grad[:, 0]) / grad.shape[2]
    later = grad[:, 1:] if depth > 1 else grad
    return torch.stack((first, torch.einsum("ctp,dtp->cd", later, later) / later[0].numel()))


def weighted(error: Tensor, weights: Tensor | None) -> Tensor:
    """An error [B, C, T, h, w] as pixels see it: through `pixel_weights` when given; of the same shape."""
    return error if weights is None else torch.cat(_parts(error, weights), dim=2)


def distortion(error: Tensor, weights: Tensor | None) -> Tensor:
    """Mean square [] of an error [B, C, T, h, w], through `pixel_weights` when given."""
    if weights is None:
        return error.square().mean()
    parts = _parts(error, weights)
    if len(parts) == 1:
        return parts[0].square().mean()
    return (parts[0].square().sum() + parts[1].square().sum()) / error.numel()


def _parts(error: Tensor, weights: Tensor) -> list[Tensor]:
    """The weighted first latent frame, and the later ones if there are any."""
    parts = (error[:, :, :1], error[:, :, 1:])
    return [torch.einsum("ij,bjthw->bithw", matrix, part) for matrix, part in zip(weights, parts, strict=True)
            if part.shape[2]]
