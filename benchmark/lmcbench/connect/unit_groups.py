"""Groups of units that are permuted together, and the tensor axes along which they occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lmcbench.connect.axis_labels import Ids
from lmcbench.connect.blending import State

Orders = dict[int, Ids]
"""Group -> index of B's unit at each of A's positions, `[size]` int64; missing groups stay."""


@dataclass(frozen=True)
class Group:
    """Units that may change places with each other.

    Attributes:
        size: number of units.
        parents: (group, parent of each unit `[size]`): a unit moves with its parents. Heads are the parents
            of the units in them. With several parents, units form a grid.
    """

    size: int
    parents: tuple[tuple[int, Ids], ...] = ()

    @cached_property
    def cells(self) -> Ids:
        """Units by cell `[cells, units per cell]`: those with the same parents, in order of the parents."""
        if not self.parents:
            return np.arange(self.size)[None]
        keys = np.stack([above for _, above in self.parents])
        order = np.lexsort(keys[::-1])
        count = len(np.unique(keys, axis=1).T)
        return order.reshape(count, -1)

    @property
    def is_free(self) -> bool:
        """Whether the order of units is not fixed by that of the parents."""
        return bool(self.cells.shape[1] > 1)

    @cached_property
    def cell_keys(self) -> Ids:
        """Parents of each cell, `[parents, cells]`."""
        return np.stack([above[self.cells[:, 0]] for _, above in self.parents])

    def source_cells(self, orders: Mapping[int, Ids]) -> Ids:
        """Return which cell of B comes to each cell of A, given the orders of the parents."""
        if not self.parents:
            return np.zeros(1, np.int64)
        code = np.zeros(len(self.cells), np.int64)
        wanted = np.zeros(len(self.cells), np.int64)
        for (parent, _), keys in zip(self.parents, self.cell_keys, strict=True):
            n = int(keys.max()) + 1
            moved = orders[parent][keys] if parent in orders else keys
            code, wanted = code * n + keys, wanted * n + moved
        return np.searchsorted(code, wanted)

    def carried(self, orders: Mapping[int, Ids]) -> Ids:
        """Return the order of the units that follows their parents and keeps the order within cells."""
        found = np.empty(self.size, np.int64)
        found[self.cells] = self.cells[self.source_cells(orders)]
        return found


@dataclass(frozen=True)
class Place:
    """Where units occur in a tensor.

    Attributes:
        dim: the axis.
        group: group of each index, -1 where none, `[n]`; for a convolution in groups of channels
            `[groups, n]`, as the inputs of each group of outputs are different units.
        unit: unit in its group.
        part: indices with the same group and unit are in different parts.
    """

    dim: int
    group: Ids
    unit: Ids
    part: Ids

    def index(self, orders: Mapping[int, Ids]) -> Ids:
        """Return which index of B comes to each index of A, of the shape of `group`."""
        rows = self.source_rows(orders)[:, None]
        keys, order = self._sorted
        wanted = self._keys(rows, self._moved(orders))
        found: Ids = order[np.searchsorted(keys, wanted.ravel())] % self.group.shape[-1]
        return found.reshape(self.group.shape)

    def source_rows(self, orders: Mapping[int, Ids]) -> Ids:
        """Return which group of inputs of B comes to each of A's, `[groups]`."""
        group, unit = np.atleast_2d(self.group), np.atleast_2d(self.unit)
        if len(group) == 1:
            return np.zeros(1, np.int64)
        at = (group >= 0).argmax(1)
        every = np.arange(len(group))
        moved = np.atleast_2d(self._moved(orders))
        rows: dict[tuple[int, int], list[int]] = {}
        for i in every.tolist():
            for key in dict.fromkeys(zip(group[i].tolist(), unit[i].tolist(), strict=True)):
                rows.setdefault(key, []).append(i)
        found = every.copy()
        for i in every[group[every, at] >= 0].tolist():
            g, u, to = int(group[i, at[i]]), int(unit[i, at[i]]), int(moved[i, at[i]])
            # units of query and key are the same: their rows stay in order
            found[i] = rows[g, to][rows[g, u].index(i)]
        return found

    def _moved(self, orders: Mapping[int, Ids]) -> Ids:
        unit = self.unit.copy()
        for g in self._present:
            if g in orders:
                unit[self.group == g] = orders[g][self.unit[self.group == g]]
        return unit

    @cached_property
    def _present(self) -> list[int]:
        return [int(g) for g in np.unique(self.group) if g >= 0]

    @cached_property
    def _sorted(self) -> tuple[Ids, Ids]:
        rows = np.arange(len(np.atleast_2d(self.group)))[:, None]
        keys = self._keys(rows, self.unit).ravel()
        order = np.argsort(keys)
        return keys[order], order

    def _keys(self, rows: Ids, unit: Ids) -> Ids:
        """Return integer keys, one per group, unit and part; a fixed index has a key of its own."""
        group, unit, part = (np.atleast_2d(x) for x in (self.group, unit, self.part))
        n = self.group.shape[-1]
        fixed = group < 0
        unit, part = np.where(fixed, np.arange(n), unit), np.where(fixed, 0, part)
        width, parts = max(n, int(self.unit.max()) + 1), int(self.part.max()) + 1
        keys: Ids = ((rows * (int(self.group.max()) + 2) + group + 1) * width + unit) * parts + part
        return keys


