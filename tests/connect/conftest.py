"""Small networks and data for the weight-space tests, float64 on one CPU thread."""

from __future__ import annotations

import copy
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from timm.layers import ClassifierHead
from timm.models.vgg import VGG, ConvMlp
from torch import Tensor, nn

torch.set_num_threads(1)


class Residual(nn.Module):
    def __init__(self, width: int, out: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=not norm)
        self.norm2 = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.short = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return torch.relu(self.norm2(self.conv2(y)) + self.short(x))


class ResNet(nn.Module):
    """Two residual blocks, the second with a projection, [n, 1, 8, 8] -> [n, 4]."""

    def __init__(self, width: int = 6, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.block1 = Residual(width, width, norm)
        self.block2 = Residual(width, width + 2, norm)
        self.head = nn.Linear(width + 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(torch.relu(self.norm(self.stem(x)))))
        return self.head(x.mean((2, 3)))


def mlp(width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )


def cnn(width: int = 8) -> nn.Module:
    """Flattens 4 x 4 positions of every channel into the classifier."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(16 * width, 4),
    )  # fmt: skip


def small_vgg(num_classes: int) -> nn.Module:
    """timm's VGG with BatchNorm, its classifier of convolutions included, on 3 x 14 x 14 images."""
    model = VGG([6, "M", 8, 8], num_classes, norm_layer=nn.BatchNorm2d)
    model.pre_logits, model.head = ConvMlp(8, 12, 7), ClassifierHead(12, num_classes)
    return model


def softmax() -> nn.Module:
    """The convex baseline: one linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


BUILD = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": ResNet,
    "plain-resnet": partial(ResNet, norm=False),
    "softmax": softmax,
}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **kwargs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BUILD[name](**kwargs).to(dtype)


def images(n: int = 60, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Four noisy templates of 8 x 8."""
    generator = torch.Generator().manual_seed(1234)
    templates = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    generator.manual_seed(seed)
    labels = torch.arange(n) % 4
    noise = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return (templates[labels] + 1.5 * noise).to(dtype), labels


@cache
def _trained(name: str, seed: int, steps: int, dtype: torch.dtype, **kwargs: int) -> dict[str, Tensor]:
    model = build(name, seed, dtype, **kwargs).train()
    x, y = images(80, seed + 100, dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def train(
    name: str, seed: int, steps: int = 60, dtype: torch.dtype = torch.float64, **kwargs: int
) -> dict[str, Tensor]:
    """A state of the network after full-batch SGD on its own draw of images: a copy of one trained once."""
    return copy.deepcopy(_trained(name, seed, steps, dtype, **kwargs))


@pytest.fixture(scope="session")
def nets() -> SimpleNamespace:
    return SimpleNamespace(build=build, images=images, train=train, small_vgg=small_vgg, ResNet=ResNet)
