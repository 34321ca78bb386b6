import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss, log_loss

from lmcbench.ensemble.predictions import (
    compare_predictions,
    expected_calibration_error,
    nll,
    softmax,
)
from lmcbench.errors import UserError

KEYS = [
    "accuracy_mean",
    "ensemble_accuracy",
    "ensemble_gain",
    "nll_mean",
    "ensemble_nll",
    "brier_mean",
    "ensemble_brier",
    "ensemble_ece",
    "disagreement",
    "both_wrong",
    "same_wrong",
    "js_divergence",
    "error_overlap",
    "mutual_information",
]
DIVERSITY = ["disagreement", "js_divergence", "mutual_information"]


def networks(k=3, n=50, classes=4, seed=0, scale=2.0):
    """Probabilities `[k, n, classes]` of networks that have something in common, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    shared = rng.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]
    return softmax(shared + scale * rng.normal(size=(k, n, classes))), labels


@st.composite
def members(draw, most=5):
    return networks(
        draw(st.integers(2, most)),
        draw(st.integers(1, 30)),
        draw(st.integers(2, 6)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([0.01, 1.0, 20.0])),
    )


many = settings(max_examples=60, deadline=None)

# --- by hand -------------------------------------------------------------------------------------

# two networks, four images of classes 0, 0, 1, 2
HAND = np.array(
    [
        [[0.8, 0.1, 0.1], [0.4, 0.6, 0.0], [0.5, 0.3, 0.2], [0.7, 0.2, 0.1]],
        [[0.6, 0.2, 0.2], [0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.7, 0.2]],
    ]
)
HAND_LABELS = [0, 0, 1, 2]
# top-1:    A 0 1 0 0 (only the first right)   B 0 0 0 1 (the first two right)
# mean: .7 .15 .15 | .65 .35 0 | .65 .25 .1 | .4 .45 .15: top-1 0 0 0 1, two right


def test_every_measure_by_hand():
    found = compare_predictions(HAND, HAND_LABELS)
    assert list(found) == KEYS
    assert all(type(value) is float for value in found.values())

    def log(*p):
        return -sum(map(math.log, p)) / len(p)

    def h(*p):
        return -sum(x * math.log(x) for x in p if x > 0)

    pairs = [(HAND[0, i], HAND[1, i]) for i in range(4)]
    js = sum(h(*((a + b) / 2)) - (h(*a) + h(*b)) / 2 for a, b in pairs) / 4
    # squared distances to the labels, image by image
    brier_a = 0.04 + 0.01 + 0.01 + 0.36 + 0.36 + 0.25 + 0.49 + 0.04 + 0.49 + 0.04 + 0.81
    brier_b = 0.16 + 0.04 + 0.04 + 0.01 + 0.01 + 0.64 + 0.64 + 0.01 + 0.49 + 0.64
    brier_mean = 0.09 + 0.0225 + 0.0225 + 0.1225 + 0.1225 + 0.4225 + 0.5625 + 0.01 + 0.16 + 0.2025 + 0.7225
    assert found == pytest.approx(
        {
            "accuracy_mean": 3 / 8,
            "ensemble_accuracy": 2 / 4,
            "ensemble_gain": 1 / 8,
            "nll_mean": (log(0.8, 0.4, 0.3, 0.1) + log(0.6, 0.9, 0.2, 0.2)) / 2,
            "ensemble_nll": log(0.7, 0.65, 0.25, 0.15),
            "brier_mean": (brier_a + brier_b) / 8,
            "ensemble_brier": brier_mean / 4,
            # confidences .7 (right), .65 (right), .65 (wrong), .45 (wrong); the two of .65 share a bin
            "ensemble_ece": (0.3 + abs(1 - 0.65 - 0.65) + 0.45) / 4,
            "disagreement": 2 / 4,
            "both_wrong": 2 / 4,
            "same_wrong": 1 / 4,
            "js_divergence": js,
            "error_overlap": 2 / 3,
            "mutual_information": js,
        },
        rel=1e-12,
    )


def test_means_over_pairs_and_over_all():
    # members predict 0, 0, 1 on one image of class 0 and 1, 2, 2 on another
    one = np.eye(3)[[[0, 1], [0, 2], [1, 2]]]
    found = compare_predictions(one, [0, 0])
    assert found["disagreement"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found["both_wrong"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert found["same_wrong"] == pytest.approx((0 + 0 + 1 / 2) / 3)
    # both wrong on average 1/2; either wrong 1/2, 1, 1
    assert found["error_overlap"] == pytest.approx((1 / 2) / (5 / 6))
    # on each image two agree, one differs: H(2/3, 1/3)
    assert found["mutual_information"] == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    # a pair that differs has log 2
    assert found["js_divergence"] == pytest.approx(2 / 3 * math.log(2))


# --- identities ----------------------------------------------------------------------------------


@many
@given(members())
def test_disagreement_by_counting_classes(given_):
    # oracle 11
    probs, labels = given_
    k, _, classes = probs.shape
    counts = np.eye(classes)[probs.argmax(-1)].sum(0)
    expected = 1 - (counts * (counts - 1)).sum(-1).mean() / (k * (k - 1))
    assert compare_predictions(probs, labels)["disagreement"] == pytest.approx(expected, abs=1e-12)


@many
@given(members(most=2))
def test_disagreement_lies_between_difference_and_sum_of_errors(given_):
    # oracle 11
    probs, labels = given_
    a, b = (probs.argmax(-1) != labels).mean(1)
    found = compare_predictions(probs, labels)["disagreement"]
    assert abs(a - b) - 1e-12 <= found <= a + b + 1e-12


@many
@given(members())
def test_mean_members_score_is_that_of_the_mean_and_their_spread(given_):
    # oracle 12
    probs, labels = given_
    found = compare_predictions(probs, labels)
    spread = ((probs - probs.mean(0)) ** 2).sum(-1).mean()
    assert found["brier_mean"] == pytest.approx(found["ensemble_brier"] + spread, abs=1e-12)
    assert found["ensemble_nll"] <= found["nll_mean"] + 1e-12
    assert 0 <= found["mutual_information"] <= math.log(len(probs)) + 1e-12
    assert 0 <= found["js_divergence"] <= math.log(2) + 1e-12
    assert found["same_wrong"] <= found["both_wrong"]


@many
@given(members())
def test_measures_do_not_depend_on_the_order_of_members_and_images(given_):
    probs, labels = given_
    forward = compare_predictions(probs, labels)
    backward = compare_predictions(probs[::-1, ::-1], labels[::-1])
    assert backward == pytest.approx(forward, abs=1e-12)


@many
@given(members(), st.integers(2, 4))
def test_identical_members_have_no_diversity(given_, k):
    # oracles 1 and 12: exact, although the mean of three equal numbers may round
    probs, labels = given_
    found = compare_predictions(np.repeat(probs[:1], k, 0), labels)
    assert found["disagreement"] == found["ensemble_gain"] == 0.0
    for name in DIVERSITY:
        assert found[name] == 0.0
    assert found["both_wrong"] == found["same_wrong"] == pytest.approx(1 - found["accuracy_mean"])
    assert found["error_overlap"] == (1.0 if found["accuracy_mean"] < 1 else None)


def test_members_that_never_agree_have_the_largest_diversity():
    found = compare_predictions(np.eye(4)[[[0], [1], [2], [3]]], [0])
    assert found["mutual_information"] == pytest.approx(math.log(4))
    assert found["js_divergence"] == pytest.approx(math.log(2))
    assert found["disagreement"] == 1.0


# --- second oracles ------------------------------------------------------------------------------


def test_against_scikit_learn_and_scipy():
    probs, labels = networks(k=3, n=200, classes=5, seed=4)
    found, mean, classes = compare_predictions(probs, labels), probs.mean(0), list(range(5))
    assert found["ensemble_nll"] == pytest.approx(log_loss(labels, mean, labels=classes), rel=1e-12)
    assert found["nll_mean"] == pytest.approx(np.mean([log_loss(labels, p, labels=classes) for p in probs]))
    brier = [brier_score_loss(labels, p, labels=classes, scale_by_half=False) for p in (*probs, mean)]
    assert found["brier_mean"] == pytest.approx(np.mean(brier[:3]), rel=1e-12)
    assert found["ensemble_brier"] == pytest.approx(brier[3], rel=1e-12)
    js = [np.mean(jensenshannon(probs[i], probs[j], axis=-1) ** 2) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["js_divergence"] == pytest.approx(np.mean(js), rel=1e-10)
    information = entropy(mean, axis=-1).mean() - entropy(probs, axis=-1).mean()
    assert found["mutual_information"] == pytest.approx(information, rel=1e-10)


# --- calibration ---------------------------------------------------------------------------------


@many
@given(st.floats(0.51, 1), st.integers(0, 20))
def test_calibration_error_of_constant_confidence(confidence, right):
    # oracle 13: |accuracy - confidence|, whichever bin it falls into
    labels = np.array([0] * right + [1] * (20 - right))
    p = np.tile([confidence, 1 - confidence], (20, 1))
    assert expected_calibration_error(p, labels) == pytest.approx(abs(right / 20 - confidence), abs=1e-12)


def test_bins_are_closed_on_the_right():
    # 9/15 belongs to the bin below, with 0.55 in (8/15, 9/15]: one right, one wrong, so the gaps meet
    p = np.array([[9 / 15, 6 / 15], [0.55, 0.45]])
    labels = np.array([0, 1])
    assert expected_calibration_error(p, labels) == pytest.approx(abs(1 - 9 / 15 - 0.55) / 2)
    # a hair above it has a bin of its own
    p[0] = [9 / 15 + 1e-9, 6 / 15 - 1e-9]
    assert expected_calibration_error(p, labels) == pytest.approx((6 / 15 + 0.55) / 2)


def test_calibration_error_against_a_loop_over_bins():
    probs, labels = networks(n=500, classes=3, seed=8, scale=1.0)
    p = probs[0]
    confidence, right = p.max(-1), p.argmax(-1) == labels
    expected = 0.0
    for m in range(15):
        inside = (m / 15 < confidence) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(p, labels) == pytest.approx(expected, rel=1e-12)


# --- ties, zeros, types --------------------------------------------------------------------------


def test_ties_go_to_the_lowest_class():
    tied = np.full((2, 3, 3), 1 / 3)
    assert compare_predictions(tied, [0, 1, 2])["accuracy_mean"] == pytest.approx(1 / 3)
    # members disagree, their mean is tied between 1 and 2
    split = [[[0.2, 0.5, 0.3]], [[0.2, 0.3, 0.5]]]
    assert compare_predictions(split, [1])["ensemble_accuracy"] == 1.0
    assert compare_predictions(split, [2])["ensemble_accuracy"] == 0.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_logarithm_of_zero_is_clamped_at_the_types_smallest_normal(dtype):
    certain = np.eye(2, dtype=dtype)[[[0], [0]]]
    found = compare_predictions(certain, [1])
    assert found["nll_mean"] == found["ensemble_nll"] == pytest.approx(-math.log(np.finfo(dtype).tiny))
    assert found["mutual_information"] == found["js_divergence"] == 0.0


def test_sums_are_taken_in_float64():
    probs, labels = networks(n=2000, seed=3)
    single = probs.astype(np.float32)
    exact = compare_predictions(single.astype(np.float64), labels)
    assert compare_predictions(single, labels) == pytest.approx(exact, rel=1e-14)


def test_nobody_errs():
    found = compare_predictions(np.eye(2)[[[0, 1], [0, 1]]], [0, 1])
    assert found["error_overlap"] is None
    assert (found["accuracy_mean"], found["nll_mean"], found["ensemble_ece"]) == (1.0, 0.0, 0.0)


def test_softmax_stays_finite_for_any_logits():
    p = softmax(np.array([[65504.0, -65504.0, 0.0], [-65504.0, -65504.0, -65504.0]], dtype=np.float16))
    assert p.dtype == np.float64
    assert p == pytest.approx(np.array([[1, 0, 0], [1 / 3] * 3]))
    assert softmax(np.log([[0.2, 0.3, 0.5]])) == pytest.approx(np.array([[0.2, 0.3, 0.5]]))


def test_nll_of_one_network():
    assert nll(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 1]), 1e-30) == pytest.approx(
        (math.log(2) - math.log(0.1)) / 2
    )


# --- refusals ------------------------------------------------------------------------------------

GOOD = np.full((2, 3, 4), 0.25)


def with_value(value):
    bad = GOOD.copy()
    bad[1, 2, 3] = value
    return bad


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (GOOD[:1], [0, 1, 2], r"must be \[K, n, classes\] with K of at least 2, found \(1, 3, 4\)"),
        (GOOD[0], [0, 1, 2], r"must be \[K, n, classes\].* found \(3, 4\)"),
        (GOOD, [0, 1], r"3 images need labels \[3\], found \(2,\)"),
        (GOOD, [[0, 1, 2]], r"3 images need labels \[3\], found \(1, 3\)"),
        (GOOD[:, :0], [], "no images"),
        (GOOD, [0.0, 1.0, 2.0], "Labels must be integers, found float64"),
        (GOOD, [True, False, True], "Labels must be integers, found bool"),
        (GOOD, [0, 1, 4], "Label 4 is out of range; there are 4 classes"),
        (GOOD, [0, -1, 2], "Label -1 is out of range"),
        (with_value(np.nan), [0, 1, 2], "must be finite, not negative, and sum to 1"),
        (with_value(np.inf), [0, 1, 2], "must be finite, not negative, and sum to 1"),
        (with_value(-0.25), [0, 1, 2], "must be finite, not negative, and sum to 1"),
        (with_value(0.3), [0, 1, 2], "must be finite, not negative, and sum to 1"),
        (np.zeros((2, 3, 4)), [0, 1, 2], "sum to 1"),
        (np.random.default_rng(0).normal(size=(2, 3, 4)), [0, 1, 2], "must be finite, not negative, and sum"),
        (GOOD + 0j, [0, 1, 2], "Probabilities must be real, found complex128"),
        (torch.tensor(GOOD).bfloat16(), [0, 1, 2], "Probabilities are not an array of numbers: .*BFloat16"),
    ],
)
def test_what_are_no_predictions_is_refused(probs, labels, message):
    with pytest.raises(UserError, match=message):
        compare_predictions(probs, labels)


@pytest.mark.parametrize("classes", [10, 1000])
def test_half_precision_probabilities_are_taken_as_they_round(classes):
    probs = softmax(np.random.default_rng(1).normal(size=(2, 20, classes))).astype(np.float16)
    assert compare_predictions(probs, np.zeros(20, dtype=int))["disagreement"] > 0


def test_probabilities_and_labels_may_be_tensors():
    """Also those that a gradient goes through, and a list of the members'."""
    logits = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    p, y = logits.softmax(-1), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = compare_predictions(p.detach().numpy(), y.numpy())
    assert compare_predictions(p, y.int()) == expected
    assert compare_predictions([p[0], p[1]], y) == expected
    with pytest.raises(UserError, match="Labels must be integers, found bool"):
        compare_predictions(p, y > 0)
    with pytest.raises(UserError, match="Probabilities are not an array of numbers"):
        compare_predictions([p[0], p[1, :3]], y)
