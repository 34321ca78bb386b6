import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from lmcbench.ensemble.predictions import compare_errors, compare_predictions, independent_disagreement
from lmcbench.errors import UserError


def one_hot(top, classes):
    return np.eye(classes)[np.asarray(top)]


# labels 0; A errs on images 2-5, B on 3-6, C = 4
TOPS = [[0, 0, 1, 1, 2, 3, 0, 0], [0, 0, 0, 1, 3, 3, 2, 0]]
LABELS = np.zeros(8, np.int64)


def test_by_hand():
    # both err on images 3, 4, 5; on 3 and 5 they name the same class
    found = compare_errors(one_hot(TOPS, 4), LABELS)
    assert found["error_agreement"] == 2 / 3
    # right or wrong together on 6 of 8; by chance 1/4 + 1/4
    assert found["error_consistency"] == pytest.approx((6 / 8 - 1 / 2) / (1 / 2))
    assert found["disagreement_independent"] == pytest.approx(1 / 2 + 1 / 2 - 1 / 4 * 4 / 3)
    # they differ on 2, 4, 6
    assert found["disagreement_normalised"] == pytest.approx(3 / 8 / (2 / 3))


def test_consistency_is_kappa():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 400)
    tops = np.where(rng.random((2, 400)) < 0.3, rng.integers(0, 5, (2, 400)), labels)
    right = tops == labels
    expected = cohen_kappa_score(right[0], right[1])
    assert compare_errors(one_hot(tops, 5), labels)["error_consistency"] == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(("a", "b"), [(0.1, 0.3), (0.5, 0.5), (0.0, 0.2)])
def test_independent_errors_are_the_unit(classes, a, b):
    """Drawn as the formula says: ratio 1, consistency 0, agreement 1 / (C - 1), within five deviations."""
    n, rng = 200_000, np.random.default_rng(classes)
    labels = rng.integers(0, classes, n)
    tops = [
        np.where(rng.random(n) < e, (labels + rng.integers(1, classes, n)) % classes, labels) for e in (a, b)
    ]
    found = compare_errors(one_hot(tops, classes), labels)
    free = independent_disagreement(a, b, classes)
    assert found["disagreement_normalised"] == pytest.approx(1, abs=5 / np.sqrt(n * free))
    if a > 0:
        assert found["error_consistency"] == pytest.approx(0, abs=5 / np.sqrt(n))
        assert found["error_agreement"] == pytest.approx(1 / (classes - 1), abs=5 / np.sqrt(n * a * b))


@pytest.mark.parametrize("classes", [2, 7])
def test_guessers_disagree_as_guessers_do(classes):
    error = 1 - 1 / classes
    assert independent_disagreement(error, error, classes) == pytest.approx(error)


def test_one_function_and_nobody_errs():
    same = compare_errors(one_hot([TOPS[0]] * 3, 4), LABELS)
    assert (same["error_agreement"], same["error_consistency"]) == (1.0, 1.0)
    assert same["disagreement_normalised"] == 0.0
    right = compare_errors(one_hot([LABELS, LABELS], 4), LABELS)
    assert right == {
        "error_agreement": None,
        "error_consistency": None,
        "disagreement_independent": 0.0,
        "disagreement_normalised": None,
    }


def test_ratios_are_of_means_over_pairs():
    tops = np.random.default_rng(0).integers(0, 3, (4, 60))
    labels = np.zeros(60, np.int64)
    found = compare_errors(one_hot(tops, 3), labels)
    whole = compare_predictions(one_hot(tops, 3), labels)
    assert found["error_agreement"] == pytest.approx(whole["same_wrong"] / whole["both_wrong"])
    share = whole["disagreement"] / found["disagreement_independent"]
    assert found["disagreement_normalised"] == pytest.approx(share)


def test_one_network_is_refused():
    with pytest.raises(UserError, match="K of at least 2"):
        compare_errors(one_hot(TOPS[:1], 4), LABELS)
