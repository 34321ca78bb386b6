import json
import random

import pytest
from scipy import stats

from builders import SUITE_TOML, make_record, toy_cell, toy_suite, write_run
from lmcbench.errors import UserError
from lmcbench.gate.compare import compare, select_gate
from lmcbench.gate.comparison import as_json
from lmcbench.gate.matching import same_observations
from lmcbench.gate.render import headline, render
from lmcbench.results.cell_values import cell_value
from lmcbench.results.record_files import read_records
from lmcbench.results.record_parser import parse_record
from lmcbench.spec.gate_tests import DEFAULT_GATE, GateTest

BARRIER = GateTest(measure="error_mid", kind="equivalence", margin=0.05, reason="for tests")
ACCURACY = GateTest(measure="accuracy_mean", kind="non-inferiority", margin=0.01, reason="for tests")
SHIFTS = ("none", "label-skew")
BASE_BARRIERS = [0.10, 0.13, 0.22, 0.05, 0.31]


def side(barriers=BASE_BARRIERS, errors=None, shifts=SHIFTS, forks=("0",), suite=None, first=0, **other):
    """A record per replicate, shift and fork; a replicate's cells share its barrier and member error."""
    errors = [0.05] * len(barriers) if errors is None else errors
    return [
        make_record(
            toy_cell(shift=s, fork=f, replicate=first + r, suite=suite),
            barrier_error=b,
            member_error=e,
            **other,
        )
        for r, (b, e) in enumerate(zip(barriers, errors, strict=True))
        for s in shifts
        for f in forks
    ]


def edited(record, change):
    table = json.loads(record.to_json())
    change(table)
    return parse_record(json.dumps(table), "edited")


def verdicts(found):
    return {t.test.measure: t.judgement.verdict for t in found.tests}


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_equal_runs_are_identical_and_said_to_be_so_first(n):
    found = compare(side(BASE_BARRIERS[:n]), side(BASE_BARRIERS[:n]))
    assert (found.verdict, found.exit_code, found.matched) == ("identical", 0, 2 * n)
    assert render(found, "x").startswith(
        f"Identical: everything measured is equal to the last bit in all {2 * n}"
    )


def test_time_engine_and_order_are_no_difference():
    other = side(env={"engine": "reference", "device": "cuda"}, cost=None)
    random.Random(0).shuffle(other)
    assert compare(side(), other).verdict == "identical"


def test_a_difference_in_the_last_bit_of_anything_measured_is_one():
    def nudge(table):
        table["siblings"][0]["splits"]["test"]["ece"] += 1e-16

    head = side()
    head[3] = edited(head[3], nudge)
    found = compare(side(), head)
    assert (found.verdict, found.exit_code) == ("equivalent", 0)
    assert set(verdicts(found).values()) == {"identical"}


def test_a_measure_that_only_one_side_takes_is_no_difference():
    def more(table):
        table["pairs"][0]["new_measure"] = 1.0
        table["pairs"][0]["geometry"] = {"angle": 1.0}
        table["ensemble"]["test"]["new_measure"] = 1.0

    assert compare(side(), [edited(r, more) for r in side()]).verdict == "identical"


def test_what_diverged_is_not_the_same_as_what_was_measured():
    assert not same_observations(make_record(), make_record(status="diverged"))
    assert same_observations(make_record(status="diverged"), make_record(status="diverged", reason="other"))


def test_the_replicate_is_the_unit():
    """Pairs, shifts and forks are averaged inside it: the numbers are those of five paired differences."""
    rng = random.Random(1)
    new = [b + rng.gauss(0.01, 0.02) for b in BASE_BARRIERS]
    forks = ("0", "2", "independent")
    found = compare(side(forks=forks), side(new, forks=forks), [BARRIER])
    [tested] = found.tests
    theirs = stats.ttest_rel(new, BASE_BARRIERS)
    assert tested.difference.n == (5, 5)
    assert tested.difference.estimate == pytest.approx(theirs.statistic * tested.difference.error)
    assert tested.judgement.p_change == pytest.approx(theirs.pvalue)
    table = as_json(found)["tests"][0]
    assert table["n"] == 5
    assert table["interval_90"] == pytest.approx(tuple(theirs.confidence_interval(0.9)))
    assert table["interval_95"] == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_differences_that_cancel_inside_a_replicate_are_not_called_equal():
    head = [
        make_record(toy_cell(shift=s, replicate=r), barrier_error=b + (0.125 if s == "none" else -0.125))
        for r, b in enumerate([0.25, 0.375])
        for s in SHIFTS
    ]
    found = compare(side([0.25, 0.375]), head, [BARRIER])
    assert found.tests[0].difference.estimate == 0
    assert verdicts(found) == {"error_mid": "equivalent"}


