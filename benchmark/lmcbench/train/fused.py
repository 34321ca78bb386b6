"""Faster operators for stacked fleets, where vmap's own rules take several passes over the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch._C import _functorch as functorch

from lmcbench.torch_functions import ReplacedFunctions


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `F.batch_norm` of N networks with C channels as one of N C channels, which is exact.

    vmap's own rule applies weight and bias in separate passes and saves one more tensor per layer for the
    backward pass.
    """
    statistics = (running_mean, running_var)
    if not training or not _batched(x) or any(t is not None and not _batched(t) for t in statistics):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    level = functorch.maybe_get_level(x)
    stacked = _unwrapped(x, 1)
    n = stacked.shape[1]
    mean, var, scale, shift = (_channels(t, n) for t in (*statistics, weight, bias))
    out = F.batch_norm(stacked.flatten(1, 2), mean, var, scale, shift, training, momentum, eps)
    return functorch._add_batch_dim(out.view(stacked.shape), 1, level)


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Compute `F.scaled_dot_product_attention` of N batches of B as one batch of N B.

    vmap has no rule for the CPU's kernel and would run it once per network. Masks are left to vmap.
    """
    heads = (query, key, value)
    if args or kwargs.get("attn_mask") is not None or not all(_batched(t) and t.ndim == 4 for t in heads):
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    level = functorch.maybe_get_level(query)
    q, k, v = (_unwrapped(t, 0) for t in heads)
    out = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), **kwargs)
    return functorch._add_batch_dim(out.view(*q.shape[:2], *out.shape[1:]), 0, level)


FEW_CHANNELS = 16
"""Input channels of all networks of a fleet together, below which a convolution with 1 to 3 of them a network
may run on another kernel, with other last bits. Measured with oneDNN 3.13 on AVX2 (2026-11-29): the kernel
changes at 8 channels in all; with 4 or more input channels a network, all fleets of 2 to 24 have equal bits.
A block of AVX-512 has 16 channels."""


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Convolve as `F.conv2d`, with bits that do not depend on how many networks there are.

    A small fleet is padded with networks of zeros up to `FEW_CHANNELS`, because oneDNN chooses its kernel by
    the number of channels of all networks together. A large one takes the same way with none, so that the
    output's gradient, over which the bias's is summed, has one memory layout.
    """
    few = all(map(_batched, (x, weight))) and weight.shape[1] < 4 and x.shape[1] == weight.shape[1]
    if not few or x.device.type != "cpu":
        return F.conv2d(x, weight, bias, *args, **kwargs)
    level, n = functorch.maybe_get_level(x), _unwrapped(weight, 0).shape[0]
    missing = max(math.ceil(FEW_CHANNELS / weight.shape[1]) - n, 0)

    def pad(t: Tensor) -> Tensor:
        values = _unwrapped(t, 0)
        zeros = values.new_zeros(missing, *values.shape[1:])
        return functorch._add_batch_dim(torch.cat([values, zeros]), 0, level)

    shift = pad(bias) if bias is not None and _batched(bias) else bias
    padded = F.conv2d(pad(x), pad(weight), shift, *args, **kwargs)
    axis = functorch.maybe_get_bdim(padded)
    # contiguous, as without padding: the next operator may choose its kernel by the layout
    out = functorch.get_unwrapped(padded).narrow(axis, 0, n).contiguous()
    return functorch._add_batch_dim(out, axis, level)


DEFAULTS = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
"""Options of `F.cross_entropy` as torch passes them on; all others are None by default."""


def cross_entropy(logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
    """Compute `F.cross_entropy` without options, with the bits of vmap's own rule.

    That rule checks sizes by a function that imports sympy (0.3 s), and looks for labels to ignore.
    """
    plain = all(value == DEFAULTS.get(name) for name, value in kwargs.items())
    # in bf16 torch chooses where it rounds
    exact = _batched(logits) and logits.ndim == 2 and logits.dtype in (torch.float32, torch.float64)
    if not (plain and exact):
        return F.cross_entropy(logits, labels, **kwargs)
    return -F.log_softmax(logits, 1).gather(1, labels[:, None]).sum() / len(labels)


def _batched(t: Tensor) -> bool:
    return bool(functorch.is_batchedtensor(t))


def _unwrapped(t: Tensor, to: int) -> Tensor:
    """Return the tensor of all networks that vmap wraps, with the networks along dimension `to`."""
    return torch.movedim(functorch.get_unwrapped(t), functorch.maybe_get_bdim(t), to)


def _channels(t: Tensor | None, n: int) -> Tensor | None:
    """Return all networks' values per channel, `[N C]`; a view, so that statistics are updated in place."""
    if t is None:
        return None
    return _unwrapped(t, 0).reshape(-1) if _batched(t) else t.repeat(n)


TABLE: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    F.conv2d: conv2d,
    F.cross_entropy: cross_entropy,
    F.scaled_dot_product_attention: attention,
}


def fused() -> ReplacedFunctions:
    """Return a context for a vmap of N networks, in which these functions take the place of torch's."""
    return ReplacedFunctions(TABLE)
