"""Random weights of the true architectures of LPIPS, DISTS and FVD, in the files that the real loaders read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import alexnet, vgg

from vov.evaluation.perceptual import WEIGHTS

# of Inception-v1's nine mixed blocks: 1×1, 3×3 (reduce, out), 3×3 (reduce, out), after the pooling
MIXED = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
         (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
         (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))


class Mixed(nn.Module):
    """One inception block in three dimensions."""

    def __init__(self, inputs: int, sizes: tuple[int, ...]):
        super().__init__()
        a, b, c, d, e, f = sizes
        self.one = convolution(inputs, a, 1)
        self.three = nn.Sequential(convolution(inputs, b, 1), convolution(b, c, 3))
        self.five = nn.Sequential(convolution(inputs, d, 1), convolution(d, e, 3))
        self.pool = nn.Sequential(nn.MaxPool3d(3, 1, 1), convolution(inputs, f, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), 1)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm3d(outputs), nn.ReLU())


class I3d(nn.Module):
    """Carreira & Zisserman 2017 with the calling convention of StyleGAN-V's TorchScript file."""

    def __init__(self, divisor: int = 1):
        super().__init__()
        sizes = [tuple(max(2, n // divisor) for n in row) for row in MIXED]
        w64, w192 = 64 // divisor, 192 // divisor
        layers: list[nn.Module] = [
            convolution(3, w64, 7, 2), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), convolution(w64, w64, 1),
            convolution(w64, w192, 3), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))]
        channels = w192
        for index, row in enumerate(sizes):
            if index == 2:
                layers.append(nn.MaxPool3d(3, 2, 1))
            if index == 7:
                layers.append(nn.MaxPool3d(2, 2))
            layers.append(Mixed(channels, row))
            channels = row[0] + row[2] + row[4] + row[5]
        self.layers = nn.Sequential(*layers)
        self.logits = nn.Conv3d(channels, 400, 1)

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        if resize:
            x = nn.functional.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear")
        if rescale:
            x = 2 * x / 255 - 1
        x = nn.functional.avg_pool3d(self.layers(x), [2, 7, 7], stride=1)
        x = self.logits(x).squeeze(3).squeeze(3).mean(2)
        return x if return_features else x.softmax(1)


def save_trunks(folder: Path) -> None:
    """VGG-16 and AlexNet (their convolutions, which is all that LPIPS and DISTS read) and DISTS' α and β."""
    torch.manual_seed(0)
    trunks = {"vgg16": vgg.make_layers(vgg.cfgs["D"]), "alexnet": alexnet(weights=None).features}
    for name, layers in trunks.items():
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        state = {f"features.{key}": value for key, value in layers.state_dict().items()}
        torch.save(state, folder / WEIGHTS[name].file)
    weights = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    total = sum(value.sum() for value in weights.values())
    torch.save({name: value / total for name, value in weights.items()}, folder / WEIGHTS["dists"].file)


def save_i3d(folder: Path, divisor: int) -> None:
    """I3D as a TorchScript file; `divisor` thins its channels."""
    torch.manual_seed(0)
    torch.jit.script(I3d(divisor).eval()).save(str(folder / WEIGHTS["i3d"].file))
