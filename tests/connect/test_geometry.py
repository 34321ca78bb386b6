"""Distances and angles at the fork: oracle 15."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.connect.geometry import geometry
from lmcbench.errors import UserError


def flat(**values: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_a_right_angle_by_hand() -> None:
    got = geometry(flat(w=[0, 0]), flat(w=[3, 0]), flat(w=[0, 4]))
    assert (got.distance_ab, got.distance_a, got.distance_b) == (5.0, 3.0, 4.0)
    assert got.cosine == 0.0
    assert got.angle == math.pi / 2


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_law_of_cosines_in_every_layer(seed, scale) -> None:
    generator = torch.Generator().manual_seed(seed)
    fork, a, b = (
        {n: scale * torch.randn(7, generator=generator) for n in ("root", "x.weight", "x.bias", "y.z.weight")}
        for _ in range(3)
    )
    got = geometry(fork, a, b)
    assert list(got.layers) == ["root", "x", "y.z"]
    for part in (got, *got.layers.values()):
        right = part.distance_a**2 + part.distance_b**2
        right -= 2 * part.distance_a * part.distance_b * math.cos(part.angle)
        assert part.distance_ab**2 == pytest.approx(right, rel=1e-10)
    for side in ("distance_ab", "distance_a", "distance_b"):
        whole = sum(getattr(layer, side) ** 2 for layer in got.layers.values())
        assert getattr(got, side) ** 2 == pytest.approx(whole, rel=1e-12)


def test_independent_displacements_are_orthogonal() -> None:
    """90 degrees +- 57.3 * 4 / sqrt(P), and the sums do not lose fp32 digits."""
    generator = torch.Generator().manual_seed(0)
    fork, a, b = ({"w": torch.randn(100_000, generator=generator)} for _ in range(3))
    a, b = ({"w": fork["w"] + state["w"]} for state in (a, b))
    assert math.degrees(geometry(fork, a, b).angle) == pytest.approx(90, abs=57.3 * 4 / math.sqrt(100_000))


def test_no_angle_where_a_sibling_has_not_moved() -> None:
    fork, b = flat(w=[1, 2], v=[0]), flat(w=[1, 5], v=[1])
    got = geometry(fork, fork, b)
    assert (got.distance_a, got.angle, got.cosine) == (0.0, None, None)
    same = geometry(b, b, b)
    assert (same.distance_ab, same.angle) == (0.0, None)
    one = geometry(fork, flat(w=[1, 3], v=[0]), b)
    assert one.layers["v"].cosine is None
    assert one.layers["w"].cosine == 1.0
    assert one.layers["w"].angle == 0.0


def test_statistics_and_counters_are_not_part_of_distances(nets) -> None:
    fork, a = nets.build("resnet").state_dict(), nets.train("resnet", 0)
    shifted = {k: v + 5 if "running" in k or "tracked" in k else v for k, v in a.items()}
    assert geometry(fork, a, shifted).distance_ab == 0.0
    only = geometry(fork, a, shifted, parameters=["norm.running_mean"])
    assert only.distance_ab == pytest.approx(5 * math.sqrt(6))
    assert list(only.layers) == ["norm"]


def test_record_form_is_plain() -> None:
    got = geometry(
        flat(**{"w": [0], "x.w": [1]}), flat(**{"w": [1], "x.w": [1]}), flat(**{"w": [2], "x.w": [2]})
    )
    again = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert again["layers"]["x"] == {
        "distance_ab": 1,
        "distance_a": 0,
        "distance_b": 1,
        "angle": None,
        "cosine": None,
    }
    assert again["cosine"] == pytest.approx(2 / math.sqrt(5))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["weight"], "Unknown parameter 'weight'. Did you mean 'x.weight'"),
        (["x.weight", "x.weight"], "'x.weight' is named twice"),
        (["n.num_batches_tracked"], "is torch.int64, not floating"),
        ([], "no weights to compare"),
    ],
)
def test_refusals(names, message) -> None:
    state = {"x.weight": torch.ones(1), "n.num_batches_tracked": torch.tensor(1)}
    with pytest.raises(UserError, match=message):
        geometry(state, state, state, names)
    with pytest.raises(UserError, match="different networks"):
        geometry(state, state, {"x.weight": torch.ones(1)})
    with pytest.raises(UserError, match=r"parameters must be a list of names, found the string 'x\.weight'"):
        geometry(state, state, state, "x.weight")


def test_a_fork_that_is_not_finite_is_named() -> None:
    state, bad = {"x": torch.ones(2)}, {"x": torch.tensor([1.0, float("nan")])}
    for states, whose in (
        ((bad, state, state), "fork"),
        ((state, bad, state), "A"),
        ((state, state, bad), "B"),
    ):
        with pytest.raises(UserError, match=f"State {whose}: 'x' holds NaN"):
            geometry(*states)


def test_equal_siblings_have_angle_zero() -> None:
    """To the bit: the arc cosine of a cosine that rounding took below 1 would be 1.5e-8."""
    fork = {"w": torch.tensor([0.3, 0.1], dtype=torch.float64)}
    sibling = {"w": torch.tensor([0.9, 0.7], dtype=torch.float64)}
    found = geometry(fork, sibling, sibling)
    assert (found.distance_ab, found.angle, found.cosine) == (0.0, 0.0, 1.0)
    assert (found.layers["w"].angle, found.layers["w"].cosine) == (0.0, 1.0)


def test_independent_networks_have_a_distance_and_nothing_else() -> None:
    a, b = flat(**{"x.w": [0, 0], "v": [1]}), flat(**{"x.w": [3, 4], "v": [1]})
    got = geometry(None, a, b)
    assert got.distance_ab == 5.0
    for part in (got, *got.layers.values()):
        assert (part.distance_a, part.distance_b, part.angle, part.cosine) == (None,) * 4
    assert {name: layer.distance_ab for name, layer in got.layers.items()} == {"x": 5.0, "v": 0.0}
    with pytest.raises(UserError, match="different networks"):
        geometry(None, a, flat(v=[1]))
