"""Loss and error on the plane through a fork and two siblings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lmcbench.connect.arguments import (
    CalibrationLike,
    SplitLike,
    as_model,
    as_split,
    as_state,
)
from lmcbench.connect.blending import STATISTICS, Stack, State, unstack
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import Scores, chunk_points, score_states
from lmcbench.connect.network import Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Array
from lmcbench.values import as_integer, as_number

_FLAT = 1e-4
"""Smallest angle in radians at which fp32 weights span a plane. Their rounding error is 6e-8 of the weights,
and displacements are often a hundredth of the weights."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A square grid over the plane of three states; distances are Euclidean, in units of the weights.

    The origin is the fork, the first axis points to A, the second is orthogonal to it and points to B's side.
    Arrays are float64 and read-only.

    Attributes:
        x: coordinates along the first axis, `[size]`.
        y: along the second, `[size]`.
        loss: mean cross-entropy in nats, `[size, size]`; `loss[j, i]` is at `(x[i], y[j])`.
        error: fraction misclassified, likewise.
        anchors: coordinates of fork, A and B, `[3, 2]`.
    """

    x: Array
    y: Array
    loss: Array
    error: Array
    anchors: Array

    def __post_init__(self) -> None:
        for values in (self.x, self.y, self.loss, self.error, self.anchors):
            values.flags.writeable = False


def plane(
    model: nn.Module,
    state_fork: State,
    state_a: State,
    state_b: State,
    split: SplitLike,
    size: int = 25,
    calibration: CalibrationLike | None = None,
    *,
    margin: float = 0.25,
    batch_size: int = 1000,
    device: str | torch.device | None = None,
) -> Plane:
    """Return loss (nats) and error (fraction) on a grid in the plane through the fork, A and B.

    The plane through three weight vectors of Garipov et al. (2018, arXiv 1802.10026, figure 1): axes by
    Gram-Schmidt from A - fork and B - fork. Without `calibration`, running statistics are mixed by the
    point's barycentric coordinates, clipped at 0, because variances could become negative outside the
    triangle.

    Args:
        model: any classifier; not modified.
        state_fork: state dict at the fork.
        state_a: state dict of the first sibling.
        state_b: state dict of the second sibling.
        split: images `[n, c, h, w]` floating and labels `[n]` of any integer type.
        size: grid points per side, at least 2.
        calibration: floating images `[m, c, h, w]` on which BatchNorm statistics are recalibrated at every
            point.
        margin: width added on every side, as a fraction of the three states' extent along that axis.
        batch_size: images per forward pass.
        device: where to compute; the model's own by default.

    Returns:
        Coordinates `[size]`, loss and error `[size, size]`, and the coordinates of fork, A and B `[3, 2]`.

    Raises:
        UserError: if the states are of different networks, not finite or span no plane, if the split or
            calibration is invalid, if size is below 2 or margin below 0.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> fork, a, b = ({"weight": torch.tensor(w)} for w in (
        ...     [[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]))
        >>> found = plane(model, fork, a, b, (torch.eye(2), torch.tensor([0, 1])), size=3, margin=0)
        >>> found.x.tolist(), found.y.tolist(), found.loss.shape
        ([0.0, 1.5, 3.0], [0.0, 2.0, 4.0], (3, 3))
        >>> round(found.loss[0, 0].item(), 4)  # at the fork: ln 2
        0.6931
    """
    size = as_integer(size, "plane: size", 2)
    margin = as_number(margin, "plane: margin", least=0)
    model = as_model(model)
    named = {"state_fork": state_fork, "state_a": state_a, "state_b": state_b}
    checked = [as_state(state, argument, model) for argument, state in named.items()]
    images, labels = as_split("split", split)
    anchors = _anchors(*checked)
    network = Network(model, device, batch_size)
    network.stacked = network.device.type == "cuda"
    fork, a, b = unstack(network.prepare(checked))
    network.check_accepts(fork, images, "Split 'split'")
    calibration = network.calibration(fork, calibration)
    low, high = anchors.min(0), anchors.max(0)
    pad = margin * (high - low)
    x, y = np.linspace(low - pad, high + pad, size).T
    loss, error = np.empty((size, size)), np.empty((size, size))
    for j in range(size):
        parts = []
        for along in chunk_points(x, fork):
            points = np.stack([along, np.full(len(along), y[j])], 1)
            states = _states(fork, a, b, _coefficients(anchors, points))
            if calibration is not None:
                states = network.recalibrate(states, calibration)
            parts.append(score_states(network, states, images, labels, name="split"))
            del states  # frees their memory before the next chunk is created
        row = Scores.join(*parts)
        loss[j], error[j] = row.loss.mean(1).numpy(), row.wrong.double().mean(1).numpy()
    return Plane(x, y, loss, error, anchors)


def _anchors(fork: State, a: State, b: State) -> Array:
    """Return the states' coordinates in the Gram-Schmidt basis of A - fork and B - fork, `[3, 2]`."""
    triangle = geometry(fork, a, b)
    assert triangle.distance_a is not None
    assert triangle.distance_b is not None
    for which, distance in (("A and the fork", triangle.distance_a), ("B and the fork", triangle.distance_b)):
        if distance == 0:
            raise UserError(f"The states span no plane: {which} coincide.")
    if triangle.distance_ab == 0:
        raise UserError("The states span no plane: A and B coincide.")
    angle = triangle.angle
    if angle is None or min(angle, np.pi - angle) < _FLAT:
        raise UserError("The states span no plane: fork, A and B lie on one line.")
    b_at = triangle.distance_b * np.array([np.cos(angle), np.sin(angle)])
    return np.array([[0.0, 0.0], [triangle.distance_a, 0.0], b_at])


def _coefficients(anchors: Array, points: Array) -> Array:
    """Return the coefficients of A - fork and B - fork for each point, `[S, 2]`; exact at the anchors."""
    along_b = points[:, 1] / anchors[2, 1]
    along_a = (points[:, 0] - along_b * anchors[2, 0]) / anchors[1, 0]
    return np.stack([along_a, along_b], 1)


def _states(fork: State, a: State, b: State, coefficients: Array) -> Stack:
    """Return fork + p (A - fork) + q (B - fork); statistics by clipped barycentric coordinates."""
    shares = np.concatenate([1 - coefficients.sum(1, keepdims=True), coefficients], 1).clip(0)
    shares /= shares.sum(1, keepdims=True)
    stacked = {}
    for name, origin in fork.items():
        if not origin.is_floating_point():
            stacked[name] = origin.expand(len(coefficients), *origin.shape)
            continue
        p, q = shares[:, 1:].T if name.rpartition(".")[2] in STATISTICS else coefficients.T
        weights = [torch.as_tensor(w).to(origin).view(-1, *[1] * origin.ndim) for w in (p, q)]
        stacked[name] = origin + weights[0] * (a[name] - origin) + weights[1] * (b[name] - origin)
    return stacked
