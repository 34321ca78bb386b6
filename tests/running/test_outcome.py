"""What is said of a training that went wrong, and that it helps."""

import math
from types import SimpleNamespace

import pytest
import torch

from builders import make_record
from lmcbench.running.progress import cell_line
from lmcbench.running.train_family import _outcome


def sibling(*losses, finite=True):
    return SimpleNamespace(state=SimpleNamespace(finite=finite), losses=[torch.tensor(losses)], start=4)


@pytest.mark.parametrize(
    ("trained", "reason"),
    [
        (sibling(1.0, 0.2, 0.1), None),
        (sibling(1.2, 1.09, 1.10), "did not learn: final training loss 1.095, chance 1.099; try "),
        (sibling(0.1, math.nan, 0.1), "the loss is not finite at step 5; try a smaller learning rate"),
        (
            sibling(0.1, 0.1, 0.1, finite=False),
            "a weight is not finite at the end of training; try a smaller",
        ),
    ],
)
def test_a_network_that_did_not_learn_is_told_from_one_that_diverged(trained, reason):
    found = _outcome([sibling(0.5, 0.1, 0.1), trained], 2, classes=3)
    assert found["status"] == ("ok" if reason is None else "diverged")
    assert found["reason"] is None if reason is None else reason in found["reason"]
    assert found["train_losses"][0] == pytest.approx(0.1)


def test_the_line_of_a_cell_that_did_not_learn_does_not_call_it_diverged():
    reason = _outcome([sibling(1.1, 1.1)], 2, classes=3)["reason"]
    line = cell_line(make_record(status="diverged").model_copy(update={"reason": reason}))
    assert line.endswith(f": {reason}")
    assert "diverged" not in line
    assert ": diverged: loss is not finite" in cell_line(make_record(status="diverged"))
