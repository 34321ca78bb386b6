"""The benchmark's own small networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Linear(nn.Module):
    """Softmax regression on pixels: convex, hence a baseline without a loss barrier."""

    def __init__(self, pixels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(pixels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, c, h, w]`."""
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Mlp(nn.Module):
    """Fully connected ReLU network of `depth` hidden layers of `width`."""

    def __init__(self, pixels: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [pixels, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, c, h, w]`."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits


class Cnn(nn.Module):
    """Three 3 x 3 convolutions with biases, the last two of stride 2; no normalisation."""

    def __init__(self, in_chans: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, c, h, w]`."""
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Basic residual block: two 3 x 3 convolutions with BatchNorm, projected shortcut on change of shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features `[n, outputs, h / stride, w / stride]` of features `[n, inputs, h, w]`."""
        # no local names, which would keep 62 MiB each until the end (1,000 images of 16 x 32 x 32)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. (arXiv 1512.03385, section 4.2): three stages of basic blocks.

    With projection shortcuts; `blocks` = 3 and `width` = 16 is ResNet-20 (272,474 parameters).
    """

    def __init__(self, in_chans: int, num_classes: int, width: int, blocks: int, stem_stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, stem_stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                Block(widths[s] if b == 0 else widths[s + 1], widths[s + 1], 2 if s > 0 and b == 0 else 1)
                for s in range(3)
                for b in range(blocks)
            )
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, c, h, w]`."""
        x = F.relu(self.norm(self.stem(x)))
        for block in self.stages:  # calling nn.Sequential would keep its input in memory until the end
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998) in its present form: ReLU, max pooling, softmax.

    Convolutions of 6 and 16 maps, 5 x 5, the first padded; fully connected layers of 120 and 84. With
    `norm`, BatchNorm follows each of the four.
    """

    def __init__(self, in_chans: int, num_classes: int, size: tuple[int, int], norm: bool) -> None:
        super().__init__()
        h, w = ((side // 2 - 4) // 2 for side in size)
        self.conv1 = nn.Conv2d(in_chans, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * h * w, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, num_classes)
        self.norm1 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.norm3 = nn.BatchNorm1d(120) if norm else nn.Identity()
        self.norm4 = nn.BatchNorm1d(84) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, c, h, w]`."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2).flatten(1)
        x = F.relu(self.norm3(self.fc1(x)))
        x = F.relu(self.norm4(self.fc2(x)))
        logits: Tensor = self.head(x)
        return logits


VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Widths of VGG-16's convolutions by stage, in units of its first (arXiv 1409.1556, configuration D)."""


class Vgg(nn.Module):
    """VGG-16 for CIFAR: 13 convolutions, pooling after each stage, one linear layer (Frankle et al., 2020).

    Convolutions are initialised by Kaiming's normal (fan in; He et al., 2015, arXiv 1502.01852). Without
    BatchNorm, torch's default would make the signal vanish over 13 layers.
    """

    def __init__(self, in_chans: int, num_classes: int, width: int, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_chans
        for stage in VGG16:
            for times in stage:
                outputs = times * width
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm))
                layers += [nn.BatchNorm2d(outputs)] if norm else []
                layers.append(nn.ReLU())
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, c, h, w]`, 32 pixels or more."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def _pixels(in_chans: int, img_size: int | tuple[int, int]) -> int:
    h, w = (img_size, img_size) if isinstance(img_size, int) else img_size
    return in_chans * h * w


def lmc_linear(num_classes: int, in_chans: int, img_size: int | tuple[int, int]) -> Linear:
    """Softmax regression."""
    return Linear(_pixels(in_chans, img_size), num_classes)


def lmc_mlp(
    num_classes: int, in_chans: int, img_size: int | tuple[int, int], width: int = 128, depth: int = 3
) -> Mlp:
    """MLP without normalisation."""
    return Mlp(_pixels(in_chans, img_size), num_classes, width, depth)


def lmc_cnn(num_classes: int, in_chans: int, width: int = 8) -> Cnn:
    """Plain CNN without normalisation."""
    return Cnn(in_chans, num_classes, width)


def lmc_resnet(
    num_classes: int, in_chans: int, width: int = 8, blocks: int = 1, stem_stride: int = 1
) -> ResNet:
    """Residual CNN with BatchNorm."""
    return ResNet(in_chans, num_classes, width, blocks, stem_stride)


def lmc_lenet(num_classes: int, in_chans: int, img_size: int | tuple[int, int], norm: bool = False) -> LeNet:
    """LeNet-5, without normalisation or with BatchNorm."""
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    return LeNet(in_chans, num_classes, size, norm)


def lmc_vgg16(num_classes: int, in_chans: int, norm: bool = True, width: int = 64) -> Vgg:
    """VGG-16 with BatchNorm or without normalisation."""
    return Vgg(in_chans, num_classes, width, norm)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "lmc_linear": lmc_linear,
    "lmc_mlp": lmc_mlp,
    "lmc_cnn": lmc_cnn,
    "lmc_resnet": lmc_resnet,
    "lmc_lenet": lmc_lenet,
    "lmc_vgg16": lmc_vgg16,
}
"""Name -> factory. Not in timm's registry, which takes two seconds to import."""
