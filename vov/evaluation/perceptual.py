"""LPIPS and DISTS, and where the weights of every learned metric are looked for.

Nothing is downloaded here: weights are found under METRIC_WEIGHTS_DIR, then in PyTorch's own cache (TORCH_HOME),
or the metric raises `Unavailable`, which says why and how to fetch them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vov import VovError

SMALLEST = 32  # pixels of the shorter side that the networks' poolings need
STRIP_PIXELS = 2**18  # of a picture that pass through a run of convolutions at once; a 1080p frame makes eight strips
PART_VALUES = 2**24  # of the features that statistics look at together, 64 MiB


class Unavailable(VovError):
    """A metric cannot be computed here; the message says why and, where there is one, the cure."""


@dataclass(frozen=True)
class Weights:
    """A file of weights: its name, where it comes from, the first hexadecimal digits of its SHA-256 ("": not known)."""

    file: str
    url: str
    sha256: str = ""


# torchvision puts the first eight digits of the SHA-256 into the file's name
WEIGHTS = {
    "vgg16": Weights("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "alexnet": Weights("alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
                       "7be5be79"),
    "dists": Weights("dists_weights.pt",
                     "https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt"),
    "i3d": Weights("i3d_torchscript.pt",
                   "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt"),
}


def find_weights(name: str, folder: str | Path = "") -> Path:
    """The file of WEIGHTS[name] in `folder` (METRIC_WEIGHTS_DIR) or in PyTorch's cache; raises Unavailable."""
    file = WEIGHTS[name].file
    places = [Path(folder).expanduser() / file] if str(folder) else []
    places.append(Path(torch.hub.get_dir()) / "checkpoints" / file)
    for place in places:
        if place.is_file():
            return place
    setting = f"METRIC_WEIGHTS_DIR={folder} " if str(folder) else ""
    raise Unavailable(f"no {file} in {setting + 'or ' if setting else ''}PyTorch's cache; "
                      f"fetch it with: {setting}WHAT=metrics bash scripts/fetch_models.sh")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; the report names it so that a reader knows which weights were used."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def load_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth file; only tensors are read, no code is unpickled."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise Unavailable(f"{path}: not readable as PyTorch weights ({str(error).splitlines()[0][:80]}); "
                          f"delete it and fetch it again with: WHAT=metrics bash scripts/fetch_models.sh") from error