@pytest.mark.parametrize(
    ("barrier", "error", "expected", "code", "measures"),
    [
        (0.2, 0.0, "changed", 1, {"error_mid": "changed", "accuracy_mean": "equivalent"}),
        (-0.04, 0.0, "equivalent", 0, {"error_mid": "equivalent", "accuracy_mean": "equivalent"}),
        (0.0, 0.03, "regressed", 1, {"error_mid": "equivalent", "accuracy_mean": "regressed"}),
        (0.0, -0.03, "improved", 0, {"error_mid": "equivalent", "accuracy_mean": "improved"}),
        (0.2, 0.03, "regressed", 1, {"error_mid": "changed", "accuracy_mean": "regressed"}),
        (0.2, -0.03, "changed", 1, {"error_mid": "changed", "accuracy_mean": "improved"}),
    ],
)
def test_verdicts_and_exit_codes(barrier, error, expected, code, measures):
    noise = [0.001, -0.001, 0.002, -0.002, 0.0005]
    new = [b + barrier + e for b, e in zip(BASE_BARRIERS, noise, strict=True)]
    found = compare(side(), side(new, [0.05 + error + e for e in noise]), [BARRIER, ACCURACY])
    assert (found.verdict, found.exit_code) == (expected, code)
    assert verdicts(found) == measures
    bad = [m for m, v in measures.items() if v == expected]
    if code == 1:
        assert all(name in headline(found) for name in bad)


def test_too_few_replicates_are_inconclusive_and_it_is_said_how_many_it_takes():
    found = compare(
        side(), side([b + e for b, e in zip(BASE_BARRIERS, (0.2, -0.2, 0.1, -0.1, 0.05), strict=True)])
    )
    assert (found.verdict, found.exit_code) == ("inconclusive", 3)
    needed = found.tests[0].judgement.replicates_needed
    assert needed > 5
    assert f"about {needed} replicates would tell" in render(found, "x")


def test_one_replicate_is_inconclusive():
    found = compare(side([0.1]), side([0.9]))
    assert (found.verdict, found.exit_code) == ("inconclusive", 3)
    assert "One replicate shows no spread" in " ".join(found.notes)
    # even where all that is tested is equal, when something else is not
    other = compare(side([0.1]), side([0.1], soup_error=0.07))
    assert (other.verdict, other.exit_code) == ("inconclusive", 3)


def test_three_noisy_replicates_have_no_power_and_it_is_said():
    found = compare(side([0.1, 0.2, 0.3]), side([0.2, 0.2, 0.2]), [BARRIER])
    assert "would most likely be missed in error_mid" in " ".join(found.notes)


# --- the gate's cells ----------------------------------------------------------------------------


def test_a_test_looks_at_its_own_cells():
    gate = [BARRIER.model_copy(update={"shifts": ["label-skew"], "forks": ["0"]})]
    base = side(forks=("0", "2"))
    head = [
        r
        if (r.shift.name, r.fork.name) != ("label-skew", "0")
        else make_record(toy_cell(shift="label-skew", replicate=r.replicate), barrier_error=0.9)
        for r in base
    ]
    found = compare(base, head, gate)
    assert found.tests[0].head == pytest.approx(0.9)
    assert found.tests[0].cells == "shift label-skew, fork 0"
    assert found.tests[0].largest is None  # one group: nothing to point at
    wide = [BARRIER.model_copy(update={"shifts": ["label-skew", "dirichlet"], "forks": ["0", "9"]})]
    assert compare(base, head, wide).tests[0].cells == "shift label-skew, fork 0"  # what is there, no more
    without = compare(side(forks=("2",)), side([0.9] * 5, forks=("2",)), gate)
    assert without.tests[0].cells == "all cells"
    assert "There are no cells of shift label-skew, fork 0 here" in without.notes[0]


def test_where_the_difference_is_largest_is_named():
    base = side()
    head = [
        r
        if r.shift.name == "none"
        else make_record(toy_cell(shift="label-skew", replicate=r.replicate), barrier_error=0.9)
        for r in base
    ]
    found = compare(base, head, [BARRIER])
    assert found.tests[0].largest.startswith("lmc_mlp (fast) | label-skew | fork 0: +0.7")
    assert "error_mid: largest in lmc_mlp (fast) | label-skew" in render(found, "x")