@dataclass(frozen=True)
class PermutationSpec:
    """Groups of units that are permuted together, and where they occur.

    Attributes:
        groups: from input to output; parents come before their units or after.
        places: tensor name -> where units occur in it. Names of one tensor have the same places.
        fixed: reason -> number of units that stay for it; the input's and the output's are not counted.
    """

    groups: tuple[Group, ...]
    places: dict[str, tuple[Place, ...]]
    fixed: dict[str, int]

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The groups whose order does not follow from their parents' order."""
        return tuple(g for g, group in enumerate(self.groups) if group.is_free)

    @property
    def sizes(self) -> dict[int, int]:
        """Units of each group."""
        return {g: group.size for g, group in enumerate(self.groups)}

    @property
    def fixed_share(self) -> float:
        """Units that stay because an operation is not understood, as a share of all."""
        fixed = sum(self.fixed.values())
        return fixed / max(1, fixed + sum(group.size for group in self.groups))

    @cached_property
    def top_down(self) -> tuple[int, ...]:
        """All groups, parents first."""
        done: list[int] = []
        waiting = list(range(len(self.groups)))
        while waiting:
            g = next(g for g in waiting if all(p in done for p, _ in self.groups[g].parents))
            done.append(g)
            waiting.remove(g)
        return tuple(done)

    def children(self, group: int) -> list[int]:
        """Return the groups whose units move with those of a group."""
        return self._children[group]

    @cached_property
    def _children(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.groups]
        for g, group in enumerate(self.groups):
            for parent, _ in group.parents:
                found[parent].append(g)
        return found

    def complete(self, orders: Mapping[int, Ids]) -> Orders:
        """Return orders of all groups: those not given follow their parents."""
        found: Orders = {}
        for g in self.top_down:
            found[g] = np.asarray(orders[g]) if g in orders else self.groups[g].carried(found)
        return found

    def random(self, generator: torch.Generator) -> Orders:
        """Return orders drawn uniformly from those allowed."""
        found: Orders = {}
        for g in self.top_down:
            cells = self.groups[g].cells
            drawn = torch.stack([torch.randperm(cells.shape[1], generator=generator) for _ in cells]).numpy()
            moved = cells[self.groups[g].source_cells(found)]
            found[g] = np.empty(self.groups[g].size, np.int64)
            found[g][cells] = np.take_along_axis(moved, drawn, 1)
        return found


def permute_state(
    state: State, spec: PermutationSpec, orders: Mapping[int, Ids | Tensor]
) -> dict[str, Tensor]:
    """Return copies of the tensors with unit `orders[g][i]` of each group g moved to position i.

    Args:
        state: a state dict of the network that `spec` describes.
        spec: where the groups occur.
        orders: group -> a permutation `[size]`; missing groups follow their parents.
    """
    whole = spec.complete({g: np.asarray(order) for g, order in orders.items()})
    return {
        name: permute_tensor(value.detach(), spec.places.get(name, ()), whole).clone()
        for name, value in state.items()
    }


def permute_tensor(value: Tensor, places: Sequence[Place], orders: Mapping[int, Ids]) -> Tensor:
    """Reorder the units along the axes of one tensor; may return the tensor itself."""
    for place in places:
        if place.group.ndim == 1:
            index = place.index(orders)
            if not np.array_equal(index, np.arange(len(index))):
                value = value.index_select(place.dim, torch.from_numpy(index).to(value.device))
    for place in places:
        if place.group.ndim == 2:  # after the outputs have moved
            value = gather_inputs(value, place.index(orders))
    return value


def gather_inputs(weight: Tensor, index: Ids) -> Tensor:
    """Reorder the inputs of a grouped convolution's weight by its group of outputs."""
    rows = torch.from_numpy(index).to(weight.device).repeat_interleave(weight.shape[0] // len(index), 0)
    return weight.gather(1, rows.reshape(*rows.shape, *[1] * (weight.ndim - 2)).expand_as(weight))
