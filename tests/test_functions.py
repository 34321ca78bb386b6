"""Functions along the path, on small trained networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lmcbench.connect.network import Network
from lmcbench.connect.path import alpha_grid, line
from lmcbench.ensemble.cka import linear_cka
from lmcbench.ensemble.predictions import compare_predictions, softmax
from lmcbench.functions import feature_similarity, path_ensembles, path_similarity

torch.set_num_threads(1)


def build(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).double()


IMAGES = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(40) % 3


@pytest.fixture
def path():
    network, grid = Network(build(0)), alpha_grid(5)
    return network, line(network, build(0).state_dict(), build(1).state_dict(), grid), grid


def hidden(seed):
    model = build(seed)
    with torch.no_grad():
        return model[:3](IMAGES).numpy()


def test_similarity_of_features_between_and_along(path):
    network, states, _ = path
    members = network.prepare([build(0).state_dict(), build(1).state_dict()])
    apart = linear_cka(hidden(0), hidden(1))
    [[one, across], [back, _]] = feature_similarity(network, members, IMAGES)
    assert one == 1.0
    assert across == back == pytest.approx(apart, rel=1e-12)
    found = path_similarity(network, states, IMAGES)
    assert found["to_a"][0] == found["to_b"][-1] == pytest.approx(1.0, abs=1e-12)
    assert found["to_a"][-1] == pytest.approx(apart, rel=1e-12)
    assert found["to_b"][0] == pytest.approx(apart, rel=1e-12)
    # nearer to the end that is nearer
    assert found["to_a"][1] > found["to_a"][3]
    assert found["to_b"][3] > found["to_b"][1]


def test_units_in_another_order_compute_the_same(path):
    """A permuted copy has other weights and the same function: CKA 1, and the path between them not."""
    network, _, grid = path
    state = build(0).state_dict()
    order = torch.arange(12).flip(0)
    turned = {
        "1.weight": state["1.weight"][order],
        "1.bias": state["1.bias"][order],
        "3.weight": state["3.weight"][:, order],
        "3.bias": state["3.bias"],
    }
    between = path_similarity(network, line(network, state, turned, grid), IMAGES)["to_a"]
    assert between[-1] == pytest.approx(1.0, abs=1e-12)
    assert between[2] < 0.99


def test_ensembles_of_points_on_the_path(path):
    network, states, grid = path
    found = path_ensembles(network, states, IMAGES, LABELS, grid, (2, 3, 4, 5, 6))
    # of five points no four are evenly spaced: the nearest stand for them; six there are not
    assert {k: v["alphas"] for k, v in found.items()} == {
        "2": [0, 1],
        "3": [0, 0.5, 1],
        "4": [0, 0.25, 0.75, 1],
        "5": [0, 0.25, 0.5, 0.75, 1],
    }
    probs = softmax(network.logits(states, IMAGES).numpy())
    expected = compare_predictions(probs[[0, 2, 4]], LABELS.numpy())
    assert {k: v for k, v in found["3"].items() if k != "alphas"} == expected
    ends = compare_predictions(probs[[0, -1]], LABELS.numpy())
    assert found["2"]["ensemble_accuracy"] == ends["ensemble_accuracy"]


def test_a_point_path_gains_nothing(path):
    network, _, grid = path
    still = line(network, build(0).state_dict(), build(0).state_dict(), grid)
    found = path_ensembles(network, still, IMAGES, LABELS, grid)
    assert [found[size]["ensemble_gain"] for size in ("3", "5")] == [0.0, 0.0]
    assert [found[size]["disagreement"] for size in ("3", "5")] == [0.0, 0.0]
    assert np.allclose(path_similarity(network, still, IMAGES)["to_a"], 1.0, atol=1e-12)
