"""The networks, data and loops that are timed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lmcbench.data.augment import augment, keyed_words
from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.spec.architectures import Architecture, parse_architecture
from lmcbench.spec.recipe import Recipe
from lmcbench.train.build import build
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import TrainState, initial_state

ENTRIES = Path(__file__).parents[1] / "entries" / "digits.toml"

CLASSES = 10
POOL = 4096
"""Number of random images."""

STATISTICS = (np.full(3, 0.5), np.full(3, 0.25))


@dataclass(frozen=True)
class Work:
    """One network and how it is trained."""

    title: str
    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    pixels: int = 32
    channels: int = 3
    batch_size: int = 128
    augmentation: tuple[str, ...] = ("flip", "crop4")
    adapt: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image, (c, h, w)."""
        return self.channels, self.pixels, self.pixels

    @property
    def architecture(self) -> Architecture:
        """The network's name, arguments and adaptation."""
        return Architecture(name=self.name, recipe="r", kwargs=self.kwargs, adapt=self.adapt)

    def recipe(self, precision: str) -> Recipe:
        """Return a recipe of SGD with momentum."""
        return Recipe(
            lr=0.01,
            batch_size=self.batch_size,
            epochs=1000,
            augmentation=self.augmentation,
            precision=precision,
            weight_decay=5e-4,
        )

    def network(self, seed: int) -> nn.Module:
        """Build the network on the CPU."""
        return build(self.architecture, self.shape, CLASSES, seed)

    def statistics(self) -> tuple[Any, Any]:
        """Return mean and standard deviation per channel."""
        mean, std = STATISTICS
        return mean[: self.channels], std[: self.channels]


def _grey(name: str, adapt: str | None = None, pixels: int = 8, **kwargs: Any) -> Work:
    return Work(f"{name} {kwargs or ''}".strip(), name, kwargs, pixels, 1, 32, (), adapt)


def _colours(name: str, **kwargs: Any) -> Work:
    return Work(f"{name} {kwargs or ''}".strip(), name, kwargs, batch_size=32, augmentation=())


SMALL_VIT = {"depth": 2, "mlp_ratio": 2.0, "weight_init": "jax"}
SMALL_CONVNEXT = {"kernel_sizes": 3, "ls_init_value": 1.0}
DEEP_STEM = {"stem_type": "deep", "stem_width": 8}

ENGINE_WORKS = [
    _grey("lmc_linear"),
    _grey("lmc_mlp"),
    _grey("lmc_mlp", pixels=28),
    _grey("lmc_cnn"),
    _grey("lmc_resnet", pixels=28, width=4),
    _grey("lmc_resnet", stem_stride=2),
    _grey("resnet18", "small-stem", layers=[0, 1, 1, 1], channels=[16, 16, 32, 64], **DEEP_STEM),
    _grey("vit_tiny_patch16_224", patch_size=4, embed_dim=48, num_heads=3, **SMALL_VIT),
    _grey("nf_resnet26", depths=[1, 1], channels=[32, 64], stem_type="3x3"),
    _grey("convnext_atto", "small-stem", depths=[0, 1, 1, 0], dims=[8, 16, 32, 32], **SMALL_CONVNEXT),
    _colours("vit_tiny_patch16_224", patch_size=8, embed_dim=64, num_heads=4, **SMALL_VIT),
    _colours("resnet18", layers=[1, 1, 1, 0], channels=[16, 32, 64, 64], **DEEP_STEM),
    _colours(
        "convnext_atto",
        stem_type="overlap_tiered",
        depths=[1, 1, 1, 0],
        dims=[24, 48, 96, 96],
        **SMALL_CONVNEXT,
    ),
]
"""Networks of the suites of digits, and drafts of suites on timm's networks, from small to large."""


def _cifar(title: str, name: str, adapt: str | None = None, **kwargs: Any) -> Work:
    return Work(title, name, kwargs, batch_size=64, adapt=adapt)


PVT = {"depths": [1], "embed_dims": [48], "num_heads": [3], "sr_ratios": [1], "mlp_ratios": [2.0]}
SMALL_RESNET = {"layers": [0, 1, 1, 1], "channels": [16, 16, 32, 64], **DEEP_STEM}

LOOP_WORKS = [
    Work("MLP", "lmc_mlp", {}, 8, 1, 32, ()),
    Work("small resnet18", "resnet18", SMALL_RESNET, 8, 1, 32, (), "small-stem"),
    Work("small PVT", "pvt_v2_b0", PVT, 8, 1, 32, ()),
    _cifar("ResNet-8", "lmc_resnet", width=16, blocks=1),
    _cifar("ResNet-20", "lmc_resnet", width=16, blocks=3),
    _cifar("resnet18 with small stem", "resnet18", "small-stem"),
]
"""Networks that are compared with plain loops: three of the suite of digits, three of CIFAR size."""


