"""Groups of units that a network lets be permuted together, and states with their units permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcbench.connect.state import State

INPUT = 0
"""The group of the network's input, whose units stay where they are."""

Axis = tuple[int, ...]
"""The groups along one axis, one after another; more than one after a concatenation."""


@dataclass(frozen=True)
class Permutations:
    """Groups of units that are permuted together, and where they occur.

    Attributes:
        sizes: units of each group, by group, in order from input to output; without `INPUT`.
        free: the groups that may be permuted: all but those that reach the input or the output.
        axes: tensor name -> the groups along its axes (`None`: not permuted). Where an axis is longer
            than its groups, every unit owns a block of equal length (flattened positions).
    """

    sizes: dict[int, int]
    free: tuple[int, ...]
    axes: dict[str, tuple[Axis | None, ...]]


def permute(state: State, spec: Permutations, orders: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """`state` with unit `orders[g][i]` of each group moved to place i; tensors are copies.

    Args:
        state: a state dict of the network that `spec` describes.
        spec: where the groups occur.
        orders: group -> a permutation `[size]` int64; groups left out stay.
    """
    return {
        name: reorder(value.detach().clone(), spec.axes.get(name, ()), spec.sizes, orders)
        for name, value in state.items()
    }


def reorder(
    value: Tensor, axes: Sequence[Axis | None], sizes: Mapping[int, int], orders: Mapping[int, Tensor]
) -> Tensor:
    """One tensor with the units along its axes reordered, group by group."""
    for dim, axis in enumerate(axes):
        if axis is None or not any(group in orders for group in axis):
            continue
        block = block_of(value.shape[dim], axis, sizes)
        index, start = [], 0
        for group in axis:
            index.append(start + orders.get(group, torch.arange(sizes[group])))
            start += sizes[group]
        places = torch.cat(index)[:, None] * block + torch.arange(block)
        value = value.index_select(dim, places.flatten().to(value.device))
    return value


def block_of(length: int, axis: Axis, sizes: Mapping[int, int]) -> int:
    """Entries per unit along an axis of `length`: 1, or the positions flattened into it."""
    return length // sum(sizes[group] for group in axis)
