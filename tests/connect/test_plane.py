"""The plane of three states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmcbench.connect.blending import interpolate
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.plane import _coefficients, _states, plane
from lmcbench.errors import UserError


def three(nets, name):
    return nets.build(name, 9).state_dict(), nets.train(name, 0), nets.train(name, 1)


def test_coordinates_are_weight_distances(nets) -> None:
    fork, a, b = three(nets, "mlp")
    got = plane(nets.build("mlp"), fork, a, b, nets.images(10), 4, margin=0.5)
    triangle = geometry(fork, a, b)
    sides = [np.linalg.norm(got.anchors[i] - got.anchors[j]) for i, j in ((1, 2), (0, 1), (0, 2))]
    expected = (triangle.distance_ab, triangle.distance_a, triangle.distance_b)
    np.testing.assert_allclose(sides, expected, rtol=1e-12)
    span = np.ptp(got.anchors, axis=0)
    np.testing.assert_allclose([np.ptp(got.x), np.ptp(got.y)], 2 * span, rtol=1e-12)
    assert got.loss.shape == got.error.shape == (4, 4)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_points_are_the_states_at_their_coordinates(nets, name, calibrated) -> None:
    """Without margin A, B and the fork are on the grid's edge; compare with the naive computation there."""
    fork, a, b = three(nets, name)
    model, split = nets.build(name), nets.images(20)
    x = nets.images(30, 5)[0] if calibrated else None
    got = plane(model, fork, a, b, split, 3, x, margin=0)
    assert got.y[0] == 0.0
    assert got.anchors[2, 1] == got.y[-1]
    row = trace_path(model, fork, a, {"s": split}, 3, x, ends="recalibrated")["s"]
    assert (got.x[0], got.x[-1]) == (0.0, got.anchors[1, 0])  # B projects between the fork and A
    np.testing.assert_allclose(got.loss[0], row.loss, rtol=0, atol=1e-10)
    assert np.array_equal(got.error[0], row.error)


def test_anchors_and_midpoints_are_reached(nets) -> None:
    fork, a, b = three(nets, "resnet")
    anchors = plane(nets.build("resnet"), fork, a, b, nets.images(8), 2, nets.images(8)[0]).anchors
    points = np.concatenate([anchors, (anchors[1:2] + anchors[2:]) / 2])
    states = _states(fork, a, b, _coefficients(anchors, points))
    for i, state in enumerate((fork, a, b, interpolate(a, b, 0.5))):
        for name, value in state.items():
            if value.is_floating_point():
                torch.testing.assert_close(states[name][i], value, rtol=0, atol=1e-12)


def test_variances_stay_positive_outside_the_triangle(nets) -> None:
    fork, a, b = three(nets, "resnet")
    got = plane(nets.build("resnet"), fork, a, b, nets.images(8), 5, margin=2.0)
    assert np.isfinite(got.loss).all()
    states = _states(fork, a, b, np.array([[-3.0, 2.0], [5.0, 5.0], [-2.0, -2.0]]))
    assert min(v.min() for k, v in states.items() if k.endswith("running_var")) > 0


def test_refusals(nets) -> None:
    fork, a, b = three(nets, "mlp")
    model, split = nets.build("mlp"), nets.images(8)
    middle = interpolate(*({k: v.float() for k, v in s.items()} for s in (a, b)), 0.5)
    cases = [
        ((fork, fork, b), "A and the fork coincide"),
        ((fork, a, fork), "B and the fork coincide"),
        ((fork, a, a), "A and B coincide"),
        (({k: v.double() for k, v in middle.items()}, a, b), "lie on one line"),
    ]
    for states, message in cases:
        with pytest.raises(UserError, match=message):
            plane(model, *states, split, 3)
    with pytest.raises(UserError, match="size must be a whole number of at least 2, found 1"):
        plane(model, fork, a, b, split, 1)
    with pytest.raises(UserError, match="is empty"):
        plane(model, fork, a, b, (split[0][:0], split[1][:0]), 3)


def test_a_plane_is_read_only(nets) -> None:
    found = plane(nets.build("mlp"), *three(nets, "mlp"), nets.images(8), 2)
    for name in ("x", "y", "loss", "error", "anchors"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 1
