"""Paths of single layers and cumulative switches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lmcbench.connect.curvature import predict_barrier
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.layers import cumulative_paths, layer_paths, layers_of, layerwise
from lmcbench.connect.network import Network
from lmcbench.connect.plane import plane
from lmcbench.errors import UserError
from lmcbench.results.curves import barrier

CASES = [("mlp", False), ("cnn", False), ("resnet", False), ("resnet", True)]


def swapped(a, b, layer):
    return {k: b[k] if k.rpartition(".")[0] == layer else v for k, v in a.items()}


@pytest.mark.parametrize(("name", "calibrated"), CASES)
def test_each_curve_is_the_path_to_the_state_with_that_layer(nets, name, calibrated) -> None:
    """Compare with the naive computation: the line between A and A with one layer of B."""
    model, a, b = nets.build(name), nets.train(name, 0), nets.train(name, 1)
    split, x = nets.images(20), nets.images(30, 5)[0] if calibrated else None
    curves = layerwise(model, a, b, split, 5, x)
    owners = [n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    assert list(curves) == owners
    for layer, curve in curves.items():
        twin = trace_path(model, a, swapped(a, b, layer), {"s": split}, 5, x, ends="recalibrated")["s"]
        np.testing.assert_allclose(curve.loss, twin.loss, rtol=0, atol=1e-12)
        assert np.array_equal(curve.error, twin.error)
    assert len({curve.loss[0] for curve in curves.values()}) == 1


def test_both_ends_and_the_prediction(nets) -> None:
    model, a, b = nets.build("resnet"), nets.train("resnet", 0), nets.train("resnet", 1)
    split, x = nets.images(20), nets.images(30, 5)[0]
    paths = layer_paths(model, a, b, split, 5, gradients=True, calibration=x)
    assert {k: p.from_a for k, p in paths.items()} == layerwise(model, a, b, split, 5, x)
    assert {k: p.from_b for k, p in paths.items()} == layerwise(model, b, a, split, 5, x)
    for layer in ("stem", "norm", "block2.conv1", "head"):
        path = paths[layer]
        twin = predict_barrier(model, a, swapped(a, b, layer), split, 5, True, x)
        np.testing.assert_allclose(path.predicted_from_a, twin, rtol=1e-9, atol=1e-12)
        twin = predict_barrier(model, b, swapped(b, a, layer), split, 5, True, x)
        np.testing.assert_allclose(path.predicted_from_b, twin, rtol=1e-9, atol=1e-12)
    # cross-entropy is convex in the last layer
    assert barrier(paths["head"].from_a).loss_chord <= 1e-12


@pytest.mark.parametrize(("name", "calibrated"), CASES)
def test_switching_all_layers_leads_from_a_to_b_and_back(nets, name, calibrated) -> None:
    model, a, b = nets.build(name), nets.train(name, 0), nets.train(name, 1)
    split, x = nets.images(20), nets.images(30, 5)[0] if calibrated else None
    there, back = cumulative_paths(model, a, b, split, x)
    ends = trace_path(model, a, b, {"s": split}, 3, x, ends="recalibrated")["s"]
    names = tuple(layers_of(model))
    assert there.layers == names
    assert back.layers == names[::-1]
    for way in (there, back):
        assert len(way.loss) == len(way.error) == len(names) + 1
        np.testing.assert_allclose(way.loss[[0, -1]], ends.loss[[0, -1]], rtol=0, atol=1e-12)
        assert np.array_equal(way.error[[0, -1]], ends.error[[0, -1]])
    # halfway: the first k of B and the rest of A is what the way from A to B by the output avoids
    mirrored, _ = cumulative_paths(model, b, a, split, x)
    np.testing.assert_allclose(back.loss, mirrored.loss[::-1], rtol=0, atol=1e-12)
    one = layerwise(model, a, b, split, 3, x)
    np.testing.assert_allclose(there.loss[1], one[names[0]].loss[-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(back.loss[1], one[names[-1]].loss[-1], rtol=0, atol=1e-12)


def test_states_evaluated_in_one_batch_give_equal_curves(nets, monkeypatch) -> None:
    """As on CUDA: vmap over stacks in which most tensors are one tensor expanded."""
    model, split, x = nets.build("resnet"), nets.images(20), nets.images(30, 5)[0]
    fork, a, b = model.state_dict(), nets.train("resnet", 0), nets.train("resnet", 1)

    def measure():
        curves = layerwise(model, a, b, split, 3, x)
        there, back = cumulative_paths(model, a, b, split, x)
        surface = plane(model, fork, a, b, split, 3, x)
        return np.concatenate(
            [*(c.loss for c in curves.values()), there.loss, back.loss, surface.loss.ravel()]
        )

    looped = measure()
    monkeypatch.setattr(Network, "stacked", property(lambda _: True, lambda _, value: None), raising=False)
    np.testing.assert_allclose(measure(), looped, rtol=0, atol=1e-10)


def test_shared_ends_are_evaluated_once(nets, monkeypatch) -> None:
    """One base state, then alphas - 1 states for each layer that differs."""
    model, a, b = nets.build("mlp"), nets.train("mlp", 0), nets.train("mlp", 1)
    b["3.weight"], b["3.bias"] = a["3.weight"], a["3.bias"]
    seen = []
    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda *args: seen.append(1) or forward(*args))
    curves = layerwise(model, a, b, nets.images(10), 5)
    assert len(seen) == 1 + 1 + 2 * 4  # two images to see that the network takes it
    assert len(set(curves["3"].loss)) == 1


def test_layers_are_a_partition_of_the_state() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
            self.register_buffer("offset", torch.zeros(1))
            self.first = nn.BatchNorm2d(1, affine=False)
            self.a = nn.Linear(4, 4)
            self.again = self.a
            self.list = nn.ParameterList([torch.zeros(2), torch.zeros(3)])

    layers = layers_of(Odd())
    assert list(layers) == ["scale", "shift", "a", "list"]
    assert layers["scale"] == ("scale",)
    assert set(layers["shift"]) == {"shift", "offset", *(f"first.{n}" for n in Odd().first.state_dict())}
    assert layers["a"] == ("a.weight", "a.bias", "again.weight", "again.bias")
    assert sorted(n for names in layers.values() for n in names) == sorted(Odd().state_dict())
    buffers_first = nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Linear(2, 2))
    assert list(layers_of(buffers_first)) == ["1"]
    assert len(layers_of(buffers_first)["1"]) == 5


def test_refusals(nets) -> None:
    model, a, (x, y) = nets.build("mlp"), nets.train("mlp", 0), nets.images(8)
    for call in (layerwise, layer_paths):
        with pytest.raises(UserError, match="found 4"):
            call(model, a, a, (x, y), 4)
    for call in (layerwise, layer_paths, cumulative_paths):
        with pytest.raises(UserError, match="Split 'split' is empty"):
            call(model, a, a, (x[:0], y[:0]))
        with pytest.raises(UserError, match="does not fit the network"):
            call(model, a, nets.train("cnn", 0), (x, y))
