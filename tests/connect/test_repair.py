"""REPAIR: statistics along the line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import nn

from lmcbench.connect.blending import interpolate, unstack
from lmcbench.connect.interpolation import alpha_grid, trace_path
from lmcbench.connect.network import Network
from lmcbench.connect.repair import _moments, repair_path, repaired_states
from lmcbench.errors import UserError
from lmcbench.results.curves import barrier


@pytest.mark.parametrize("name", ["mlp", "cnn", "plain-resnet"])
def test_moments_of_every_layer_are_interpolated(nets, name) -> None:
    """Measured in the folded network, which also tests the folding."""
    a, b = (nets.train(name, seed, width=12) for seed in (0, 1))  # wide enough that no branch is dead
    network, (x, _) = Network(nets.build(name, width=12)), nets.images(50)
    at_a, at_b = (_moments(network, state, x) for state in (a, b))
    grid = alpha_grid(5)
    for alpha, state in zip(grid, unstack(repaired_states(network, a, b, x)(grid)), strict=True):
        measured = _moments(network, state, x)
        assert list(measured) == list(at_a)
        for layer in measured:
            for kind in (0, 1):
                expected = (1 - alpha) * at_a[layer][kind] + alpha * at_b[layer][kind]
                torch.testing.assert_close(measured[layer][kind], expected, rtol=1e-10, atol=1e-10)


def test_without_repair_the_deviations_collapse(nets) -> None:
    """The variance collapse of Jordan et al. (2023), without which the test above would prove nothing."""
    a, b, (x, _) = nets.train("mlp", 0), nets.train("mlp", 1), nets.images(50)
    network = Network(nets.build("mlp"))
    middle = {k: (v + b[k]) / 2 for k, v in a.items()}
    deviations = [_moments(network, state, x)["3"][1].mean() for state in (a, middle, b)]
    assert deviations[1] < 0.8 * (deviations[0] + deviations[2]) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "cnn", "plain-resnet"])
def test_ends_are_bit_for_bit(nets, name, dtype) -> None:
    a, b = (nets.train(name, seed, 5, dtype) for seed in (0, 1))
    network = Network(nets.build(name, 0, dtype))
    states = unstack(repaired_states(network, a, b, nets.images(20)[0])(alpha_grid(3)))
    for end, state in ((a, states[0]), (b, states[-1])):
        assert all(torch.equal(state[k], v) for k, v in end.items())
    classifier = list(a)[-1]  # its outputs are logits: blended, not repaired
    assert torch.equal(states[1][classifier], interpolate(a, b, 0.5)[classifier])


def test_with_batchnorm_it_is_recalibration(nets) -> None:
    a, b, split = nets.train("resnet", 0), nets.train("resnet", 1), {"s": nets.images(30)}
    x, _ = nets.images(40, 5)
    model = nets.build("resnet")
    line = trace_path(model, a, b, split, 5, x, ends="recalibrated")
    assert repair_path(model, a, b, split, x, 5) == line


@pytest.mark.parametrize(("name", "width"), [("mlp", 16), ("mlp", 64), ("cnn", 16)])
def test_repair_lowers_the_barrier_of_independent_networks(nets, name, width) -> None:
    """The effect found by Jordan et al. (2023), on both networks' training images."""
    model = nets.build(name, width=width)
    a, b = (nets.train(name, seed, width=width) for seed in (0, 1))
    (xa, ya), (xb, yb) = nets.images(80, 100), nets.images(80, 101)
    x, y = torch.cat([xa, xb]), torch.cat([ya, yb])
    plain = barrier(trace_path(model, a, b, {"s": (x, y)}, 3)["s"])
    fixed = barrier(repair_path(model, a, b, {"s": (x, y)}, x, 3)["s"])
    assert plain.loss_mid > 0.05
    assert fixed.loss_mid < plain.loss_mid / 2


def test_a_dead_unit_is_shifted_only() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    a = {k: v.clone() for k, v in model.state_dict().items()}
    b = {k: v.clone() for k, v in a.items()}
    a["1.weight"][0], b["1.weight"][0] = 1.0, -1.0  # the middle does not vary
    a["1.bias"][0], b["1.bias"][0] = 1.0, 3.0
    x = torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = Network(model)
    middle = unstack(repaired_states(network, a, b, x)(alpha_grid(3)))[1]
    assert torch.isfinite(middle["1.weight"]).all()
    assert middle["1.weight"][0].tolist() == [0.0] * 4
    mean_a, mean_b = (_moments(network, s, x)["1"][0][0] for s in (a, b))
    assert float(middle["1.bias"][0]) == pytest.approx(float(mean_a + mean_b) / 2, abs=1e-12)


def test_the_model_is_unchanged(nets) -> None:
    model, a, b = nets.build("mlp"), nets.train("mlp", 0), nets.train("mlp", 1)
    kept = {k: v.clone() for k, v in a.items()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one, two = (
        repair_path(model, a, b, {"s": nets.images(10)}, nets.images(9, 4)[0], 3)["s"] for _ in range(2)
    )
    assert one == two
    assert np.isfinite(one.loss).all()
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, kept[k]) for k, v in a.items())


@pytest.mark.parametrize("layer", [ScaledStdConv2d, StdConv2d])
def test_standardised_weights_are_repaired_by_their_gain_or_refused(nets, layer) -> None:
    """Standardisation undoes a repair that is folded into the weight."""
    torch.manual_seed(0)
    model = nn.Sequential(layer(1, 6, 3, bias=True), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)).double()
    a, (x, _) = {k: v.clone() for k, v in model.state_dict().items()}, nets.images(50, dtype=torch.float64)
    b = {k: v + torch.randn_like(v) for k, v in a.items()}
    network = Network(model)
    if layer is StdConv2d:
        with pytest.raises(UserError, match="cannot be repaired"):
            repaired_states(network, a, b, x)
        return
    at_a, at_b = (_moments(network, state, x)["0"] for state in (a, b))
    [middle] = unstack(repaired_states(network, a, b, x)(np.array([0.5])))
    for found, one, other in zip(_moments(network, middle, x)["0"], at_a, at_b, strict=True):
        torch.testing.assert_close(found, (one + other) / 2, rtol=1e-10, atol=1e-10)


def test_refusals(nets) -> None:
    x, y = nets.images(8)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), nn.Linear(4, 4)).double()
    shared = nn.Linear(64, 64)
    twice = nn.Sequential(nn.Flatten(), shared, shared).double()
    for model, images, message in (
        (bare, x, "Layer '1' has no bias"),
        (twice, x, "Layer '1' runs more than once"),
        (nets.build("mlp"), x[:1], "at least two images, found 1"),
    ):
        state = model.state_dict()
        with pytest.raises(UserError, match=message):
            repair_path(model, state, state, {"s": (x, y)}, images, 3)


def test_a_weight_computed_from_others_is_refused(nets):
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 8))
    model, (x, y) = nn.Sequential(nn.Flatten(), normed, nn.ReLU(), nn.Linear(8, 4)).double(), nets.images(8)
    with pytest.raises(UserError, match="Layer '1' has no weight to hold the repair"):
        repair_path(model, model.state_dict(), model.state_dict(), {"test": (x, y)}, x, 3)