def test_everything_else_is_described_and_not_judged():
    found = compare(side(), side(disagreement=0.5))
    assert found.verdict == "equivalent"
    described = {m.measure: m.difference.estimate for m in found.measures}
    assert described["disagreement"] == pytest.approx(0.47)
    assert "described, not tested" in render(found, "x")


def test_the_gate_comes_from_the_suite(tmp_path):
    assert select_gate(side()) == (
        DEFAULT_GATE,
        "the defaults (the suite is not a published one; --suite FILE names yours)",
    )
    own = (
        '[[gate]]\nmeasure = "disagreement"\nkind = "equivalence"\nmargin = 0.02\nreason = "so"\nforks = [0]'
    )
    (tmp_path / "toy.toml").write_text(f"{SUITE_TOML}\n{own}\n")
    [test], origin = select_gate(side(), str(tmp_path / "toy.toml"))
    assert (test.measure, test.margin, test.forks) == ("disagreement", 0.02, ["0"])
    assert origin.endswith("toy.toml")


# --- incomplete, diverged, not comparable --------------------------------------------------------


def test_missing_cells_on_either_side():
    whole, part = side(), side()[:-1]
    for base, head, name in ((whole, part, "missing in HEAD"), (part, whole, "missing in BASE")):
        found = compare(base, head)
        assert (found.verdict, found.exit_code) == ("incomplete", 5)
        assert f"1 cell of {'BASE' if base is whole else 'HEAD'} is {name}: " in headline(found)
        assert "lmc_mlp (fast) | label-skew | fork 0 | replicate 4" in headline(found)


def test_failed_cells_on_one_side():
    head = side()
    head[0] = make_record(toy_cell(), status="failed")
    found = compare(side(), head)
    assert (found.verdict, found.exit_code, len(found.failed)) == ("incomplete", 5, 1)
    assert "1 cell failed: lmc_mlp (fast) | none | fork 0 | replicate 0 in HEAD" in headline(found)


@pytest.mark.parametrize(("where", "expected"), [("head", "regressed"), ("base", "changed")])
def test_diverged_on_one_side_is_a_change(where, expected):
    one, two = side(), side()
    (two if where == "head" else one)[0] = make_record(toy_cell(), status="diverged")
    found = compare(one, two)
    assert (found.verdict, found.exit_code) == (expected, 1)
    assert (
        "1 cell diverged or did not learn on one side only: lmc_mlp (fast) | none | fork 0 | replicate 0 in "
        f"{where.upper()}" in headline(found)
    )


def test_diverged_on_both_sides_is_counted_and_in_no_mean():
    one, two = side(), side([b + 0.001 for b in BASE_BARRIERS])
    one[0] = two[0] = make_record(toy_cell(), status="diverged")
    found = compare(one, two, [BARRIER])
    assert found.verdict == "equivalent"
    assert "1 cell diverged or did not learn on both sides, in no mean." in found.notes[0]


@pytest.mark.parametrize("across", [[], ["seeds"]])
def test_where_every_cell_diverged_on_both_sides_nothing_was_compared(across):
    everything = [make_record(toy_cell(replicate=r), status="diverged") for r in range(2)]
    found = compare(everything, everything, across=across)
    assert (found.verdict, found.exit_code, found.measured) == ("inconclusive", 3, 0)
    assert headline(found) == "Inconclusive: nothing was compared (all cells diverged or failed)."
    assert as_json(found)["cells"]["measured"] == 0


def test_cells_that_failed_on_both_sides_are_not_called_identical():
    failed = [make_record(toy_cell(replicate=r), status="failed") for r in range(2)]
    found = compare(failed, failed)
    assert (found.verdict, found.exit_code) == ("incomplete", 5)
    assert "identical" not in headline(found)


def test_a_described_measure_that_moved_is_marked_and_counted():
    """The tested measures are equivalent, and the calibration error of every network doubled."""

    def double_ece(table):
        for sibling in table["siblings"]:
            sibling["splits"]["test"]["ece"] *= 2

    head = [edited(record, double_ece) for record in side()]
    found = compare(side(), head, [BARRIER, ACCURACY])
    assert (found.verdict, found.exit_code, found.moved) == ("equivalent", 0, ["ece"])
    assert "moved (95 % interval excludes 0): 1 measure (ece)" in headline(found)
    for markdown in (False, True):
        [row] = [
            line for line in render(found, "x", markdown).splitlines() if "ece " in line and "moved" in line
        ]
        assert row.rstrip("| ").endswith("moved")
    shown = as_json(found)
    assert shown["moved"] == ["ece"]
    assert {m["measure"] for m in shown["measures"] if m["moved"]} == {"ece"}


