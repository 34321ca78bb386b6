"""Groups of units that are permuted together, and the tensor axes along which they occur."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcbench.connect.blending import State
from lmcbench.errors import UserError


class UnitGroups:
    """Groups collected while a network is traced: opened, noted on tensors, tied to each other, pinned."""

    def __init__(self) -> None:
        self._parent = {INPUT: INPUT}  # union-find: tied groups have one root
        self._pinned = {INPUT}
        self._sizes: dict[int, int] = {}
        self._axes: dict[str, tuple[Axis | None, ...]] = {}

    def open(self, size: int) -> int:
        """Return a new group of `size` units."""
        group = len(self._parent)
        self._parent[group] = group
        self._sizes[group] = size
        return group

    def units(self, axis: Axis) -> int:
        """Return the number of units along an axis without the input."""
        return sum(self._sizes[group] for group in axis)

    def axes(self, name: str) -> tuple[Axis | None, ...] | None:
        """Return the groups noted on a tensor; None if there are none."""
        return self._axes.get(name)

    def pin(self, groups: Iterable[int]) -> None:
        """Fix the order of groups."""
        self._pinned.update(groups)

    def note(self, name: str, axes: tuple[Axis | None, ...]) -> None:
        """Note the groups along a tensor's axes, and tie them to those noted before.

        Raises:
            UserError: if a different concatenation or number of units was noted before.
        """
        for known, axis in zip(self._axes.setdefault(name, axes), axes, strict=True):
            if known is None or axis is None:
                continue
            if len(known) != len(axis):
                raise cannot_align(f"{name!r} is used on different concatenations.")
            self.tie(known, axis)

    def tie(self, one: Axis, other: Axis) -> None:
        """Tie the groups of two axes pair by pair: they are permuted alike.

        Raises:
            UserError: if their numbers of units differ.
        """
        for a, b in zip(one, other, strict=True):
            self._tie(a, b)

    def share(self, names: Sequence[str]) -> None:
        """Give all names of one tensor the same axes (tied weights, layers under two names)."""
        used = [name for name in names if name in self._axes]
        for name in used[1:]:
            for one, other in zip(self._axes[used[0]], self._axes[name], strict=True):
                if one is None or other is None:  # permuted under one name only: keep it fixed
                    self.pin(one or other or ())
            self.note(used[0], self._axes[name])
        for name in names if used else ():
            self._axes[name] = self._axes[used[0]]

    def permutations(self) -> PermutationSpec:
        """Return the remaining groups, which of them are free, and where they occur."""
        pinned = {self._root(group) for group in self._pinned}
        roots = [group for group in self._sizes if self._root(group) == group]
        axes = {
            name: tuple(None if axis is None else tuple(map(self._root, axis)) for axis in every)
            for name, every in self._axes.items()
        }
        free = tuple(group for group in roots if group not in pinned)
        return PermutationSpec({group: self._sizes[group] for group in roots}, free, axes)

    def _tie(self, one: int, other: int) -> None:
        one, other = sorted((self._root(one), self._root(other)))
        if one == other:
            return
        if one == INPUT:  # the other keeps its size, but is fixed
            self._pinned.add(other)
            return
        if self._sizes[one] != self._sizes[other]:
            raise cannot_align(f"{self._sizes[one]} units meet {self._sizes[other]} (broadcasting).")
        self._parent[other] = one

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group


def cannot_align(why: str) -> UserError:
    """Return the error for a network that cannot be aligned."""
    return UserError(f"The network cannot be aligned: {why}")


INPUT = 0
"""The group of the network's input, which is never permuted."""

Axis = tuple[int, ...]
"""The groups along one axis in order; several after a concatenation."""


@dataclass(frozen=True)
class PermutationSpec:
    """UnitGroups of units that are permuted together, and where they occur.

    Attributes:
        sizes: units of each group, by group, in order from input to output; without `INPUT`.
        free: the groups that may be permuted: all except those of the input or the output.
        axes: tensor name -> the groups along its axes (`None`: not permuted). If an axis is longer than its
            groups, every unit owns a block of equal length (flattened positions).
    """

    sizes: dict[int, int]
    free: tuple[int, ...]
    axes: dict[str, tuple[Axis | None, ...]]


def permute_state(state: State, spec: PermutationSpec, orders: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors with unit `orders[g][i]` of each group g moved to position i.

    Args:
        state: a state dict of the network that `spec` describes.
        spec: where the groups occur.
        orders: group -> a permutation `[size]` int64; missing groups stay.
    """
    return {
        name: permute_tensor(value.detach().clone(), spec.axes.get(name, ()), spec.sizes, orders)
        for name, value in state.items()
    }


def permute_tensor(
    value: Tensor, axes: Sequence[Axis | None], sizes: Mapping[int, int], orders: Mapping[int, Tensor]
) -> Tensor:
    """Reorder the units along the axes of one tensor."""
    for dim, axis in enumerate(axes):
        if axis is None or not any(group in orders for group in axis):
            continue
        block = entries_per_unit(value.shape[dim], axis, sizes)
        index, start = [], 0
        for group in axis:
            index.append(start + orders.get(group, torch.arange(sizes[group])))
            start += sizes[group]
        places = torch.cat(index)[:, None] * block + torch.arange(block)
        value = value.index_select(dim, places.flatten().to(value.device))
    return value


def entries_per_unit(length: int, axis: Axis, sizes: Mapping[int, int]) -> int:
    """Return the entries per unit along an axis: 1, or the number of flattened positions."""
    return length // sum(sizes[group] for group in axis)
