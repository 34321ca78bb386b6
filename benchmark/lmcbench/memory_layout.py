"""The memory layout of a network's images: contiguous `[n, c, h, w]`, or with the channels last in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lmcbench.torch_functions import ReplacedFunctions

Layout = Literal["contiguous", "channels-last"]

TOLERANCE = 1e-2
"""Relative distance allowed between the layouts' logits, and between their gradients: far above fp32
rounding, far below the effect of a layer that computes something else."""

IMAGES = 4
"""Images of the trial pass; BatchNorm needs more than one value per channel."""

LEAST_CHANNELS = 8
"""Input channels (in a group) from which on strided 1 x 1 convolutions are safe in channels-last layout. On
CPUs without AVX-512, torch 2.15 writes beyond its memory in the backward pass of those with 2 to 7 (1 to 24
tested, stride 2)."""


WIDE = 512
"""Input channels (in a group) from which on convolutions stay contiguous: 512 channels of 4 x 4 pixels take
twice as long with channels last, 256 of 8 x 8 as long, 64 of 32 x 32 0.65 (benchmark/speed/NOTES.md)."""


def to_layout(images: Tensor, layout: Layout) -> Tensor:
    """Return `images` `[n, c, h, w]` in `layout`: the same values with other strides, if need be a copy.

    torch's own conversions leave images of one channel as they are, since they have both layouts at once,
    and convolutions then go by the strides.
    """
    if images.ndim != 4:
        return images
    _, c, h, w = images.shape
    strides = (c * h * w, 1, w * c, c) if layout == "channels-last" else (c * h * w, h * w, w, 1)
    if images.stride() == strides:
        return images
    return images.new_empty_strided(images.shape, strides).copy_(images)


def _convolve_wide(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002
    """Convolve features of many channels in the contiguous layout."""
    images = to_layout(input, "contiguous") if weight.shape[1] >= WIDE else input
    return F.conv2d(images, weight, *args, **kwargs)


def wide_contiguous(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context for passes with the channels last, which leaves wide convolutions contiguous.

    It does nothing for networks without one: a function mode costs time at every call of torch.
    """
    wide = any(weight.ndim == 4 and weight.shape[1] >= WIDE for weight in model.parameters())
    return ReplacedFunctions({F.conv2d: _convolve_wide}) if wide else nullcontext()


def choose_layout(model: nn.Module, shape: tuple[int, int, int], gradients: bool = True) -> Layout:
    """Return the layout in which a CPU runs `model`, a committed function of the network; nothing is timed.

    Channels last where the rule `is_faster_channels_last` says so, and a trial pass in both layouts agrees:
    the network may fail in that layout (`view`), or read memory in its order.

    Args:
        model: a copy of the network. Its weights are replaced, so that the answer does not depend on them.
        shape: image shape (c, h, w).
        gradients: compare gradients too.
    """
    some = next(model.parameters(), None)
    if some is None or some.device.type != "cpu" or some.dtype != torch.float32:
        return "contiguous"
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, *shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        try:
            _prepare(model, gradients, generator)
            if not is_faster_channels_last(_convolutions(model, images)):
                return "contiguous"
            expected = _outputs(model, images, gradients)
            with wide_contiguous(model):
                found = _outputs(model, to_layout(images, "channels-last"), gradients)
        except Exception:  # a network's code may raise anything
            return "contiguous"
    agree = all(_distance(a, b) <= TOLERANCE for a, b in zip(found, expected, strict=True))
    return "channels-last" if agree else "contiguous"


@dataclass(frozen=True)
class Convolution:
    """A 2-d convolution that a network computes.

    Attributes:
        inputs: input channels in a group.
        kernel: height and width of the kernel.
        stride: vertical and horizontal stride.
    """

    inputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]


def is_faster_channels_last(convolutions: Sequence[Convolution]) -> bool:
    """Return whether a network with these convolutions is trained in channels-last layout.

    It is if one of them has overlapping windows (a kernel larger than its stride): measured 1.02 to 1.4 times
    as fast for all of the suites' networks that have one, and 0.97 to 1.0 for those that only cut patches
    (benchmark/speed/NOTES.md). Networks with a strided 1 x 1 convolution of 2 to 7 channels are not (see
    `LEAST_CHANNELS`), on no CPU, so that the layout is the same everywhere.
    """
    overlap = any(k > s for each in convolutions for k, s in zip(each.kernel, each.stride, strict=True))
    unsafe = any(
        each.kernel == (1, 1) and max(each.stride) > 1 and 1 < each.inputs < LEAST_CHANNELS
        for each in convolutions
    )
    return overlap and not unsafe


def _convolutions(model: nn.Module, images: Tensor) -> list[Convolution]:
    """Return the 2-d convolutions that run for `images`."""
    found: list[Convolution] = []

    def noted(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        down, right = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
        _, inputs, height, width = weight.shape
        found.append(Convolution(inputs, (height, width), (down, right)))
        return F.conv2d(input, weight, bias, stride, *args, **kwargs)

    with ReplacedFunctions({F.conv2d: noted}), torch.no_grad():
        model(images)
    return found


def _prepare(model: nn.Module, gradients: bool, generator: torch.Generator) -> None:
    """Draw weights that depend on nothing but their shapes, and switch off random layers.

    Training leaves the weights of the network that it trained last, which is another one in a resumed run.
    """
    for module in model.modules():
        # eval mode, because random layers draw in the order in memory
        module.training = gradients and isinstance(module, _BatchNorm)
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point():
                values = torch.randn(weight.shape, generator=generator)
                matrix = weight.ndim > 1
                weight.copy_(values * weight[0].numel() ** -0.5 if matrix else 0.5 + 0.1 * values)


def _outputs(model: nn.Module, images: Tensor, gradients: bool) -> list[list[Tensor]]:
    """Return the logits, and the gradients of a loss."""
    if not gradients:
        with torch.no_grad():
            return [[model(images)]]
    weights = [p for p in model.parameters() if p.requires_grad]
    logits = model(images)
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])
    grads = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return [[logits.detach()], list(grads)]


def _distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the norm of the difference relative to the expected norm; inf if not finite."""
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, expected, strict=True))
    size = sum(float(b.double().square().sum()) for b in expected)
    ratio = math.sqrt(apart / max(size, 1e-30)) if math.isfinite(apart) else math.inf
    return ratio if math.isfinite(ratio) else math.inf
