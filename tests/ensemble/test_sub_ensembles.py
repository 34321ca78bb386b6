from itertools import combinations

import numpy as np
import pytest

from lmcbench.ensemble.predictions import compare_predictions, softmax
from lmcbench.ensemble.sub_ensembles import _subsets, ensembles_by_size
from lmcbench.errors import UserError


def networks(k, n=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return softmax(2 * np.eye(classes)[labels] + 2 * rng.normal(size=(k, n, classes))), labels


def test_all_members_are_the_ensemble_of_compare_predictions():
    probs, labels = networks(4)
    whole = compare_predictions(probs, labels)
    found = ensembles_by_size(probs, labels)
    assert list(found) == ["2", "3", "4"]
    assert found["4"] == pytest.approx(
        {
            "accuracy": whole["ensemble_accuracy"],
            "nll": whole["ensemble_nll"],
            "brier": whole["ensemble_brier"],
            "ece": whole["ensemble_ece"],
            "gain": whole["ensemble_gain"],
        }
    )


def test_smaller_ones_are_means_over_their_subsets():
    probs, labels = networks(4)
    pairs = [compare_predictions(probs[list(c)], labels) for c in combinations(range(4), 2)]
    found = ensembles_by_size(probs, labels)["2"]
    for name in ("accuracy", "nll", "brier", "ece", "gain"):
        assert found[name] == pytest.approx(np.mean([p[f"ensemble_{name}"] for p in pairs]))


def test_more_members_never_lose_in_likelihood_or_brier():
    """Jensen: the mean over subsets of a convex loss of their mean falls with size."""
    probs, labels = networks(5)
    found = list(ensembles_by_size(probs, labels).values())
    whole = compare_predictions(probs, labels)
    for name in ("nll", "brier"):
        values = [whole[f"{name}_mean"], *(f[name] for f in found)]
        assert (np.diff(values) < 0).all()


def test_identical_members_gain_exactly_nothing():
    probs, labels = networks(1)
    found = ensembles_by_size(np.repeat(probs, 3, 0), labels)
    assert [f["gain"] for f in found.values()] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("k", "size", "count"), [(3, 2, 3), (8, 4, 70), (9, 4, 9), (12, 12, 1), (12, 11, 12)]
)
def test_every_member_counts_equally_often(k, size, count):
    chosen = _subsets(k, size)
    assert len(chosen) == count == len(set(chosen))
    times = np.bincount([i for subset in chosen for i in subset], minlength=k)
    assert len(set(times)) == 1


def test_one_member_is_refused():
    probs, labels = networks(1)
    with pytest.raises(UserError, match="K of at least 2"):
        ensembles_by_size(probs, labels)