def timm_works() -> list[Work]:
    """Return timm's networks on images of 8 x 8: those above, and the leaderboard's entries on digits."""
    entries = tomllib.loads(ENTRIES.read_text(encoding="utf-8"))["entries"]
    found = [work for work in ENGINE_WORKS if work.pixels == 8 and not work.name.startswith("lmc_")]
    found.append(_grey("pvt_v2_b0", **PVT))
    for architecture in (parse_architecture(entry["arch"], "r") for entry in entries):
        if architecture.source == "timm":
            found.append(_grey(architecture.name, architecture.adapt, **architecture.kwargs))
    return found


def images(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Return random images `[POOL, c, h, w]` uint8 and labels `[POOL]`."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (POOL, *work.shape), dtype=np.uint8)
    return pixels, generator.integers(0, CLASSES, POOL)


def fleet(
    work: Work, count: int, recipe: Recipe, device: torch.device
) -> tuple[nn.Module, list[TrainState], Feed]:
    """Return a model, the states of `count` members and their batches."""
    pixels, labels = images(work)
    items = np.arange(POOL)
    streams = [make_stream(items, items, "own", i, i + 1, work.batch_size) for i in range(count)]
    feed = Feed(DeviceImages(pixels, labels, work.statistics(), device), streams, recipe.augmentation)
    first = initial_state(work.network(0).to(device), slot_names(recipe))
    generator = torch.Generator().manual_seed(0)

    def nudged(t: Tensor) -> Tensor:
        return t * (1 + 0.01 * torch.rand(1, generator=generator).to(t)) if t.is_floating_point() else t

    return work.network(1).to(device), [first.map(nudged) for _ in range(count)], feed


def memory_loop(
    work: Work, precision: str, *, channels_last: bool = False, compiled: bool = False
) -> Iterator[None]:
    """Train one network with PyTorch's optimizer, data and augmentation in memory, step by step."""
    pixels, labels = (torch.as_tensor(x) for x in images(work))
    mean, std = (torch.as_tensor(s).float().view(-1, 1, 1) for s in work.statistics())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model, optimizer = _trainable(work)
    model.to(memory_format=layout)
    network = torch.compile(model) if compiled else model
    position, epoch, order = POOL, 0, torch.empty(0)
    while True:
        if position + work.batch_size > POOL:
            order, position, epoch = torch.randperm(POOL), 0, epoch + 1
        index = order[position : position + work.batch_size]
        position += work.batch_size
        batch = pixels[index]
        if work.augmentation:
            batch = augment(batch, keyed_words(7, epoch, index), work.augmentation)
        batch = ((batch.float() / 255 - mean) / std).contiguous(memory_format=layout)
        _train_step(network, optimizer, precision, batch, labels[index])
        yield


def dataloader_loop(work: Work) -> Iterator[None]:
    """Train one network from a DataLoader with torchvision's transforms, step by step.

    It has no workers: their time is not this process's, and runs give every core a family of their own.
    """
    from torchvision import transforms

    mean, std = work.statistics()
    usual = [transforms.RandomCrop(work.pixels, padding=4), transforms.RandomHorizontalFlip()]
    steps = [transforms.ToTensor(), transforms.Normalize(mean.tolist(), std.tolist())]
    shown = transforms.Compose([*(usual if work.augmentation else []), *steps])
    loader = torch.utils.data.DataLoader(
        Pictures(*images(work), shown), batch_size=work.batch_size, shuffle=True, drop_last=True
    )
    model, optimizer = _trainable(work)
    while True:
        for batch, labels in loader:
            _train_step(model, optimizer, "fp32", batch, labels)
            yield


class Pictures(torch.utils.data.Dataset[Any]):
    """Images as PIL images, as in torchvision's data sets."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        self.labels, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index].squeeze())), int(self.labels[index])


def _trainable(work: Work) -> tuple[nn.Module, torch.optim.SGD]:
    model, recipe = work.network(0).train(), work.recipe("fp32")
    rates = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    return model, torch.optim.SGD(model.parameters(), **rates)


def _train_step(
    model: Any, optimizer: torch.optim.SGD, precision: str, batch: Tensor, labels: Tensor
) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = F.cross_entropy(model(batch), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
