"""Normalisation statistics of batches: noted by the layers themselves, and pooled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def pooled_moments(counts: list[int], moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over all batches from each batch's; counts of values per channel."""
    if len(moments) == 1:
        return moments[0]
    total = sum(counts)
    mean = sum(n * m for n, (m, _) in zip(counts, moments, strict=True)) / total
    scatter = sum((n - 1) * v + n * (m - mean) ** 2 for n, (m, v) in zip(counts, moments, strict=True))
    return torch.as_tensor(mean), torch.as_tensor(scatter) / (total - 1)


@contextmanager
def batch_statistics(model: nn.Module, norms: dict[str, _BatchNorm]) -> Iterator[dict[str, int]]:
    """Have each layer write its batch's own statistics into its buffers; yields its count of values.

    Momentum 1 turns the running average into the last call's mean and unbiased variance, 1/k at call
    k of a pass into the mean over the calls.
    """
    momenta = {name: module.momentum for name, module in norms.items()}
    counts: dict[str, int] = {}
    calls: dict[str, int] = {}
    # a pass of one state, or of a whole stack at once, is one call of the model
    handles = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    for name, module in norms.items():

        def note(layer: _BatchNorm, inputs: tuple[Tensor, ...], name: str = name) -> None:
            x = inputs[0]
            counts[name] = x.numel() // x.shape[1]  # the same for every state of a stack
            calls[name] = calls.get(name, 0) + 1
            layer.momentum = 1.0 / calls[name]

        handles.append(module.register_forward_pre_hook(note))
        module.train()
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
        for name, module in norms.items():
            module.eval()
            module.momentum = momenta[name]
