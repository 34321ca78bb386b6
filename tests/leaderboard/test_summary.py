"""A submission's summary: the right numbers, by replicate, and the same bytes whatever the order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from builders import make_record, toy_cell, toy_suite
from lmcbench.errors import UserError
from lmcbench.leaderboard.summary import BARRIERS, read_summary, summarize
from lmcbench.results.record_parser import parse_record
from lmcbench.spec.cells import Selection, expand
from lmcbench.stats.estimates import estimate
from synthetic import EVALUATIONS, synthetic_cells, synthetic_suite, synthetic_table

SUBMISSION_SHA256 = "f" * 64


@pytest.fixture(scope="module")
def whole():
    """The records of one synthetic entry, 300 of them."""
    cells = synthetic_cells(3, synthetic_suite())
    return [parse_record(json.dumps(synthetic_table(cell, 3)), "synthetic") for cell in cells]


@pytest.fixture(scope="module")
def summary(whole):
    return summarize("one", SUBMISSION_SHA256, whole)


def test_every_cell_is_in_one_place(whole, summary):
    assert summary.count("ok") == len(whole) == 300
    assert summary.replicates == [0, 1, 2, 3, 4]
    assert len(summary.places) == 60
    assert summary.labels("none") == ["none"]
    assert summary.labels("control") == ["same-half"]
    assert len(summary.labels("shift")) == 8
    forks = [place.fork for place in summary.shifts["none"].places]
    assert forks == ["0", "1", "3", "independent", "independent-equal-cost", "whole-budget"]
    assert summary.evaluations == [f"test:{name}" for name in sorted(EVALUATIONS)]
    assert summary.network.label == "lmc_resnet"


def test_values_are_the_records_own(whole, summary):
    [record] = [r for r in whole if (r.shift.name, r.fork.name, r.replicate) == ("label-skew", "1", 2)]
    place = summary.shifts["label-skew"].place("1")
    for name in BARRIERS:
        assert place.barriers[name][2] == pytest.approx(getattr(record.pairs[0].barriers["test"], name))
    shifted = f"test:{EVALUATIONS[0]}"
    for split in ("test", shifted):
        assert place.worth[split].ensemble[2] == pytest.approx(record.ensemble[split]["ensemble_accuracy"])
        assert place.worth[split].soup[2] == pytest.approx(1 - record.soup[split].error)
        assert place.worth[split].disagreement[2] == record.pairs[0].disagreement[split]
        members = [sibling.splits[split].error for sibling in record.siblings]
        assert place.worth[split].member[2] == pytest.approx(1 - np.mean(members))
    assert place.flop[2] == pytest.approx(record.cost.train_flop)


def test_curves_are_means_over_replicates_with_their_interval(whole, summary):
    found = [r for r in whole if (r.shift.name, r.fork.name) == ("none", "0")]
    middle = [r.pairs[0].curves["test"].error[10] for r in found]
    band = summary.shifts["none"].place("0").curves["error"]
    expected = estimate(middle)
    assert band.mean[10] == pytest.approx(expected.mean)
    assert band.half[10] == pytest.approx(expected.half_width)
    assert len(band.mean) == len(summary.alphas) == 21


def test_one_network_has_accuracy_and_no_line(summary):
    place = summary.shifts["none"].place("whole-budget")
    assert place.curves == {}
    assert place.barriers["error_chord"] == [None] * 5
    assert place.worth["test"].ensemble == [None] * 5
    assert all(0.5 < value < 1 for value in place.worth["test"].member)


def test_pairs_of_a_cell_are_averaged():
    cell = toy_cell(suite=toy_suite(siblings=3))
    record = make_record(cell, barrier_error=0.1)
    for pair, height in zip(record.pairs, (0.1, 0.2, 0.6), strict=True):
        pair.barriers["test"] = pair.barriers["test"].model_copy(update={"error_chord": height})
    place = summarize("one", SUBMISSION_SHA256, [record]).shifts["none"].place("0")
    assert place.barriers["error_chord"] == [0.3]


def test_diverged_and_failed_cells_are_counted_and_have_no_value():
    statuses = ["ok", "diverged", "failed"]
    records = [make_record(toy_cell(replicate=r), status=status) for r, status in enumerate(statuses)]
    summary = summarize("one", SUBMISSION_SHA256, records)
    place = summary.shifts["none"].place("0")
    assert place.status == statuses
    assert place.barriers["error_chord"] == [pytest.approx(0.1), None, None]
    assert place.flop == [1e9, None, None]
    assert [summary.count(s) for s in statuses] == [1, 1, 1]
    assert place.curves["error"].half is None


def test_stability_points_come_with_it():
    heights = {"0": 0.1, "2": 0.01}
    records = [
        make_record(toy_cell(fork=f, replicate=r), barrier_error=h)
        for f, h in heights.items()
        for r in (0, 1)
    ]
    assert summarize("one", SUBMISSION_SHA256, records).shifts["none"].onsets == {
        0: 0.5,
        1: 0.5,
    }
    records = [make_record(toy_cell(fork=f), barrier_error=0.1) for f in heights]
    assert summarize("one", SUBMISSION_SHA256, records).shifts["none"].onsets == {0: None}


def test_the_order_of_records_does_not_matter(whole, summary):
    shuffled = [whole[i] for i in np.random.default_rng(0).permutation(len(whole))]
    assert summarize("one", SUBMISSION_SHA256, shuffled).to_json() == summary.to_json()


def test_it_reads_what_it_wrote_and_nothing_else(summary):
    text = summary.to_json()
    assert read_summary(text.encode()) == summary
    assert read_summary(text.encode()).to_json() == text
    for damaged in (
        text[:-20],
        "",
        "[]",
        text.replace("summary/3", "summary/4"),
        text.replace('"slug"', '"slog"'),
    ):
        assert read_summary(damaged.encode()) is None


def test_more_than_one_entry_is_refused():
    suite = toy_suite()
    two = [make_record(toy_cell(name)) for name in ("lmc_mlp", "lmc_linear")]
    with pytest.raises(
        UserError, match=r"mixed contains more than one entry: .*lmc_linear, slow; .*lmc_mlp, fast"
    ):
        summarize("mixed", SUBMISSION_SHA256, two)
    recipes = [
        make_record(expand(suite, Selection(["lmc_mlp"], ["none"], ["0"], range(1), recipe))[0])
        for recipe in ("slow", "fast")
    ]
    with pytest.raises(UserError, match="one architecture with one recipe on one suite"):
        summarize("mixed", SUBMISSION_SHA256, recipes)
    with pytest.raises(UserError, match="Submission none has no records"):
        summarize("none", SUBMISSION_SHA256, [])
