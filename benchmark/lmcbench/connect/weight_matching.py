"""Permute the units of one network to match another's weights (Ainsworth et al., 2023, Git Re-Basin)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from lmcbench.connect.axis_labels import Ids
from lmcbench.connect.blending import State, weight_names
from lmcbench.connect.unit_groups import (
    Orders,
    PermutationSpec,
    Place,
    gather_inputs,
    permute_tensor,
)

Gain = npt.NDArray[np.float64]
"""Similarity of A's unit i with B's unit k, `[i, k]`."""

_SWEEPS = 100
"""Maximum number of sweeps over all groups, as in the authors' code; descent converges long before."""

_SINGLE = 5_000_000
"""From this number of weights on, products are computed in single precision."""

_CENTRED = 64
"""From this number of units on, means over rows and columns are subtracted from a gain. The best assignment
stays the best, and is found two to three times as fast (768 units of random networks)."""


def match_weights(spec: PermutationSpec, state_a: State, state_b: State) -> Orders:
    """Return the orders of B's units that make its weights most similar to A's."""
    matching = _Matching(spec, state_a, state_b)
    found = [matching.descend(start) for start in (spec.complete({}), matching.forward())]
    return max(found, key=matching.similarity)


def descend_weights(spec: PermutationSpec, state_a: State, state_b: State, start: Orders) -> Orders:
    """Return the orders that coordinate descent from `start` ends in."""
    return _Matching(spec, state_a, state_b).descend(spec.complete(start))


def match_activations(spec: PermutationSpec, gains: Mapping[int, Gain]) -> Orders:
    """Return the orders with the largest correlations; groups without any follow their parents."""
    orders: Orders = {}
    for group in spec.top_down:
        if group not in orders:
            orders |= assign(spec, group, orders, lambda g: gains.get(g))
    return orders


def assign(
    spec: PermutationSpec, group: int, orders: Mapping[int, Ids], gain: Callable[[int], Gain | None]
) -> Orders:
    """Return the best order of a group and of those whose units move with it.

    Args:
        spec: the groups.
        group: the group, whose parents are among `orders`.
        orders: orders of other groups.
        gain: similarity of the units of a group; None where unknown.
    """
    values = _values(spec, group, orders, gain)
    return _descend_tree(spec, group, {**orders}, values)


def _values(
    spec: PermutationSpec, group: int, orders: Mapping[int, Ids], gain: Callable[[int], Gain | None]
) -> dict[int, Gain | None]:
    """Return the gain of a group, with the best gain of the units that move with it, for all below."""
    found: dict[int, Gain | None] = {}
    total = gain(group)
    total = None if total is None else total.copy()
    for child in spec.children(group):
        below = spec.groups[child]
        if len(below.parents) > 1 and any(p != group and p not in orders for p, _ in below.parents):
            continue
        found |= _values(spec, child, orders, gain)
        value = found[child]
        if value is None:
            continue
        total = np.zeros((spec.groups[group].size,) * 2) if total is None else total
        position = [p for p, _ in below.parents].index(group)
        of_unit = np.argsort(below.cell_keys[position], kind="stable").reshape(len(total), -1)
        sources = below.source_cells({**orders, group: np.arange(len(total))})
        for mine in of_unit.T:
            total += _best_blocks(value, below.cells[mine], below.cells[sources[mine]])
    found[group] = total
    return found


def _best_blocks(value: Gain, cells_a: Ids, cells_b: Ids) -> Gain:
    """Return the largest gain of assigning the units of a cell of A to those of one of B, for all pairs.

    Args:
        value: gain of the units, `[A's, B's]`.
        cells_a: units of A by cell, `[cells, units per cell]`.
        cells_b: units of B by cell.
    """
    n, m = cells_a.shape
    blocks = value[cells_a[:, None, :, None], cells_b[None, :, None, :]]
    if m == 1:
        return np.asarray(blocks[:, :, 0, 0])
    return np.array([[block[_best(block)].sum() for block in row] for row in blocks]).reshape(n, n)


def _descend_tree(
    spec: PermutationSpec, group: int, orders: Orders, values: Mapping[int, Gain | None]
) -> Orders:
    made: Orders = {}
    own = spec.groups[group]
    value = values.get(group)
    order = own.carried(orders)
    if value is not None and own.is_free:
        for cell, other in zip(own.cells, own.cells[own.source_cells(orders)], strict=True):
            order[cell] = other[_best(value[np.ix_(cell, other)])[1]]
    made[group] = orders[group] = order
    for child in spec.children(group):
        if all(p in orders for p, _ in spec.groups[child].parents):
            made |= _descend_tree(spec, child, orders, values)
    return made


