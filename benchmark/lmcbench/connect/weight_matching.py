"""One network's units permuted to match another's by their weights: Git Re-Basin's weight matching [G]."""

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
"""Group -> which of B's units goes to each of A's places, `[size]` int64."""

_SWEEPS = 100
"""[G]'s own limit; descent ends by itself long before."""


def align(model: nn.Module, state_a: State, state_b: State) -> dict[str, Tensor]:
    """`state_b` with its units permuted so that its weights are as near to A's as can be found.

    Weight matching (Ainsworth et al., arXiv 2209.04836, algorithm 1): coordinate descent over the groups
    of units that the network permutes together, one linear assignment each, from input to output until
    nothing changes. Two
    starts, the better result is kept: B as it is (hence never further from A than B), and a forward
    pass that matches each group by the weights from groups matched before, which finds a permuted
    copy at once. Between unrelated networks the second mostly ends nearer, not always. Nothing is drawn
    at random.

    Args:
        model: the network of both states; it stays as it is.
        state_a: the state to be matched.
        state_b: the state to be permuted.

    Returns:
        A state dict of copies that computes the same function as `state_b`; weights that the network
        shares stay shared.

    Raises:
        UserError: for states of different networks or with NaN, and where the network cannot be traced or an
            operation's effect on units is not known (see `trace_permutations`).
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
    """The similarity of A and permuted B, sum over weights of <A, B permuted>, and its ascent."""

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
        """Each group matched by those weights whose other groups have been matched before."""
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
        """Group after group reassigned while that raises the similarity."""
        orders = dict(orders)
        for _ in range(_SWEEPS):
            changed = False
            for group in self.spec.free:
                proposed = {**orders, group: _assign(self._gain(group, self.places[group], orders))}
                if torch.equal(proposed[group], orders[group]):
                    continue
                names = list(dict.fromkeys(name for name, _ in self.places[group]))
                before, after = self.similarity(orders, names), self.similarity(proposed, names)
                # where a group is on both axes of a weight the assignment is not exact: ask
                if after > before + 1e-12 * abs(before):
                    orders, changed = proposed, True
            if not changed:
                break
        return orders

    def similarity(self, orders: Mapping[int, Tensor], names: list[str] | None = None) -> float:
        """Sum over the named weights (all) of <A, B permuted>, in float64."""
        names = self.names if names is None else names
        return sum(
            float((self.a[name].double() * self._permuted(name, orders).double()).sum()) for name in names
        )

    def _gain(self, group: int, places: list[tuple[str, int]], orders: Mapping[int, Tensor]) -> Tensor:
        """Similarity gained by putting B's unit k at A's place i, `[i, k]` float64; other groups permuted."""
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
    """The permutation of greatest total gain."""
    from scipy.optimize import linear_sum_assignment  # 22 MiB in every worker, of which few align anything

    _, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    return torch.from_numpy(np.asarray(columns, dtype=np.int64))
