"""Permute the units of one network to match another's weights (Ainsworth et al., 2023, Git Re-Basin)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import as_model, as_state
from lmcbench.connect.blending import State, check_matches_model, check_pair, weight_names
from lmcbench.connect.permutation_spec import trace_permutations
from lmcbench.connect.unit_groups import PermutationSpec, entries_per_unit, permute_state, permute_tensor

Orders = dict[int, Tensor]
"""Group -> index of B's unit at each of A's positions, `[size]` int64."""

_SWEEPS = 100
"""Maximum number of sweeps over all groups, as in the authors' code; descent converges long before."""


def align(model: nn.Module, state_a: State, state_b: State) -> dict[str, Tensor]:
    """Return `state_b` with its units permuted so that its weights are close to A's.

    Weight matching of Ainsworth et al. (2023, Git Re-Basin, arXiv 2209.04836, algorithm 1): maximise the
    inner product of A's weights and B's permuted ones by coordinate descent over the groups of units that
    must be permuted together, one linear assignment each, in a fixed order from input to output. The better
    result of two starts is kept: B as it is (so the distance never grows), and a forward pass that matches
    each group by weights from groups matched before, which recovers a permuted copy at once.

    Args:
        model: the network of both states; not modified.
        state_a: state dict to match.
        state_b: state dict to permute.

    Returns:
        A state dict of copies that computes the same function as `state_b`; tied weights stay tied.

    Raises:
        UserError: if the states are of different networks or not finite, the network cannot be traced by
            torch.fx, or it has an operation whose effect on units is unknown (see `trace_permutations`).

    Examples:
        >>> import torch
        >>> Linear = torch.nn.Linear
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), Linear(4, 6), torch.nn.ReLU(), Linear(6, 3))
        >>> a = model.state_dict()
        >>> b = {**a, "1.weight": a["1.weight"].flip(0), "1.bias": a["1.bias"].flip(0),
        ...      "3.weight": a["3.weight"].flip(1)}
        >>> aligned = align(model, a, b)
        >>> all(torch.equal(aligned[name], a[name]) for name in a)
        True
    """
    model = as_model(model)
    state_a, state_b = as_state(state_a, "state_a", model), as_state(state_b, "state_b", model)
    check_pair(state_a, state_b)
    check_matches_model(model, state_a)
    spec = trace_permutations(model)
    matching = _Matching(spec, state_a, state_b)
    as_is = {group: torch.arange(spec.sizes[group]) for group in spec.free}
    found = [matching.descend(start) for start in (as_is, matching.forward())]
    return permute_state(state_b, spec, max(found, key=matching.similarity))


class _Matching:
    """Maximise the similarity of A and permuted B: the sum over weights of <A, permuted B>."""

    def __init__(self, spec: PermutationSpec, state_a: State, state_b: State) -> None:
        self.spec = spec
        free = set(spec.free)
        self.names = [
            name
            for name in weight_names(state_a)
            if any(axis and free & set(axis) for axis in spec.axes.get(name, ()))
        ]
        self.a = {name: state_a[name].detach().cpu() for name in self.names}
        self.b = {name: state_b[name].detach().cpu() for name in self.names}
        self.places: dict[int, list[tuple[str, int]]] = {group: [] for group in spec.free}
        for name in self.names:
            for dim, axis in enumerate(spec.axes[name]):
                for group in dict.fromkeys(axis or ()):
                    if group in free:
                        self.places[group].append((name, dim))

    def forward(self) -> Orders:
        """Match each group by the weights whose other groups are already matched, from input to output."""
        orders: Orders = {}
        free = set(self.spec.free)
        for group in self.spec.free:
            known = [
                (name, dim)
                for name, dim in self.places[group]
                if all(
                    other == dim or not axis or (free & set(axis)) <= orders.keys()
                    for other, axis in enumerate(self.spec.axes[name])
                )
            ]
            orders[group] = _assign(self._gain(group, known, orders))
        return orders

    def descend(self, orders: Mapping[int, Tensor]) -> Orders:
        """Reassign one group after another until the similarity stops growing."""
        orders = dict(orders)
        for _ in range(_SWEEPS):
            changed = False
            for group in self.spec.free:
                proposed = {**orders, group: _assign(self._gain(group, self.places[group], orders))}
                if torch.equal(proposed[group], orders[group]):
                    continue
                names = list(dict.fromkeys(name for name, _ in self.places[group]))
                before, after = self.similarity(orders, names), self.similarity(proposed, names)
                # the assignment is not exact if a group is on both axes of a weight
                if after > before + 1e-12 * abs(before):
                    orders, changed = proposed, True
            if not changed:
                break
        return orders

    def similarity(self, orders: Mapping[int, Tensor], names: list[str] | None = None) -> float:
        """Return the sum of <A, permuted B> over the named weights (default: all), in float64."""
        names = self.names if names is None else names
        return sum(
            float((self.a[name].double() * self._permuted(name, orders).double()).sum()) for name in names
        )

    def _gain(self, group: int, places: list[tuple[str, int]], orders: Mapping[int, Tensor]) -> Tensor:
        """Return the similarity of B's unit k with A's unit i, `[i, k]` float64, under the other orders."""
        size = self.spec.sizes[group]
        gain = torch.zeros(size, size, dtype=torch.float64)
        for name, dim in places:
            axes = list(self.spec.axes[name])
            axis, axes[dim] = axes[dim], None
            a = self.a[name].movedim(dim, 0).double()
            b = permute_tensor(self.b[name], axes, self.spec.sizes, orders).movedim(dim, 0).double()
            assert axis is not None
            block = entries_per_unit(len(a), axis, self.spec.sizes)
            start = 0
            for segment in axis:
                length = self.spec.sizes[segment] * block
                if segment == group:
                    rows = slice(start, start + length)
                    gain += a[rows].reshape(size, -1) @ b[rows].reshape(size, -1).T
                start += length
        return gain

    def _permuted(self, name: str, orders: Mapping[int, Tensor]) -> Tensor:
        return permute_tensor(self.b[name], self.spec.axes[name], self.spec.sizes, orders)


def _assign(gain: Tensor) -> Tensor:
    """Return the permutation with the largest total gain."""
    from scipy.optimize import linear_sum_assignment  # 22 MiB, which few workers need

    _, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    return torch.from_numpy(np.asarray(columns, dtype=np.int64))