def test_a_measure_that_is_judged_over_all_cells_is_not_counted_as_untested():
    found = compare(side(), side([b + 0.3 for b in BASE_BARRIERS]), [BARRIER])
    assert found.verdict == "changed"
    assert "error_mid" not in found.moved
    assert found.moved == [m.measure for m in found.measures if m.moved and m.measure != "error_mid"]


def test_another_suite_is_not_comparable_unless_asked_for():
    version_2 = toy_suite(version=2)
    found = compare(side(), side(suite=version_2))
    assert (found.verdict, found.exit_code, found.tests) == ("not comparable", 4, [])
    assert "toy version 1 (digest " in headline(found)
    assert "toy version 2 (digest " in headline(found)
    asked = compare(side(), side([b + 0.3 for b in BASE_BARRIERS], suite=version_2), [BARRIER], ["suite"])
    assert (asked.verdict, asked.matched) == ("changed", 10)
    assert asked.notes[0] == "Compared across suite on purpose: they differ in it by design."


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["data"][1].update(sha256="3" * 64),
        lambda t: t["data"][1].update(n=359),
        lambda t: t["protocol"]["calibration"].update(n=7),
    ],
)
def test_other_data_or_protocol_is_not_comparable(change):
    head = side()
    head[2] = edited(head[2], change)
    found = compare(side(), head)
    assert (found.verdict, found.exit_code) == ("not comparable", 4)
    assert " differ: " in headline(found)


def test_where_the_data_lay_and_what_statistics_came_of_do_not_matter():
    def change(table):
        table["data"][0]["source"] = "parquet"
        table["protocol"]["calibration"]["items"] = "4" * 64

    assert compare(side(), [edited(r, change) for r in side()]).verdict == "identical"


def test_nothing_in_common_is_not_comparable():
    found = compare(side(), side(first=100))
    assert (found.verdict, found.exit_code) == ("not comparable", 4)
    assert "no cell in common" in headline(found)


# --- across --------------------------------------------------------------------------------------


def test_across_architecture_and_recipe():
    linear = [
        make_record(toy_cell("lmc_linear", s, replicate=r), barrier_error=0.0)
        for r in range(5)
        for s in SHIFTS
    ]
    assert compare(linear, side()).exit_code == 4
    assert compare(linear, side(), across=["architecture"]).exit_code == 4  # their recipes differ too
    found = compare(linear, side(), [BARRIER], ["architecture", "recipe"])
    assert (found.verdict, found.matched) == ("changed", 10)
    assert found.tests[0].difference.paired
    assert found.tests[0].difference.estimate == pytest.approx(sum(BASE_BARRIERS) / 5)
    with pytest.raises(UserError, match="BASE has 2 cells where one is needed: lmc_linear"):
        compare([*linear, *side()], side(), across=["architecture", "recipe"])


def test_across_seeds_uses_welch_and_says_so():
    new = [0.5, 0.7, 0.6, 0.65, 0.9, 0.8, 0.4]
    found = compare(side(), side(new, first=100), [BARRIER], ["seeds"])
    theirs = stats.ttest_ind(new, BASE_BARRIERS, equal_var=False)
    [tested] = found.tests
    assert (found.verdict, tested.difference.n) == ("changed", (5, 7))
    assert tested.judgement.p_change == pytest.approx(theirs.pvalue)
    assert "Welch" in " ".join(found.notes)
    assert "Welch t" in render(found, "x")
    assert as_json(found)["tests"][0]["method"] == "Welch t"


def test_across_seeds_whole_replicates_only():
    head = side([0.1, 0.2, 0.3], first=100)
    head[0] = make_record(toy_cell(shift="none", replicate=100), status="diverged")
    found = compare(side(), head, [BARRIER], ["seeds"])
    assert found.tests[0].difference.n == (5, 2)
    assert "a cell of theirs was not measured: 0 replicates of BASE and 1 of HEAD." in " ".join(found.notes)
    assert found.verdict == "inconclusive"
    assert compare(side(), side(shifts=("none",), first=100), across=["seeds"]).exit_code == 5
    assert compare(side(), side(), across=["seeds"]).verdict == "identical"


def test_across_refusals():
    with pytest.raises(UserError, match=r"across 'seed'\. Did you mean 'seeds'"):
        compare(side(), side(), across=["seed"])
    with pytest.raises(UserError, match="Across seeds and architecture at once nothing is left"):
        compare(side(), side(), across=["seeds", "architecture"])


# --- bad sides -----------------------------------------------------------------------------------


