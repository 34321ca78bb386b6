"""Ensembles of points on a path, against the same members put together by hand."""

from __future__ import annotations

import numpy as np

from lmcbench.ensemble.predictions import compare_predictions
from lmcbench.ensemble.sub_ensembles import path_ensembles

GRID = np.arange(5) / 4
LABELS = np.arange(40) % 3
PROBS = np.random.default_rng(0).dirichlet(np.ones(3), (5, 40))


def test_members_are_as_evenly_spaced_as_the_grid_allows():
    found = path_ensembles(PROBS, LABELS, GRID, (2, 3, 4, 5, 6))
    # of five points no four are evenly spaced: the nearest stand for them; six there are not
    assert {k: v["alphas"] for k, v in found.items()} == {
        "2": [0, 1],
        "3": [0, 0.5, 1],
        "4": [0, 0.25, 0.75, 1],
        "5": [0, 0.25, 0.5, 0.75, 1],
    }
    expected = compare_predictions(PROBS[[0, 2, 4]], LABELS)
    assert {k: v for k, v in found["3"].items() if k != "alphas"} == expected
    ends = compare_predictions(PROBS[[0, -1]], LABELS)
    assert found["2"]["ensemble_accuracy"] == ends["ensemble_accuracy"]


def test_a_path_that_stands_still_gains_nothing():
    found = path_ensembles(np.repeat(PROBS[:1], 5, 0), LABELS, GRID)
    assert [found[size]["ensemble_gain"] for size in ("3", "5")] == [0.0, 0.0]
    assert [found[size]["disagreement"] for size in ("3", "5")] == [0.0, 0.0]
