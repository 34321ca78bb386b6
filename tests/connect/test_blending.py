"""Blending and checking of states (docs/design.md, section 3)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.connect.blending import average, interpolate, layer_of, stack, unstack, weight_names
from lmcbench.errors import UserError


def two(dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    make = lambda: {"w": torch.randn(1000, generator=generator, dtype=torch.float64).to(dtype)}  # noqa: E731
    return make(), make()


def test_ends_are_bit_for_bit() -> None:
    a, b = two()
    assert torch.equal(interpolate(a, b, 0.0)["w"], a["w"])
    assert torch.equal(interpolate(a, b, 1.0)["w"], b["w"])


@given(st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_constant_stays_constant(alpha: float) -> None:
    """Oracle 1: (1-a) x + a x would differ from x for a tenth of fp32 values."""
    a, _ = two()
    assert torch.equal(interpolate(a, a, alpha)["w"], a["w"])


@given(st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_swapping_the_ends_mirrors_the_line(alpha: float) -> None:
    a, b = two(torch.float64)
    gap = interpolate(a, b, alpha)["w"] - interpolate(b, a, 1 - alpha)["w"]
    assert gap.abs().max() <= 1e-14


def test_midpoint_is_the_mean_of_every_floating_tensor() -> None:
    a = {
        "bn.running_mean": torch.tensor([1.0]),
        "odd": torch.tensor(3.0),
        "bn.num_batches_tracked": torch.tensor(4),
    }
    b = {
        "bn.running_mean": torch.tensor([3.0]),
        "odd": torch.tensor(4.0),
        "bn.num_batches_tracked": torch.tensor(9),
    }
    middle = interpolate(a, b, 0.5)
    assert (middle["bn.running_mean"].item(), middle["odd"].item()) == (2.0, 3.5)


@pytest.mark.parametrize(("alpha", "counter"), [(0.0, 4), (0.49, 4), (0.5, 9), (1.0, 9)])
def test_counters_are_those_of_the_nearer_end(alpha: float, counter: int) -> None:
    a, b = {"n.num_batches_tracked": torch.tensor(4)}, {"n.num_batches_tracked": torch.tensor(9)}
    assert interpolate(a, b, alpha)["n.num_batches_tracked"].item() == counter


def test_the_result_shares_no_memory() -> None:
    a, b = two()
    for alpha in (0.0, 1.0):
        interpolate(a, b, alpha)["w"].zero_()
    assert a["w"].abs().sum() > 0
    assert b["w"].abs().sum() > 0


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": torch.zeros(2)}, {"y": torch.zeros(2)}, "different networks: 'x' is in one"),
        ({"x": torch.zeros(2)}, {"x": torch.zeros(3)}, r"'x' is \(2,\) .* and \(3,\)"),
        ({"x": torch.zeros(2)}, {"x": torch.zeros(2).double()}, "'x' is .*float32 and .*float64"),
        ({"x": torch.tensor([float("nan")])}, {"x": torch.zeros(1)}, "State A: 'x' holds NaN"),
        ({"x": torch.zeros(1)}, {"x": torch.tensor([float("inf")])}, "State B: 'x' holds NaN"),
        ({"i": torch.tensor([1])}, {"i": torch.tensor([2])}, "'i' is torch.int64, cannot be blended"),
    ],
)
def test_refusals(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        interpolate(a, b, 0.5)


def test_average_of_three_and_stacking() -> None:
    states = [{"w": torch.tensor([float(i)]), "n.num_batches_tracked": torch.tensor(i)} for i in (1, 2, 6)]
    assert average(states)["w"].item() == 3.0
    assert average(states)["n.num_batches_tracked"].item() == 6
    back = unstack(stack(states))
    assert all(torch.equal(x["w"], y["w"]) for x, y in zip(states, back, strict=True))


def test_names_of_weights_and_layers() -> None:
    state = {
        "c": torch.ones(1),
        "a.b.weight": torch.ones(1),
        "a.b.running_var": torch.ones(1),
        "i": torch.ones(1).int(),
    }
    assert weight_names(state) == ["c", "a.b.weight"]
    assert [layer_of(n) for n in ("c", "a.b.weight")] == ["c", "a.b"]