def _best(gain: Gain) -> tuple[Ids, Ids]:
    """Return the assignment with the largest total gain."""
    from scipy.optimize import linear_sum_assignment  # 22 MiB, which few workers need

    if len(gain) >= _CENTRED:
        gain = gain - gain.mean(axis=0)
        gain -= gain.mean(axis=1, keepdims=True)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return np.asarray(rows), np.asarray(columns, np.int64)


class _Matching:
    """Maximise the similarity of A and permuted B: the sum over weights of <A, permuted B>."""

    def __init__(self, spec: PermutationSpec, state_a: State, state_b: State) -> None:
        self.spec = spec
        self.names = [name for name in weight_names(state_a) if name in spec.places]
        self.a = {name: state_a[name].detach().cpu() for name in self.names}
        self.b = {name: state_b[name].detach().cpu() for name in self.names}
        single = sum(value.numel() for value in self.a.values()) > _SINGLE
        self.dtype = torch.float32 if single else torch.float64
        self.places: dict[int, list[tuple[str, Place]]] = {g: [] for g in range(len(spec.groups))}
        self.on: dict[str, set[int]] = {}
        for name in self.names:
            for place in spec.places[name]:
                for g in np.unique(place.group[place.group >= 0]).tolist():
                    self.places[g].append((name, place))
                    self.on.setdefault(name, set()).add(g)
        self.trees = [g for g in spec.top_down if not spec.groups[g].parents]
        self.trees.sort(key=lambda g: min(self._tree(g)))  # from input to output
        self.inner = [g for g in spec.top_down if spec.groups[g].parents and spec.groups[g].is_free]

    def forward(self) -> Orders:
        """Match each group by the weights whose other groups are already matched, from input to output."""
        orders: Orders = {}
        waiting = list(self.trees)

        def known(group: int) -> Gain | None:
            places = [
                (name, place)
                for name, place in self.places[group]
                if all(
                    other == group or other in orders or self._shares_tree(other, group)
                    for other in self._others(name, place)
                )
            ]
            return self._gain(group, places, self.spec.complete(orders)) if places else None

        while waiting:
            g = next((g for g in waiting if self._is_known(g, orders)), waiting[0])
            orders |= assign(self.spec, g, orders, known)
            waiting.remove(g)
        orders = self.spec.complete(orders)
        # inputs of grouped convolutions were unknown when their outputs were matched
        for g in self.inner:
            orders |= self._proposed(g, orders)
        return self.spec.complete(orders)

    def descend(self, orders: Mapping[int, Ids]) -> Orders:
        """Reassign one group after another until the similarity stops growing."""
        orders = dict(orders)
        stamps: dict[int, int] = {}
        changes = dict.fromkeys(orders, 0)
        products: dict[str, float] = {}  # of the orders so far
        now = 0
        for _ in range(_SWEEPS):
            changed = False
            for g in [*self.trees, *self.inner]:
                near = self._near(g)
                if g in stamps and all(changes[other] <= stamps[g] for other in near):
                    continue
                now += 1
                stamps[g] = now
                proposed = {**orders, **self._proposed(g, orders)}
                moved = [h for h in proposed if not np.array_equal(proposed[h], orders[h])]
                if not moved:
                    continue
                names = list(dict.fromkeys(name for h in moved for name, _ in self.places[h]))
                products |= self._products(orders, [name for name in names if name not in products])
                proposals = self._products(proposed, names)
                before, after = sum(products[name] for name in names), sum(proposals.values())
                # the assignment is not exact if a group is on both axes of a weight
                if after > before + 1e-12 * abs(before):
                    orders, changed = proposed, True
                    products |= proposals
                    for h in moved:
                        changes[h] = now
                    if any(self._is_double(h) for h in moved):
                        del stamps[g]  # its own order changes its gain
            if not changed:
                break
        return orders

    def similarity(self, orders: Mapping[int, Ids]) -> float:
        """Return the sum of <A, permuted B> over all weights, in float64."""
        return sum(self._products(orders, self.names).values())

    def _products(self, orders: Mapping[int, Ids], names: Sequence[str]) -> dict[str, float]:
        """Return <A, permuted B> of each weight, in float64."""
        found = {}
        for name in names:
            a, b = self.a[name], permute_tensor(self.b[name], self.spec.places[name], orders)
            a, b = a.to(self.dtype), b.to(self.dtype)
            found[name] = float((a * b).sum(dtype=torch.float64))
        return found

    def _proposed(self, group: int, orders: Mapping[int, Ids]) -> Orders:
        below = self._tree(group)
        rest = {g: order for g, order in orders.items() if g not in below}
        return assign(
            self.spec,
            group,
            rest,
            lambda g: self._gain(g, self.places[g], orders) if self.places[g] else None,
        )

    def _tree(self, group: int) -> set[int]:
        found = {group}
        for child in self.spec.children(group):
            found |= self._tree(child)
        return found

    def _near(self, group: int) -> set[int]:
        """Return the groups that share a weight with a group or with what moves with it."""
        below = self._tree(group)
        return {h for g in below for name, _ in self.places[g] for h in self.on[name]} | below

    def _is_double(self, group: int) -> bool:
        return any(
            sum((place.group == group).any() for place in self.spec.places[name]) > 1
            for name, _ in self.places[group]
        )

    def _is_known(self, group: int, orders: Orders) -> bool:
        """Return whether a group, or one that moves with it, is on a weight with no other unknown group."""
        tree = self._tree(group)
        return any(
            all(other in tree or other in orders for other in self._others(name, place))
            for g in tree
            for name, place in self.places[g]
        )

    def _shares_tree(self, other: int, group: int) -> bool:
        """Return whether one of two groups is the other's parent."""
        return any(p == other for p, _ in self.spec.groups[group].parents) or any(
            p == group for p, _ in self.spec.groups[other].parents
        )

    def _others(self, name: str, place: Place) -> set[int]:
        """Return the groups on the other axes of a weight."""
        return {
            int(g)
            for other in self.spec.places[name]
            if other is not place
            for g in np.unique(other.group[other.group >= 0])
        }

    def _gain(self, group: int, places: list[tuple[str, Place]], orders: Mapping[int, Ids]) -> Gain:
        size = self.spec.groups[group].size
        gain = torch.zeros(size, size, dtype=self.dtype)
        for name, place in places:
            pair = self._columns(group, name, place, orders)
            if pair is not None:
                gain.addmm_(pair[0], pair[1].T)
        return gain.double().numpy()

    def _columns(
        self, group: int, name: str, place: Place, orders: Mapping[int, Ids]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the weights at a group's units in A and in B, `[units, weights per unit]`.

        The other axes of B are in their orders. None if B's units have another number of weights there.
        """
        size = self.spec.groups[group].size
        rest = [other for other in self.spec.places[name] if other is not place]
        a, b = self.a[name].to(self.dtype), self.b[name].to(self.dtype)
        if place.group.ndim == 1:
            b = permute_tensor(b, [other for other in rest if other.group.ndim == 1], orders)
            for other in rest:
                if other.group.ndim == 2:  # in the places from which the outputs come
                    b = gather_inputs(b, other.index(orders)[np.argsort(other.source_rows(orders))])
            rows = torch.from_numpy(_by_unit(place, group).ravel())
            x, y = (v.index_select(place.dim, rows).movedim(place.dim, 0) for v in (a, b))
            return x.reshape(size, -1), y.reshape(size, -1)
        b = permute_tensor(b, rest, orders)
        count = len(place.group)
        blocks = [v.reshape(count, v.shape[0] // count, v.shape[1], -1).transpose(1, 2) for v in (a, b)]
        sources = place.source_rows(orders)
        parts = []
        for v, origin in zip(blocks, (np.arange(count), sources), strict=True):
            at = np.argwhere(place.group[origin] == group)
            unit = place.unit[origin][at[:, 0], at[:, 1]]
            at = at[np.lexsort((place.part[origin][at[:, 0], at[:, 1]], unit))]
            parts.append(v[at[:, 0], at[:, 1]].reshape(size, -1))
        return (parts[0], parts[1]) if parts[0].shape == parts[1].shape else None


def _by_unit(place: Place, group: int) -> Ids:
    """Return the indices along an axis by unit and part, `[units, parts]`."""
    at = np.flatnonzero(place.group == group)
    at = at[np.lexsort((place.part[at], place.unit[at]))]
    return at.reshape(len(np.unique(place.unit[at])), -1)
