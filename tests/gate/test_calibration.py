import json

import numpy as np
import pytest

from builders import make_record, toy_cell
from lmcbench.gate.calibration import Calibration, Margin, as_json, calibrate, render
from lmcbench.spec.gate_tests import GateTest

GATE = [
    GateTest(measure="error_mid", kind="equivalence", margin=0.05, reason="for tests", forks=["0"]),
    GateTest(measure="disagreement", kind="equivalence", margin=0.001, reason="for tests"),
]
VALUES = {  # shift, replicate -> barrier in each repeat
    ("none", 0): [0.10, 0.14, 0.12],
    ("none", 1): [0.20, 0.20, 0.20],
    ("label-skew", 0): [0.30, 0.26, 0.28],
    ("label-skew", 1): [0.40, 0.46, 0.40],
}
ENGINES = [("reference", 1), ("stacked", 1), ("reference", 2)]


def repeat(i, engine=None, **other):
    name, threads = ENGINES[i]
    env = {"engine": engine or name, "device": "cpu", "flags": {"threads": threads}}
    return [
        make_record(
            toy_cell(shift=s, replicate=r), barrier_error=v[i], env=env, disagreement=0.03 + i / 100, **other
        )
        for (s, r), v in VALUES.items()
    ]


def test_deviations_are_pooled_over_cells():
    found = calibrate([repeat(i) for i in range(3)], GATE)
    by_name = {m.measure: m for m in found.measures}
    barrier = by_name["error_mid"]
    assert barrier.deviation == pytest.approx(np.sqrt(np.mean([np.var(v, ddof=1) for v in VALUES.values()])))
    assert barrier.largest == pytest.approx(0.06)
    assert (barrier.cells, barrier.equal) == (4, 1)
    assert by_name["accuracy_mean"].deviation == 0
    assert by_name["accuracy_mean"].equal == 4


def test_margins_are_held_against_the_deviation_of_a_replicates_mean():
    barrier, disagreement = calibrate([repeat(i) for i in range(3)], GATE).margins
    means = [np.mean([VALUES[s, r] for s in ("none", "label-skew")], axis=0) for r in (0, 1)]
    # in replicate 0 the cells' deviations cancel
    assert np.var(means[0]) == pytest.approx(0)
    assert barrier.deviation == pytest.approx(np.sqrt(np.mean([np.var(m, ddof=1) for m in means])))
    assert (barrier.replicates, barrier.enough) == (2, True)
    assert disagreement.deviation == pytest.approx(0.01)
    assert not disagreement.enough


def test_the_same_conditions_again_are_no_repeat():
    """A network that cannot be stacked has one engine: its equality with itself says nothing."""
    found = calibrate([repeat(0), repeat(1, engine="reference"), repeat(2)], GATE)
    [barrier] = [m for m in found.measures if m.measure == "error_mid"]
    pairs = [[v[0], v[2]] for v in VALUES.values()]
    assert barrier.deviation == pytest.approx(np.sqrt(np.mean([np.var(v, ddof=1) for v in pairs])))
    assert calibrate([repeat(0), repeat(0)], GATE).measures == []


def test_cells_that_diverge_in_some_repeats_are_named_and_not_averaged():
    repeats = [repeat(i) for i in range(3)]
    repeats[1][3] = make_record(toy_cell(shift="label-skew", replicate=1), status="diverged")
    found = calibrate(repeats, GATE)
    assert found.unstable == ["lmc_mlp (fast) | label-skew | fork 0 | replicate 1"]
    assert {m.cells for m in found.measures} == {3}
    assert "Diverged in some repeats only: lmc_mlp" in render(found, "simple")


def test_output():
    found = calibrate([repeat(i) for i in range(3)], GATE)
    document = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert document["schema"] == "lmcbench/calibration/1"
    assert document["conditions"][1] == "stacked, cpu, 1 thread"
    text = render(found, "github")
    assert "| error_mid" in text
    assert "no: raise it" in text


def test_small_deviations_keep_their_digits_and_too_few_repeats_give_no_verdict():
    def margins(deviation, replicates):
        return [Margin("error_mid", 0.05, deviation, replicates, 2 * deviation < 0.05)]

    def text(deviation, replicates):
        suite = {"name": "toy", "version": 1}
        return render(Calibration(suite, ["a", "b"], [], margins(deviation, replicates), []), "simple")

    assert "1.23e-06" in text(1.234e-6, 3)
    assert text(1.234e-6, 3).rstrip().endswith("yes")
    assert text(0.04, 3).rstrip().endswith("no: raise it, or average over more cells")
    assert text(1.234e-6, 1).rstrip().endswith("not known: from 1 replicate")
    assert text(0.0, 3).rstrip().endswith("not known: all repeats are equal")
