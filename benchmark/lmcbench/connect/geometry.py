"""Distances and the angle between two siblings as seen from their fork, over all weights and per layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmcbench.connect.arguments import as_state
from lmcbench.connect.blending import State, check_pair, layer_of, weight_names
from lmcbench.errors import UserError, unknown


@dataclass(frozen=True)
class Triangle:
    """The triangle fork, A, B in weight space; distances are Euclidean, in units of the weights.

    Attributes:
        distance_ab: |theta_A - theta_B|.
        distance_a: |theta_A - theta_fork|; None without a fork, like all that follows.
        distance_b: |theta_B - theta_fork|.
        angle: between the two displacements at the fork, radians in [0, pi]; None where one is 0.
        cosine: of that angle, in [-1, 1]; None where one is 0.
    """

    distance_ab: float
    distance_a: float | None
    distance_b: float | None
    angle: float | None
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record, full precision."""
        return {
            "distance_ab": self.distance_ab,
            "distance_a": self.distance_a,
            "distance_b": self.distance_b,
            "angle": self.angle,
            "cosine": self.cosine,
        }


@dataclass(frozen=True)
class Geometry(Triangle):
    """The triangle over all weights, with `layers`: the same within each layer, in the state's order."""

    layers: Mapping[str, Triangle]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record: the fields of the triangle, `layers` by name."""
        return {**super().to_json(), "layers": {name: layer.to_json() for name, layer in self.layers.items()}}


def geometry(
    state_fork: State | None, state_a: State, state_b: State, parameters: Iterable[str] | None = None
) -> Geometry:
    """Distances (Euclidean, in units of the weights) and angle (radians) of two siblings at their fork.

    Sums are float64. A layer is the tensors of one module (weights and bias together, see
    `state.layer_of`). A weight that is tied to another counts under each of its names. Independent
    displacements in P dimensions stand at pi / 2, give or take 1 / sqrt(P).

    Args:
        state_fork: state dict at the fork; None for independent networks, of which only the distance
            between them is known.
        state_a: state dict of the first sibling.
        state_b: state dict of the second.
        parameters: names of the tensors to count; all floating ones but running means and
            variances by default.

    Raises:
        UserError: for states of different networks or with NaN, and names that are unknown, repeated,
            not floating or none at all.
    """
    state_a, state_b = as_state(state_a, "state_a"), as_state(state_b, "state_b")
    origin = state_a if state_fork is None else as_state(state_fork, "state_fork")
    check_pair(origin, state_a, ("fork", "A"))
    check_pair(state_a, state_b)
    names = weight_names(origin) if parameters is None else _checked(origin, parameters)
    if not names:
        raise UserError("geometry: there are no weights to compare.")
    layers: dict[str, Tensor] = {}
    for name in names:
        where = origin[name].device
        fork, a, b = (state[name].detach().to(where).double() for state in (origin, state_a, state_b))
        layer = layer_of(name)
        layers[layer] = layers.get(layer, torch.zeros(4, dtype=torch.float64)) + _sums(
            a - fork, b - fork, a - b
        )
    forked = state_fork is not None
    total = _triangle(torch.stack(list(layers.values())).sum(0), forked)
    return Geometry(
        **total.to_json(), layers={name: _triangle(sums, forked) for name, sums in layers.items()}
    )


def _sums(a: Tensor, b: Tensor, ab: Tensor) -> Tensor:
    """Squared lengths of three displacements, and the product of the first two: `[4]` float64."""
    return torch.stack([(ab * ab).sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()]).cpu()


def _triangle(sums: Tensor, forked: bool) -> Triangle:
    ab, a, b, product = sums.tolist()
    if not forked:
        return Triangle(math.sqrt(ab), None, None, None, None)
    sides = math.sqrt(a) * math.sqrt(b)
    if sides == 0:
        return Triangle(math.sqrt(ab), math.sqrt(a), math.sqrt(b), None, None)
    # siblings that are equal have exactly one direction, which rounding would turn by 1e-8
    cosine = 1.0 if ab == 0 else min(1.0, max(-1.0, product / sides))
    return Triangle(math.sqrt(ab), math.sqrt(a), math.sqrt(b), math.acos(cosine), cosine)


def _checked(state: State, parameters: Iterable[str]) -> list[str]:
    if isinstance(parameters, str):
        raise UserError(f"geometry: parameters must be a list of names, found the string {parameters!r}.")
    names = list(parameters)
    for name in names:
        if name not in state:
            raise unknown("parameter", name, state)
        if not state[name].is_floating_point():
            raise UserError(f"geometry: {name!r} is {state[name].dtype}, not floating.")
        if names.count(name) > 1:
            raise UserError(f"geometry: {name!r} is named twice.")
    return names
