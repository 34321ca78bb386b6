"""Distances between a fork and its two siblings, and the angle at the fork, in total and per layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lmcbench.connect.arguments import as_state
from lmcbench.connect.blending import State, check_pair, layer_of, weight_names
from lmcbench.errors import UserError, unknown
from lmcbench.values import as_texts


@dataclass(frozen=True)
class Triangle:
    """The triangle fork, A, B in weight space; Euclidean distances in units of the weights.

    Attributes:
        distance_ab: |theta_A - theta_B|.
        distance_a: |theta_A - theta_fork|; None without a fork, like all fields below.
        distance_b: |theta_B - theta_fork|.
        angle: between the two displacements at the fork, radians in [0, pi]; None if one of them is 0.
        cosine: of that angle, in [-1, 1]; None if a displacement is 0.
    """

    distance_ab: float
    distance_a: float | None
    distance_b: float | None
    angle: float | None
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the values as in a record."""
        return asdict(self)


@dataclass(frozen=True)
class Geometry(Triangle):
    """The triangle over all weights, and in `layers` the one of each layer, in the state's order."""

    layers: Mapping[str, Triangle]


def geometry(
    state_fork: State | None, state_a: State, state_b: State, parameters: Iterable[str] | None = None
) -> Geometry:
    """Return distances and angle between two siblings and their fork, over all weights and per layer.

    With d_A = theta_A - theta_fork and d_B likewise, cos(angle) = <d_A, d_B> / (|d_A| |d_B|). Independent
    random displacements in P dimensions are at pi / 2, with a standard deviation of about 1 / sqrt(P). Sums
    are float64. A layer has the tensors of one module, weights and bias together; a tied weight counts under
    each of its names.

    Args:
        state_fork: state dict at the fork; None for independent networks, for which only `distance_ab` is
            defined.
        state_a: state dict of the first sibling.
        state_b: state dict of the second sibling.
        parameters: names of the tensors to include; by default all floating ones except running means and
            variances.

    Returns:
        Distances in units of the weights, the angle in radians, and the same for each layer.

    Raises:
        UserError: if the states are of different networks or not finite, or names are unknown, repeated,
            not floating or none.

    Examples:
        >>> import torch
        >>> fork, a, b = ({"weight": torch.tensor(w)} for w in ([0.0, 0.0], [3.0, 0.0], [0.0, 4.0]))
        >>> found = geometry(fork, a, b)
        >>> found.distance_ab, found.distance_a, found.distance_b, found.cosine
        (5.0, 3.0, 4.0, 0.0)
        >>> round(found.angle, 4)  # pi / 2
        1.5708
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
    return Geometry(**asdict(total), layers={name: _triangle(sums, forked) for name, sums in layers.items()})


def _sums(a: Tensor, b: Tensor, ab: Tensor) -> Tensor:
    """Return |ab|², |a|², |b|² and <a, b>, `[4]` float64."""
    return torch.stack([(ab * ab).sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()]).cpu()


def _triangle(sums: Tensor, forked: bool) -> Triangle:
    ab, a, b, product = sums.tolist()
    if not forked:
        return Triangle(math.sqrt(ab), None, None, None, None)
    sides = math.sqrt(a) * math.sqrt(b)
    if sides == 0:
        return Triangle(math.sqrt(ab), math.sqrt(a), math.sqrt(b), None, None)
    # equal siblings have angle 0 exactly, where rounding would give 1e-8
    cosine = 1.0 if ab == 0 else min(1.0, max(-1.0, product / sides))
    return Triangle(math.sqrt(ab), math.sqrt(a), math.sqrt(b), math.acos(cosine), cosine)


def _checked(state: State, parameters: Iterable[str]) -> list[str]:
    names = as_texts(parameters, "geometry: parameters")
    for name in names:
        if name not in state:
            raise unknown("parameter", name, state)
        if not state[name].is_floating_point():
            raise UserError(f"geometry: {name!r} is {state[name].dtype}, not floating.")
        if names.count(name) > 1:
            raise UserError(f"geometry: {name!r} is named twice.")
    return names
