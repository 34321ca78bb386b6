"""Groups of units that move together: which axes of which tensors carry them, and which groups are one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcbench.connect.blending import State
from lmcbench.errors import UserError


class UnitGroups:
    """Groups while a network is read: they are opened, noted on tensors, tied to each other and pinned."""

    def __init__(self) -> None:
        self._parent = {INPUT: INPUT}  # a forest: groups that were tied have one root
        self._pinned = {INPUT}
        self._sizes: dict[int, int] = {}
        self._axes: dict[str, tuple[Axis | None, ...]] = {}

    def open(self, size: int) -> int:
        """A new group of so many units."""
        group = len(self._parent)
        self._parent[group] = group
        self._sizes[group] = size
        return group

    def units(self, axis: Axis) -> int:
        """How many units stand along an axis that does not carry the input."""
        return sum(self._sizes[group] for group in axis)

    def axes(self, name: str) -> tuple[Axis | None, ...] | None:
        """What was noted on a tensor; None: nothing yet."""
        return self._axes.get(name)

    def pin(self, groups: Iterable[int]) -> None:
        """Have groups keep their order."""
        self._pinned.update(groups)

    def note(self, name: str, axes: tuple[Axis | None, ...]) -> None:
        """Note the groups along a tensor's axes; those already there are tied to them.

        Raises:
            UserError: where other concatenations, or other numbers of units, were noted before.
        """
        for known, axis in zip(self._axes.setdefault(name, axes), axes, strict=True):
            if known is None or axis is None:
                continue
            if len(known) != len(axis):
                raise cannot_align(f"{name!r} is used on different concatenations.")
            self.tie(known, axis)

    def tie(self, one: Axis, other: Axis) -> None:
        """Make one of the groups of two axes of equal length, pair by pair.

        Raises:
            UserError: where they have different numbers of units.
        """
        for a, b in zip(one, other, strict=True):
            self._tie(a, b)

    def share(self, names: Sequence[str]) -> None:
        """Give all names of one tensor the same axes: weights tied to others, layers under two names."""
        used = [name for name in names if name in self._axes]
        for name in used[1:]:
            for one, other in zip(self._axes[used[0]], self._axes[name], strict=True):
                if one is None or other is None:  # it moves on one side only: on none
                    self.pin(one or other or ())
            self.note(used[0], self._axes[name])
        for name in names if used else ():
            self._axes[name] = self._axes[used[0]]

    def permutations(self) -> PermutationSpec:
        """What was found: the groups that are left, which of them are free, and where they occur."""
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
        if one == INPUT:  # keeps its own size, but not its freedom
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
    """The error for a network whose units cannot be told apart."""
    return UserError(f"The network cannot be aligned: {why}")


INPUT = 0
"""The group of the network's input, whose units stay where they are."""

Axis = tuple[int, ...]
"""The groups along one axis, one after another; more than one after a concatenation."""


@dataclass(frozen=True)
class PermutationSpec:
    """UnitGroups of units that are permuted together, and where they occur.

    Attributes:
        sizes: units of each group, by group, in order from input to output; without `INPUT`.
        free: the groups that may be permuted: all but those that reach the input or the output.
        axes: tensor name -> the groups along its axes (`None`: not permuted). Where an axis is longer
            than its groups, every unit owns a block of equal length (flattened positions).
    """

    sizes: dict[int, int]
    free: tuple[int, ...]
    axes: dict[str, tuple[Axis | None, ...]]


def permute_state(state: State, spec: PermutationSpec, orders: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """`state` with unit `orders[g][i]` of each group moved to place i; tensors are copies.

    Args:
        state: a state dict of the network that `spec` describes.
        spec: where the groups occur.
        orders: group -> a permutation `[size]` int64; groups left out stay.
    """
    return {
        name: permute_tensor(value.detach().clone(), spec.axes.get(name, ()), spec.sizes, orders)
        for name, value in state.items()
    }


def permute_tensor(
    value: Tensor, axes: Sequence[Axis | None], sizes: Mapping[int, int], orders: Mapping[int, Tensor]
) -> Tensor:
    """One tensor with the units along its axes reordered, group by group."""
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
    """Entries per unit along an axis of `length`: 1, or the positions flattened into it."""
    return length // sum(sizes[group] for group in axis)
