"""Networks made for large images changed for small ones, by the names a suite gives the changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Factory = Callable[..., Any]
Arguments = dict[str, Any]


class AdaptationError(ValueError):
    """The change cannot be made to this kind of network."""


@dataclass(frozen=True)
class Adaptation:
    """What is done before a network is built and after.

    Attributes:
        change: a network, in place; new weights are drawn from the global generator.
        arguments: what the factory is to be called with, from the factory and what it would be.
    """

    change: Callable[[nn.Module], None]
    arguments: Callable[[Factory, Arguments], Arguments] = lambda factory, arguments: arguments


def small_stem(model: nn.Module) -> None:
    """The first convolution 3 x 3 with stride 1, and no pooling in the stem, in place.

    As He et al. (arXiv 1512.03385, section 4.2) did for CIFAR-10, and everybody after them. A kernel of
    another size is drawn anew (Kaiming normal, fan out; arXiv 1502.01852), from the global generator.

    Raises:
        AdaptationError: where the network does not begin with a convolution.
    """
    convolutions = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise AdaptationError("small-stem needs a network that begins with a convolution")
    name, first = convolutions[0]
    _shrink(first)
    # the whole stem where it is a module of its own, else the network's own parts
    holder, _, _ = name.rpartition(".")
    stem = model.get_submodule(holder)
    for part, module in list(stem.named_children()):
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            setattr(stem, part, nn.Identity())
        elif isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.stride = (1, 1)


def _shrink(convolution: nn.Conv2d) -> None:
    """Kernel 3 x 3, stride 1, padding 1."""
    before = convolution.weight
    convolution.stride, convolution.padding = (1, 1), (1, 1)
    if convolution.kernel_size == (3, 3):
        return
    weight = torch.empty(*before.shape[:2], 3, 3, dtype=before.dtype, device=before.device)
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    convolution.kernel_size = (3, 3)
    convolution.weight = nn.Parameter(weight)
    # weight-standardised convolutions (Brock et al., arXiv 2101.08692) scale by one over root fan in
    scale = getattr(convolution, "scale", None)
    if isinstance(scale, float):
        convolution.scale = scale * (before[0].numel() / weight[0].numel()) ** 0.5


PATCH = 4
NO_PATCHES = "patch4 needs a network that projects patches of its image"


def patch4(model: nn.Module) -> None:
    """Patches of 4 x 4 pixels, for networks that take no `patch_size`; `_enlarged` gave it a larger image.

    The projection of a patch is drawn anew (LeCun normal; timm's for MLP-Mixer).

    Raises:
        AdaptationError: where the network does not project patches.
    """
    embed = _patch_embedding(model)
    before = embed.proj
    after = nn.Conv2d(before.in_channels, before.out_channels, PATCH, PATCH, bias=before.bias is not None)
    nn.init.normal_(after.weight, std=after.weight[0].numel() ** -0.5)
    if after.bias is not None:
        nn.init.zeros_(after.bias)
    factor = before.kernel_size[0] // PATCH
    embed.proj = after
    embed.img_size = tuple(side // factor for side in embed.img_size)
    embed.patch_size = (PATCH, PATCH)


def _enlarged(factory: Factory, arguments: Arguments) -> Arguments:
    """An image so much larger that it has as many patches as the small one will have of 4 x 4."""
    if "img_size" not in arguments:
        raise AdaptationError(NO_PATCHES)
    with torch.device("meta"):
        patch = int(_patch_embedding(factory(**arguments | {"img_size": 224})).patch_size[0])
    size = arguments["img_size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return arguments | {"img_size": tuple(side * patch // PATCH for side in sides)}


def _patch_embedding(model: nn.Module) -> Any:
    embed = getattr(model, "patch_embed", getattr(model, "stem", None))
    if not isinstance(getattr(embed, "proj", None), nn.Conv2d) or not hasattr(embed, "patch_size"):
        raise AdaptationError(NO_PATCHES)
    return embed


ADAPT = {"small-stem": Adaptation(small_stem), "patch4": Adaptation(patch4, _enlarged)}
"""Name (as `spec/architectures.py` declares it) -> what it does."""
