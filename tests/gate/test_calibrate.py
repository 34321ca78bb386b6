"""Repeating cells under other conditions: which, and that the engine and threads asked for are used."""

from itertools import islice

import pytest

from builders import make_record, toy_cell, toy_suite
from lmcbench.calibrate import baseline_cells, conditions, narrowed, repeat_runs
from lmcbench.errors import UserError
from lmcbench.gate.calibration import calibrate, render
from lmcbench.running.plan import Conditions
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite


def test_no_two_repeats_are_alike():
    first = list(islice(conditions("cpu"), 4))
    assert first == [
        ("cpu", Conditions("reference", 1)),
        ("cpu", Conditions("stacked", 1)),
        ("cpu", Conditions("reference", 2)),
        ("cpu", Conditions("stacked", 2)),
    ]
    assert [where for where, _ in islice(conditions("cuda"), 4)] == ["cpu", "cuda", "cpu", "cuda"]
    many = list(islice(conditions("cuda"), 20))
    assert len(set(many)) == 20


def test_by_default_the_gates_cells_are_repeated():
    digits = narrowed(load_suite("digits"), Selection())
    gate = load_suite("digits").gate
    assert set(digits.shifts) == {s for test in gate for s in test.shifts}
    assert set(digits.forks) == {"0"}
    assert narrowed(toy_suite(), Selection()).forks == ["0"]
    assert narrowed(toy_suite(), Selection()).shifts == []
    asked = Selection(shifts=["none"], forks=["2"])
    assert narrowed(toy_suite(), asked) == asked


def test_a_comparator_of_another_shift_is_no_default():
    """The gate asks for it under one shift; under the shift asked for there is none."""
    dear = {"measure": "ensemble_accuracy", "kind": "non-inferiority", "shifts": ["none"]}
    cheap = {"measure": "error_mid", "kind": "equivalence", "forks": ["0"]}
    said = {"margin": 0.02, "reason": "one"}
    tests = [dear | said | {"forks": ["whole-budget"]}, cheap | said]
    suite = toy_suite(forks=[0, "whole-budget"], comparator_shifts=["none"], gate=tests)
    assert narrowed(suite, Selection()).forks == ["whole-budget", "0"]
    assert narrowed(suite, Selection(shifts=["label-skew"])).forks == ["0"]
    only = toy_suite(forks=[0, "whole-budget"], comparator_shifts=["none"], gate=tests[:1])
    with pytest.raises(UserError, match="has whole-budget only under none"):
        expand(only, narrowed(only, Selection(shifts=["label-skew"])))


def test_one_repeat_has_no_deviation(tmp_path):
    with pytest.raises(UserError, match="needs at least 2 repeats, found 1"):
        next(repeat_runs(toy_suite(), Selection(), 1, tmp_path, data_dir=None, device="cpu", jobs=1))
    assert list(tmp_path.iterdir()) == []


def test_the_engine_and_the_threads_asked_for_are_used(tmp_path):
    pytest.importorskip("torch")
    short = {"lr": 0.01, "batch_size": 256, "epochs": 3}
    small = {"name": "digits", "train_size": 512, "test_size": 50}
    suite = toy_suite(recipes={"slow": short, "fast": short}, data=small, protocol={"alphas": 3})
    chosen = Selection(["lmc_mlp"], ["none"], ["0"], range(1))
    found = [
        [(r.env["engine"], r.env["flags"]["threads"]) for r in records]
        for _, records in repeat_runs(suite, chosen, 3, tmp_path, data_dir=None, device="cpu", jobs=1)
    ]
    assert found == [[("reference", 1)], [("stacked", 1)], [("reference", 2)]]


def test_the_baselines_accuracy_without_shift_is_reported():
    cells = baseline_cells(toy_suite(), range(2))
    found = [(c.architecture.label, c.shift.label, c.fork.name, c.replicate) for c in cells]
    assert found == [("lmc_linear", "none", "0", 0), ("lmc_linear", "none", "0", 1)]
    assert baseline_cells(toy_suite(shifts=["label-skew"]), range(2)) == []
    assert baseline_cells(toy_suite(architectures=[{"name": "lmc_mlp", "recipe": "fast"}]), range(2)) == []
    records = [make_record(toy_cell("lmc_linear", replicate=r)) for r in (0, 1)]
    dead = make_record(toy_cell("lmc_linear", replicate=2), status="diverged")
    expected = 1 - sum(s.splits["test"].error for r in records for s in r.siblings) / 4
    calibration = calibrate([records, records], [], [*records, dead])
    assert calibration.baseline_accuracy == pytest.approx(expected)
    assert f"baseline_accuracy = {expected:.4f}" in render(calibration, "simple")
    assert calibrate([records, records], []).baseline_accuracy is None