def test_a_side_is_one_run_of_one_suite(tmp_path):
    with pytest.raises(UserError, match="HEAD holds records of more than one suite: toy version 1"):
        compare(side(), [*side(), *side(suite=toy_suite(version=2))])
    with pytest.raises(UserError, match=r"BASE holds the cell lmc_mlp .* replicate 0 twice"):
        compare([*side(), side()[0]], side())
    write_run(tmp_path / "run", side())
    assert len(read_records(tmp_path / "run")) == len(read_records(tmp_path / "run" / "records")) == 10


# --- values and output ---------------------------------------------------------------------------


def test_values_are_means_over_pairs_and_siblings():
    table = json.loads(make_record(toy_cell(suite=toy_suite(siblings=3))).to_json())
    for pair, value in zip(table["pairs"], (0.1, 0.2, 0.6), strict=True):
        pair["barriers"]["test"]["error_mid"] = value
        pair["disagreement"]["test"] = value / 2
    table["siblings"][0]["splits"]["test"]["error"] = 0.35
    record = parse_record(json.dumps(table), "x")
    assert cell_value(record, "error_mid") == pytest.approx(0.3)
    assert cell_value(record, "disagreement") == pytest.approx(0.15)
    assert cell_value(record, "error") == pytest.approx(0.15)
    assert cell_value(record, "soup_error") == 0.06
    assert cell_value(record, "accuracy_mean") == 0.95
    assert cell_value(record, "no_such_measure") is None
    assert cell_value(make_record(status="diverged"), "error_mid") is None


def test_json_holds_no_nan_and_all_there_is():
    found = as_json(compare(side([0.1]), side([0.2])))
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert list(found) == [
        "schema",
        "verdict",
        "exit_code",
        "reasons",
        "base",
        "head",
        "across",
        "cells",
        "alpha",
        "tests",
        "moved",
        "measures",
        "notes",
    ]
    assert found["tests"][0]["interval_90"] is None


def test_markdown_for_a_pull_request():
    found = compare(side(), side([b + 0.3 for b in BASE_BARRIERS]))
    text = render(found, "digits-v2", markdown=True)
    assert text.startswith(
        "### lmcbench: changed\n\nA tested measure moved by more than its margin (error_mid). Not tested"
    )
    assert "| error_mid" in text
    assert "<details><summary>All measures" in text
    assert text.count("<details>") == text.count("</details>") == 1


TEN = toy_suite(
    recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
    forks=[0, 3, "independent"],
)
AREA = GateTest(measure="instability_area", kind="equivalence", margin=0.02, reason="for tests")


def test_the_shift_whose_area_differs_most_is_named():
    base = [0.10, 0.14, 0.20, 0.12, 0.30]
    old = [*with_areas(base), *with_areas(base, "label-skew")]
    new = [*with_areas(base), *with_areas([a + 0.2 for a in base], "label-skew")]
    assert compare(old, new, [AREA]).tests[0].largest == "lmc_mlp (fast) | label-skew: +0.2000"


def with_areas(areas, shift="disjoint-halves"):
    """Runs whose area of a replicate is as given: the same instability at forks 0 and 30 %."""
    return [
        make_record(
            toy_cell(shift=shift, fork=fork, replicate=r, suite=TEN),
            barrier_loss=2.0 if fork == "independent" else 2.0 * area,
        )
        for r, area in enumerate(areas)
        for fork in ("0", "3", "independent")
    ]


def test_the_area_is_compared_by_replicate():
    base = [0.10, 0.14, 0.20, 0.12, 0.30]
    found = compare(with_areas(base), with_areas([a + d for a, d in zip(base, SMALL, strict=True)]), [AREA])
    [test] = found.tests
    assert test.difference.n == (5, 5)
    assert (test.base, test.head) == (pytest.approx(0.172), pytest.approx(0.172 + sum(SMALL) / 5))
    assert found.verdict == "equivalent"
    assert compare(with_areas(base), with_areas([a + 0.2 for a in base]), [AREA]).verdict == "changed"
    assert found.tests[0].largest is None  # one shift: nothing to point at
    seeds = compare(with_areas(base), with_areas(base[::-1]), [AREA], across=("seeds",))
    assert seeds.tests[0].difference.estimate == pytest.approx(0)
    # undefined where independent networks are connected
    convex = [edited(r, flat) for r in with_areas(base)]
    assert "instability_area was not measured on both sides" in " ".join(
        compare(convex, convex, [AREA]).notes
    )


SMALL = [0.001, -0.002, 0.003, 0.0, 0.001]


def flat(table):
    table["pairs"][0]["barriers"]["test"]["loss_mid"] = -0.01
