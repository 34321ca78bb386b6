"""Adapt networks made for large images to small ones; a suite names the adaptation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Factory = Callable[..., Any]
Arguments = dict[str, Any]


class AdaptationError(ValueError):
    """The adaptation does not apply to this kind of network."""


@dataclass(frozen=True)
class Adaptation:
    """Changes before and after a network is built.

    Attributes:
        change: modifies a network in place; new weights are drawn from the global generator.
        arguments: returns the factory's arguments from the factory and the original arguments.
    """

    change: Callable[[nn.Module], None]
    arguments: Callable[[Factory, Arguments], Arguments] = lambda factory, arguments: arguments


def small_stem(model: nn.Module) -> None:
    """Make the first convolution 3 x 3 with stride 1 and remove pooling from the stem, in place.

    This is the stem of He et al. (2016, arXiv 1512.03385, section 4.2) for CIFAR-10. A kernel of another size
    is drawn again (Kaiming normal, fan out; He et al., 2015, arXiv 1502.01852) from the global generator.

    Raises:
        AdaptationError: if the network does not begin with a convolution.
    """
    convolutions = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise AdaptationError("small-stem needs a network that begins with a convolution")
    name, first = convolutions[0]
    _shrink(first)
    # the module that holds the first convolution: the stem, or the network itself
    holder, _, _ = name.rpartition(".")
    stem = model.get_submodule(holder)
    for part, module in list(stem.named_children()):
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            setattr(stem, part, nn.Identity())
        elif isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.stride = (1, 1)


def _shrink(convolution: nn.Conv2d) -> None:
    """Set kernel 3 x 3, stride 1 and padding 1."""
    before = convolution.weight
    convolution.stride, convolution.padding = (1, 1), (1, 1)
    if convolution.kernel_size == (3, 3):
        return
    weight = torch.empty(*before.shape[:2], 3, 3, dtype=before.dtype, device=before.device)
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    convolution.kernel_size = (3, 3)
    convolution.weight = nn.Parameter(weight)
    # weight-standardised convolutions scale by 1 / sqrt(fan in) (Brock et al., 2021, arXiv 2101.08692)
    scale = getattr(convolution, "scale", None)
    if isinstance(scale, float):
        convolution.scale = scale * (before[0].numel() / weight[0].numel()) ** 0.5


PATCH = 4
NO_PATCHES = "patch4 needs a network that projects patches of its image"


def patch4(model: nn.Module) -> None:
    """Use patches of 4 x 4 pixels in networks that have no `patch_size` argument, in place.

    The network was built for the larger image of `_enlarge_image`. The projection of patches is drawn again
    (LeCun normal, as timm does for MLP-Mixer).

    Raises:
        AdaptationError: if the network does not project patches.
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


def _enlarge_image(factory: Factory, arguments: Arguments) -> Arguments:
    """Enlarge the image so that its patches are as many as the small image has of 4 x 4 pixels."""
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


ADAPT = {"small-stem": Adaptation(small_stem), "patch4": Adaptation(patch4, _enlarge_image)}
"""Name, as declared in `spec/architectures.py`, -> adaptation."""
