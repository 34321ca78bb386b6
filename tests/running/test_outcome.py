"""What is said of a training that went wrong, and that it helps."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from builders import make_record
from lmcbench.running.progress import cell_line
from lmcbench.running.train_family import _outcome
from lmcbench.spec.learning import count_entropy, label_entropy

SKEWED = np.array([0] * 90 + [1] * 10)
"""Labels of a view, with an entropy of 0.325 nats."""
ONE_CLASS = np.array([0] * 1000 + [1])
"""Entropy 0.008 nats: whatever is learned, the loss can hardly fall below it."""


def outcome(siblings, per_epoch=2, labels=None):
    labels = np.arange(99) % 3 if labels is None else labels
    for sibling in siblings:
        sibling.stream = SimpleNamespace(items=np.arange(len(labels)))
    data = SimpleNamespace(
        pool=SimpleNamespace(labels=labels),
        dataset=SimpleNamespace(classes=("a", "b", "c"), train=SimpleNamespace(domains=None)),
    )
    return _outcome(siblings, per_epoch, data)


def sibling(*losses, finite=True):
    return SimpleNamespace(state=SimpleNamespace(finite=finite), losses=[torch.tensor(losses)], start=4)


@pytest.mark.parametrize(
    ("trained", "reason"),
    [
        (sibling(1.0, 0.2, 0.1), None),
        (
            sibling(1.2, 1.09, 1.10),
            "did not learn: final training loss 1.095, entropy of its labels 1.099; try ",
        ),
        (sibling(0.1, math.nan, 0.1), "the loss is not finite at step 5; try a smaller learning rate"),
        (
            sibling(0.1, 0.1, 0.1, finite=False),
            "a weight is not finite at the end of training; try a smaller",
        ),
    ],
)
def test_a_network_that_did_not_learn_is_told_from_one_that_diverged(trained, reason):
    found = outcome([sibling(0.5, 0.1, 0.1), trained])
    expected = "ok" if reason is None else "did-not-learn" if "learn:" in reason else "diverged"
    assert found["status"] == expected
    assert found["label_counts"] == [[33, 33, 33]] * 2
    assert found["reason"] is None if reason is None else reason in found["reason"]
    assert found["train_losses"][0] == pytest.approx(0.1)


def test_the_line_of_a_cell_that_did_not_learn_does_not_call_it_diverged():
    reason = outcome([sibling(1.1, 1.1)])["reason"]
    line = cell_line(make_record(status="did-not-learn").model_copy(update={"reason": reason}))
    assert line.endswith(f": {reason}")
    assert "diverged" not in line
    assert ": diverged: loss is not finite" in cell_line(make_record(status="diverged"))


@pytest.mark.parametrize(
    ("loss", "labels", "learned"),
    [
        (0.32, SKEWED, False),  # far below ln 3 = 1.10, the bound without the labels of the view
        (0.315, SKEWED, True),
        (0.9, ONE_CLASS, True),
        (1.07, None, True),
        (1.08, None, False),
    ],
)
def test_a_network_has_learned_if_it_predicts_better_than_the_frequencies_of_its_own_labels(
    loss, labels, learned
):
    assert outcome([sibling(loss, loss)], labels=labels)["status"] == ("ok" if learned else "did-not-learn")


def test_a_loss_that_is_not_finite_goes_before_one_that_did_not_fall():
    assert outcome([sibling(1.1, 1.1), sibling(0.1, math.inf)])["status"] == "diverged"


def test_the_entropy_of_labels():
    assert count_entropy([5, 5]) == pytest.approx(math.log(2))
    assert count_entropy([7, 0, 0]) == 0
    expected = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert count_entropy([90, 10]) == label_entropy(SKEWED) == pytest.approx(expected)