class Lpips(nn.Module):
    """Zhang et al. 2018, version 0.1: the `lpips` package's linear heads over VGG-16 ("vgg") or AlexNet ("alex").

    Layer by layer, and the convolutions strip by strip (`in_strips`), so that little more than one layer's features of
    the pair is in memory: 1.2 GiB for two 1080p frames.
    """

    def __init__(self, net: str, folder: str | Path = ""):
        super().__init__()
        trunk = load_state(find_weights({"vgg": "vgg16", "alex": "alexnet"}[net], folder))
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package still uses torchvision's old keywords
            model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # pnet_rand: never asks the network
        state = {key: trunk.get(f"features.{key.split('.', 1)[1]}") for key in model.net.state_dict()}
        if any(value is None for value in state.values()):
            raise Unavailable(f"the {net} weights lack layers; fetch them again with: "
                              "WHAT=metrics bash scripts/fetch_models.sh")
        model.net.load_state_dict(state)
        self.scaling = model.scaling_layer
        self.slices = nn.ModuleList(getattr(model.net, f"slice{i + 1}") for i in range(model.net.N_slices))
        self.heads = model.lins
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], twice → LPIPS [B]; 0 for equal pictures."""
        check_size(x, "LPIPS")
        x, y = self.scaling(2 * x - 1), self.scaling(2 * y - 1)
        total = torch.zeros(len(x), device=x.device)
        for layers, head in zip(self.slices, self.heads, strict=True):
            for run in _runs(layers.children()):
                x = in_strips(run, x)  # an assignment each: x's input is gone before y is computed
                y = in_strips(run, y)
            weights = head.model[-1].weight  # [1, C, 1, 1]; the dropout before it is off
            scale_x, scale_y = (1 / (torch.linalg.vector_norm(z, dim=1, keepdim=True) + 1e-10) for z in (x, y))
            for part in _channels(x):
                difference = (x[:, part] * scale_x).sub_(y[:, part] * scale_y).square_()
                total += (difference.mean((2, 3)) * weights[:, part, 0, 0]).sum(1)
        return total


class Dists(nn.Module):
    """Ding et al. 2020: means (texture) and covariances (structure) of VGG-16 features and of the picture itself.

    At the picture's own size, as the authors' module; piq halves anything above 256 pixels first, and so do
    some published tables. Weights α and β are normalised to sum to one, so the files of piq and of the authors
    give equal values.
    """

    CHANNELS = (3, 64, 128, 256, 512, 512)
    STAGES = ((0, 4), (5, 9), (10, 16), (17, 23), (24, 30))  # torchvision's indices; the max-pools between are replaced
    EPSILON = 1e-6
    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor
    hann: Tensor

    def __init__(self, folder: str | Path = ""):
        super().__init__()
        weights, trunk = load_state(find_weights("dists", folder)), load_state(find_weights("vgg16", folder))
        try:
            alpha, beta = weights["alpha"].flatten().float(), weights["beta"].flatten().float()
            self._build(trunk)
        except (KeyError, RuntimeError) as error:
            raise Unavailable("the weights of DISTS or VGG-16 lack layers; fetch them again with: "
                              "WHAT=metrics bash scripts/fetch_models.sh") from error
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))  # ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        hann = torch.hann_window(5, periodic=False)[1:-1]
        kernel = hann[:, None] * hann[None]
        self.register_buffer("hann", (kernel / kernel.sum())[None, None])
        self.requires_grad_(False).eval()

    def _build(self, trunk: dict[str, Tensor]) -> None:
        from torchvision.models import vgg

        features = vgg.make_layers(vgg.cfgs["D"])
        features.load_state_dict({k[len("features."):]: v for k, v in trunk.items() if k.startswith("features.")})
        self.stages = nn.ModuleList(features[a:b] for a, b in self.STAGES)

    def _pool(self, x: Tensor) -> Tensor:
        pooled = []
        for part in _channels(x):
            count = part.stop - part.start
            squares = F.conv2d(x[:, part].square(), self.hann.expand(count, 1, 3, 3), stride=2, padding=1, groups=count)
            pooled.append(squares.add_(1e-12).sqrt_())
        return torch.cat(pooled, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], twice → DISTS [B]; 0 for equal pictures."""
        check_size(x, "DISTS")
        similarity = torch.zeros(len(x), device=x.device)
        alphas, betas = self.alpha.split(self.CHANNELS), self.beta.split(self.CHANNELS)
        for index, (alpha, beta) in enumerate(zip(alphas, betas, strict=True)):
            if index == 1:
                x, y = (x - self.mean) / self.std, (y - self.mean) / self.std
            if index:
                if index > 1:
                    x = self._pool(x)  # an assignment each: the larger input is gone before the next step
                    y = self._pool(y)
                stage = list(self.stages[index - 1].children())
                x = in_strips(stage, x)
                y = in_strips(stage, y)
            for part in _channels(x):
                a, b = x[:, part], y[:, part]
                mean_x, mean_y = a.mean((2, 3)), b.mean((2, 3))
                a, b = a - mean_x[..., None, None], b - mean_y[..., None, None]
                covariance = (a * b).mean((2, 3))
                variances = a.square_().mean((2, 3)) + b.square_().mean((2, 3))
                texture = (2 * mean_x * mean_y + self.EPSILON) / (mean_x**2 + mean_y**2 + self.EPSILON)
                structure = (2 * covariance + self.EPSILON) / (variances + self.EPSILON)
                similarity += (alpha[part] * texture + beta[part] * structure).sum(1)
        return 1 - similarity


def check_size(x: Tensor, metric: str, smallest: int = SMALLEST) -> None:
    """Raises Unavailable when pictures [B, C, H, W] are too small for the metric."""
    if min(x.shape[2:]) < smallest:
        raise Unavailable(f"{metric} needs pictures of at least {smallest}×{smallest}, "
                          f"not {x.shape[3]}×{x.shape[2]}")


def in_strips(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The layers' result for x [B, C, H, W], without a second copy of the widest features in memory.

    Convolutions of stride 1 that keep the size, and ReLUs, are run on horizontal strips of each picture. A strip is
    cut with as many rows more on either side as the convolutions reach, and these are dropped from its result, so that
    only the order of summation inside a convolution may differ. Anything else is run on the whole.
    """
    count, _, height, width = x.shape
    rows = max(1, STRIP_PIXELS // width)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    if not convolutions or not all(map(_is_local, layers)) or count * height <= rows:
        return nn.Sequential(*layers)(x)
    reach = sum(layer.kernel_size[0] // 2 for layer in convolutions)
    result = x.new_empty(count, convolutions[-1].out_channels, height, width)
    strips = -(-height // rows)
    edges = [height * i // strips for i in range(strips + 1)]
    for source, target in zip(x.split(1), result.split(1), strict=True):
        for top, bottom in pairwise(edges):
            start = max(0, top - reach)
            strip = nn.Sequential(*layers)(source[:, :, start:bottom + reach])
            target[:, :, top:bottom] = strip[:, :, top - start:bottom - start]
    return result


def _is_local(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ReLU) or (
        isinstance(layer, nn.Conv2d) and layer.stride == layer.dilation == (1, 1) and not isinstance(layer.padding, str)
        and layer.kernel_size == tuple(2 * padding + 1 for padding in layer.padding))


def _runs(layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Layers in order, grouped into runs that `in_strips` can cut up, and the others in between."""
    return [list(run) for _, run in groupby(layers, key=_is_local)]


def _channels(x: Tensor) -> list[slice]:
    """Groups of channels of [B, C, H, W], so that no further copy of all features is in memory."""
    step = max(1, PART_VALUES // (x.shape[0] * x.shape[2] * x.shape[3]))
    return [slice(start, min(start + step, x.shape[1])) for start in range(0, x.shape[1], step)]
