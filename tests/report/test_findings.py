import json

import pytest
from scipy import stats

from builders import make_record, toy_cell, toy_suite
from lmcbench.errors import UserError
from lmcbench.report.claims import CLAIMS, Claim
from lmcbench.report.findings import evaluate_claims, exact_test, judge_claim, render_findings
from lmcbench.report.rank_correlation import rank_correlations
from lmcbench.results.record import parse_record
from lmcbench.stats.estimates import Contrast

N = 3
SPREAD = [0.0, 0.01, 0.02]
"""What is added to a value in each replicate: its mean is 0.01, its interval +- 0.0248."""


def changed(record, **fields):
    """The record with nested values set: `pairs__0__geometry`."""
    table = json.loads(record.to_json())
    for path, value in fields.items():
        *way, last = path.split("__")
        at = table
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value
    return parse_record(json.dumps(table), "x")


def cells(n=N, shift="none", fork="0", **numbers):
    """A record a replicate; a number may be a function of the replicate."""
    found = []
    for r in range(n):
        given = {k: v(r) if callable(v) else v for k, v in numbers.items()}
        found.append(make_record(toy_cell(shift=shift, fork=fork, replicate=r), **given))
    return found


def the(name, records, split="test"):
    [finding] = [f for f in evaluate_claims(records) if f.claim.name == name and f.split == split]
    return finding


def around(value):
    return lambda r: value + SPREAD[r]


def half_width(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "verdict"), [(0.1, "supported"), (0.0, "not supported"), (-0.1, "contrary")]
)
def test_verdicts_follow_the_interval(raised, verdict):
    records = [
        *cells(shift="disjoint-halves", barrier_error=around(0.2 + raised)),
        *cells(shift="same-half", barrier_error=0.2),
    ]
    found = the("shift-raises-barrier", records)
    assert found.verdict == verdict
    assert found.effect.mean == pytest.approx(raised + 0.01)
    assert found.effect.half_width == pytest.approx(half_width(SPREAD))
    assert (found.effect.n, found.contrasts, found.excluded) == (3, 1, 0)


def test_an_interval_that_begins_just_below_zero_says_so():
    """It holds zero: +0.00 beside "not supported" would look like a mistake."""
    below = half_width(SPREAD) - 0.01 - 1e-5
    records = [
        *cells(shift="disjoint-halves", barrier_error=around(0.2 + below)),
        *cells(shift="same-half", barrier_error=0.2),
    ]
    row = next(line for line in render_findings(records).splitlines() if "same(...) control" in line)
    assert row.split("|")[4].strip() == "-0.00 to +4.97"
    assert "not supported" in row


def test_replicates_that_agree_to_rounding_give_no_verdict():
    claim = CLAIMS[0]
    contrasts = [Contrast(r, ("a",), 0.1 + 0.2 - 0.3) for r in range(3)]
    found = judge_claim(claim, "test", contrasts)
    assert (found.effect.mean, found.effect.half_width) == (pytest.approx(5.6e-17, rel=0.1), 0.0)
    assert found.verdict == "not testable here"
    assert found.reason == "all replicates agree to rounding: no spread to take an interval from"
    # however large the effect: five equal rank correlations are no certainty
    equal = judge_claim(CLAIMS[3], "test", [Contrast(r, ("a",), 1.0) for r in range(5)])
    assert (equal.claim.unit, equal.effect.mean, equal.verdict) == ("correlation", 1.0, "not testable here")


def test_two_replicates_have_an_interval_and_no_verdict():
    claim = CLAIMS[0]
    two = judge_claim(claim, "test", [Contrast(r, ("a",), 0.3 + 0.001 * r) for r in range(2)])
    assert (two.verdict, two.reason) == ("not testable here", "2 replicates of the 3 that a verdict needs")
    assert two.effect.half_width > 0
    three = judge_claim(claim, "test", [Contrast(r, ("a",), 0.3 + 0.001 * r) for r in range(3)])
    assert three.verdict == "supported"
    text = render_findings(
        [*cells(n=2, shift="disjoint-halves", barrier_error=around(0.3)), *cells(n=2, shift="same-half")]
    )
    row = next(line for line in text.splitlines() if "same(...) control" in line)
    assert [part.strip() for part in row.split("|")[3:8]] == [
        *["+20.50", "+14.15 to +26.85", "2", "1"],
        "not testable here: 2 replicates of the 3 that a verdict needs",
    ]


def test_one_replicate_and_nothing_to_compare_are_not_testable():
    pair = [make_record(toy_cell(shift=s), barrier_error=0.2) for s in ("disjoint-halves", "same-half")]
    found = the("shift-raises-barrier", pair)
    assert (found.verdict, found.reason) == ("not testable here", "one replicate has no interval")
    for finding in evaluate_claims(pair[:1]):
        assert finding.verdict == "not testable here"
        assert finding.effect.mean is None or finding.effect.n == 1
        assert finding.effect.half_width is None


def test_forks_and_shifts_inside_a_replicate_are_no_extra_n():
    records = [
        *cells(shift="disjoint-halves", fork="0", barrier_error=0.5),
        *cells(shift="disjoint-halves", fork="2", barrier_error=around(0.3)),
        *cells(shift="same-half", fork="0", barrier_error=0.2),
        *cells(shift="same-half", fork="2", barrier_error=0.2),
    ]
    found = the("shift-raises-barrier", records)
    assert (found.effect.n, found.contrasts) == (3, 2)
    assert found.effect.mean == pytest.approx((0.3 + 0.11) / 2)
    assert found.effect.half_width == pytest.approx(half_width(SPREAD) / 2)


def test_only_contrasts_of_every_replicate_count():
    claim = CLAIMS[0]
    contrasts = [
        Contrast(0, ("a",), 1.0),
        Contrast(0, ("b",), 100.0),
        Contrast(1, ("a",), 3.0),
    ]
    found = judge_claim(claim, "test", contrasts)
    assert (found.effect.mean, found.contrasts, found.excluded) == (2.0, 1, 1)
    apart = judge_claim(claim, "test", [Contrast(0, ("a",), 1.0), Contrast(1, ("b",), 1.0)])
    assert (apart.verdict, apart.reason) == (
        "not testable here",
        "no contrast was measured in every replicate",
    )


def test_diverged_cells_are_in_no_contrast():
    records = [
        *cells(shift="disjoint-halves", barrier_error=0.3),
        *cells(n=2, shift="same-half", barrier_error=0.2),
        make_record(toy_cell(shift="same-half", replicate=2), status="diverged"),
    ]
    assert the("shift-raises-barrier", records).effect.n == 2
    assert "1 of 6 cells diverged or failed" in render_findings(records)


# --- each claim, for and against -----------------------------------------------------------------


def test_noise_claims_are_slopes_over_log_g_at_an_else_equal_recipe():
    recipes = {
        name: {"lr": lr, "batch_size": 32, "epochs": epochs}
        for name, lr, epochs in (("a", 0.1, 4), ("b", 0.2, 4), ("c", 0.4, 4), ("long", 0.8, 8))
    }
    suite = toy_suite(
        recipes=recipes,
        architectures=[{"name": "lmc_mlp", "recipe": name} for name in recipes],
    )

    def records(shift, per_doubling):
        return [
            make_record(
                toy_cell(shift=shift, replicate=r, suite=one),
                member_error=0.01,
                barrier_error=0.5 + per_doubling * i + SPREAD[r] * i,
            )
            for r in range(N)
            for i, name in enumerate(recipes)
            for one in [
                suite.model_copy(
                    update={"architectures": [a for a in suite.architectures if a.recipe == name]}
                )
            ]
        ]

    # g is proportional to lr at fixed N and B; the longer recipe is in a group of its own and gives no slope
    found = the("noise-without-shift", records("none", 0.05))
    assert found.effect.mean == pytest.approx(0.05 + 0.01)
    assert (found.verdict, found.contrasts) == ("supported", 1)
    assert the("noise-with-shift", records("none", 0.05)).verdict == "not testable here"
    against = the("noise-with-shift", records("label-skew", -0.1))
    assert against.effect.mean == pytest.approx(-0.1 + 0.01)
    assert against.verdict == "contrary"
    underfit = [changed(r, siblings__0__splits__view__error=0.03) for r in records("none", 0.05)]
    assert the("noise-without-shift", underfit).verdict == "not testable here"


def blended(record, height):
    curves = json.loads(record.to_json())["pairs"][0]["curves"]
    middle = len(curves["test"]["error"]) // 2
    curves["test"]["error"][middle] = curves["test"]["error"][0] + height
    return changed(record, pairs__0__curves_uncalibrated=curves)


def test_recalibration():
    records = [blended(r, 0.5 + SPREAD[i]) for i, r in enumerate(cells(barrier_error=0.1))]
    found = the("recalibration", records)
    assert found.effect.mean == pytest.approx(0.41)
    assert found.verdict == "supported"
    assert the("recalibration", cells(barrier_error=0.1)).reason == "the records do not hold what it needs"


def worth(record, **numbers):
    pair = {"pairs__0__disagreement__test": numbers["disagreement"]} if "disagreement" in numbers else {}
    return changed(record, **pair, **{f"ensemble__test__{k}": v for k, v in numbers.items()})


@pytest.mark.parametrize(("height", "verdict"), [(0.01, "supported"), (0.3, "not testable here")])
def test_siblings_against_independent_networks_only_where_connected(height, verdict):
    siblings = cells(barrier_error=height)
    independent = cells(fork="independent", barrier_error=0.9)
    records = [
        *(
            worth(r, disagreement=0.01, error_overlap=0.8, ensemble_gain=0.001 * i)
            for i, r in enumerate(siblings)
        ),
        *(
            worth(r, disagreement=0.2 + SPREAD[i], error_overlap=0.3 + SPREAD[i], ensemble_gain=0.02)
            for i, r in enumerate(independent)
        ),
    ]
    for name, effect in (("disagree-less", 0.2), ("overlap-more", 0.49), ("gain-less", 0.019)):
        found = the(name, records)
        assert found.verdict == verdict
        if verdict == "supported":
            assert found.effect.mean == pytest.approx(effect)
    # the other way round it is contrary
    if verdict == "supported":
        turned = [
            *(worth(r, disagreement=0.2 + SPREAD[i] / 9) for i, r in enumerate(siblings)),
            *(worth(r, disagreement=0.1) for r in independent),
        ]
        assert the("disagree-less", turned).verdict == "contrary"


def comparator(records, name, steps, **fields):
    """The same cells with another fork name, length and numbers."""
    return [
        changed(
            r,
            key=f"{i:016x}",
            fork={"name": name, "epoch": None, "step": None, "fraction": None},
            cost__train_steps=steps,
            **fields,
        )
        for i, r in enumerate(records)
    ]


def test_equal_cost_is_said_of_equal_steps_only():
    siblings = cells(fork="2", ensemble_error=around(0.05))
    same = comparator(siblings, "independent-equal-cost", 299, ensemble__test__ensemble_accuracy=0.9)
    found = the("equal-cost", [*siblings, *same])
    assert found.effect.mean == pytest.approx(1 - 0.06 - 0.9)
    assert found.verdict == "supported"
    dearer = comparator(siblings, "independent-equal-cost", 302, ensemble__test__ensemble_accuracy=0.9)
    assert the("equal-cost", [*siblings, *dearer]).verdict == "not testable here"


def test_equal_cost_is_tested_under_every_evaluation_shift():
    siblings = cells(fork="2", ensemble_error=0.05)
    other = comparator(siblings, "independent-equal-cost", 300)
    slack = {0.5: 0.0, 0.8: 0.5}
    shifted = [
        changed(
            r,
            **{
                "siblings__0__splits__test:noise-3": {"error": 0.1, "loss": 1, "ece": 0},
                "siblings__1__splits__test:noise-3": {"error": 0.1, "loss": 1, "ece": 0},
                "pairs__0__curves__test:noise-3": r.pairs[0].curves["test"].model_dump(),
                "pairs__0__barriers__test:noise-3": r.pairs[0].barriers["test"].model_dump(),
                "ensemble__test:noise-3": {
                    "ensemble_accuracy": accuracy + slack[accuracy] * SPREAD[r.replicate]
                },
            },
        )
        for group, accuracy in ((siblings, 0.5), (other, 0.8))
        for r in group
    ]
    found = the("equal-cost", shifted, "test:noise-3")
    assert (found.verdict, found.effect.mean) == ("contrary", pytest.approx(-0.305))
    assert the("equal-cost", shifted).effect.mean == 0
    assert "independent networks (test:noise-3)" in render_findings(shifted)
    names = [f.claim.name for f in evaluate_claims(shifted) if f.split != "test"]
    assert names == ["equal-cost", "whole-budget"]


def test_whole_budget_is_one_network():
    siblings = cells(fork="2", ensemble_error=around(0.05))
    single = [
        changed(r, siblings=json.loads(r.to_json())["siblings"][:1], pairs=[], ensemble=None, soup=None)
        for r in comparator(siblings, "whole-budget", 300)
    ]
    found = the("whole-budget", [*siblings, *single])
    # member_error of the builder is 0.05
    assert found.effect.mean == pytest.approx(0.94 - 0.95)
    assert found.verdict == "not supported"


def test_later_forks_and_distances():
    early = [changed(r, pairs__0__geometry={"distance_ab": 4.0}) for r in cells(barrier_error=around(0.3))]
    late = [
        changed(r, pairs__0__geometry={"distance_ab": 1 + 4 * SPREAD[i]})
        for i, r in enumerate(cells(fork="2", barrier_error=0.1))
    ]
    assert the("later-forks", [*early, *late]).effect.mean == pytest.approx(0.21)
    distance = the("distance-falls", [*early, *late])
    assert (distance.effect.mean, distance.verdict) == (pytest.approx(0.74), "supported")
    assert the("later-forks", early).verdict == "not testable here"


def curvature(record, predicted, measured):
    rise, point = (
        [0, predicted, 0],
        {"top": [], "residuals": [], "trace": 0, "trace_standard_error": 0, "probes": 1},
    )
    curve = {
        "split": "train",
        "n": 100,
        "alphas": [0, 0.5, 1],
        "loss": [0.1, 0.1 + measured, 0.1],
        "error": [0, 0, 0],
        "predicted": rise,
        "predicted_with_gradients": rise,
        "hessian": [{"alpha": alpha, **point} for alpha in (0, 0.5, 1)],
    }
    return changed(record, pairs__0__curvature=curve)


SHIFTS = ("none", "same-half", "disjoint-halves", "label-skew")
ORDERS = ([1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 3, 4])
"""Ranks within three replicates: correlations with 1, 2, 3, 4 are 1, 0.8 and 1."""
ZOO = toy_suite(architectures=[{"name": n, "recipe": "fast"} for n in ("lmc_linear", "lmc_cnn", "lmc_mlp")])


def probed(architecture, sign=1, fork="0"):
    """Cells whose measured barriers follow `ORDERS` and whose predictions are `sign` times 1, 2, 3, 4."""
    return [
        curvature(
            make_record(toy_cell(architecture, shift=shift, fork=fork, replicate=r, suite=ZOO)),
            sign * (i + 1),
            0.1 * ranks[i],
        )
        for r, ranks in enumerate(ORDERS)
        for i, shift in enumerate(SHIFTS)
    ]


def test_second_order_form_ranks_barriers():
    found = the("second-order", probed("lmc_mlp"))
    assert found.effect.mean == pytest.approx(2.8 / 3)
    assert (found.effect.n, found.contrasts, found.verdict) == (3, 1, "supported")
    skipped = [changed(r, pairs__0__curvature={"skipped": "no"}) for r in cells()]
    assert the("second-order", skipped).verdict == "not testable here"


def test_a_network_that_the_form_ranks_backwards_stays_in():
    """All its predictions are below 0 inside the line: a maximum over the whole line ties them at 0."""
    backwards = probed("lmc_mlp", sign=-1)
    found = the("second-order", backwards)
    assert (found.effect.mean, found.verdict) == (pytest.approx(-2.8 / 3), "contrary")
    both = the("second-order", [*probed("lmc_cnn"), *backwards])
    assert (both.effect.mean, both.contrasts) == (pytest.approx(0, abs=1e-12), 2)
    sunk = [curvature(r, 1 + i, -0.1 * i) for i, s in enumerate(SHIFTS) for r in cells(shift=s)]
    assert the("second-order", sunk).effect.mean == pytest.approx(-1)


def test_report_and_findings_give_one_answer_of_cells_that_leave_the_trunk():
    independent = [
        curvature(make_record(toy_cell("lmc_mlp", shift=s, fork="independent", replicate=r, suite=ZOO)), 9, 9)
        for r in range(N)
        for s in SHIFTS
    ]
    records = [*probed("lmc_mlp"), *independent]
    records = [changed(r, **with_gradients(r)) for r in records]
    reported = {f.form: f for f in rank_correlations(records)}
    assert reported["as published"].correlation == the("second-order", records).effect
    assert reported["as published"].correlation.mean == pytest.approx(2.8 / 3)
    assert [f.points for f in reported.values()] == [4, 4]


def with_gradients(record):
    predicted = json.loads(record.to_json())["pairs"][0]["curvature"]["predicted"]
    return {"pairs__0__curvature__predicted_with_gradients": predicted}


def test_the_baseline_is_in_no_pooled_effect():
    linear, mlp = probed("lmc_linear", sign=-1), probed("lmc_mlp")
    found = the("second-order", [*linear, *mlp])
    assert (found.effect.mean, found.contrasts) == (pytest.approx(2.8 / 3), 1)
    assert the("second-order", linear).verdict == "not testable here"
    # alone too, it is shown
    for records in (linear, [*linear, *mlp]):
        text = render_findings(records)
        row = next(x for x in text.split("### By architecture")[1].splitlines() if "ranks barriers" in x)
        assert row.split("|")[2].strip() == "-0.933, contrary"
        assert "lmc_linear is the permanent baseline" in text
    assert "baseline" not in render_findings(mlp)


def test_layers():
    switched = {"layers": ["0"], "loss": [0, 0], "error": [0, 0]}

    def records(line):
        def layer(k, rank):
            found, guess = {"loss": line(rank), "error": [0, 0, 0]}, [0, -k, 0]
            return {"from_a": found, "from_b": found, "predicted_from_a": guess, "predicted_from_b": guess}

        return [
            changed(
                r,
                pairs__0__layers={
                    "split": "train",
                    "n": 100,
                    "alphas": [0, 0.5, 1],
                    "cumulative": {"from_input": switched, "from_output": switched},
                    "layers": {f"{k}": layer(k, rank) for k, rank in enumerate(ORDERS[r.replicate])},
                },
            )
            for r in cells()
        ]

    hills = records(lambda rank: [0, rank, 0])
    found = the("layer-ranking", hills)
    assert (found.effect.mean, found.verdict) == (pytest.approx(-2.8 / 3), "contrary")
    [barrier, rise] = rank_correlations(hills)
    assert (barrier.over, barrier.points, barrier.correlation) == ("layers: barrier", 8, found.effect)
    assert rise.over == "layers: rise above the start"
    assert rise.correlation.mean == pytest.approx(-2.8 / 3)
    # a layer that only lowers the loss has its rank too, and the end is not inside
    [_, rise] = rank_correlations(records(lambda rank: [9, 8 - rank, 9]))
    assert rise.correlation.mean == pytest.approx(2.8 / 3)


def test_between_view_noise():
    records = [
        changed(
            record,
            noise={
                "views": [100, 100],
                "g": [1, 1],
                "g_momentum": [1, 1],
                "gradient": {"between_share": share},
            },
        )
        for shift, share, height in (
            ("none", 0.0, 0.1),
            ("disjoint-halves", 0.01, 0.2),
            ("label-skew", 0.3, 0.6),
        )
        for record in cells(shift=shift, barrier_error=height)
    ]
    assert the("between-view-noise", records).effect.mean == pytest.approx(1.0)
    assert the("between-view-noise", cells()).verdict == "not testable here"


def test_stable_early():
    stable = [*cells(barrier_error=0.01), *cells(fork="2", barrier_error=0.01)]
    found = the("stable-early", stable)
    # onsets fall on forks: that all fall on one is no interval
    assert (found.effect.mean, found.verdict) == (pytest.approx(0.2), "not testable here")
    never = [*cells(barrier_error=0.3), *cells(fork="2", barrier_error=0.3)]
    assert the("stable-early", never).effect.mean == pytest.approx(0.2 - 1)
    # stability is asked of networks without shift
    assert the("stable-early", cells(shift="label-skew")).verdict == "not testable here"


def test_how_many_contrasts_are_left_out_is_shown():
    apart = [*cells(n=1, fork="0", barrier_error=0.01), *cells(n=3, fork="2", barrier_error=0.01)]
    independent = [worth(r, disagreement=0.1 + SPREAD[i]) for i, r in enumerate(cells(fork="independent"))]
    found = the("disagree-less", [*apart, *independent])
    assert (found.contrasts, found.excluded, found.verdict) == (1, 1, "supported")
    text = render_findings([*apart, *independent])
    row = next(line for line in text.splitlines() if "disagree less" in line)
    assert row.split("|")[6].strip() == "1 (1 left out)"
    assert text.count("only shifts and forks that are connected in every replicate count") == 3


def test_the_shifts_that_were_compared_with_their_control_are_named():
    records = [r for s in SHIFTS for r in cells(shift=s)]
    assert (
        "compared were disjoint-halves with same-half; the records have no control of label-skew."
        in render_findings(records)
    )
    assert "over control: compared" not in render_findings(cells(shift="label-skew"))


# --- the whole -----------------------------------------------------------------------------------


def test_every_claim_is_in_the_table_with_its_exact_test():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) == 15
    text = render_findings(cells())
    for claim in CLAIMS:
        assert claim.statement in text
        assert len(exact_test(claim)) > 40
        assert exact_test(claim) in text
    assert "nan" not in text.lower()


def test_findings_by_architecture_and_of_a_demonstration():
    records = [
        make_record(toy_cell(architecture, shift=shift, replicate=r), barrier_error=value)
        for architecture, height in (("lmc_linear", 0.0), ("lmc_mlp", 0.4))
        for shift in ("disjoint-halves", "same-half")
        for r in range(N)
        for value in [height + SPREAD[r] if shift == "disjoint-halves" else 0.01]
    ]
    text = render_findings(records)
    assert "| claim" in text
    row = next(
        line for line in text.split("### By architecture")[1].splitlines() if "same(...) control" in line
    )
    assert [part.strip() for part in row.split("|")[2:4]] == ["+0.00, not supported", "+40.00, supported"]
    assert "a demonstration, no evidence" not in text
    digits = [changed(r, suite__name="digits") for r in records]
    assert "a demonstration, no evidence" in render_findings(digits)


def test_records_of_two_suites_are_refused():
    other = make_record(toy_cell(suite=toy_suite(version=2)))
    with pytest.raises(UserError, match=r"within one suite; these records are of toy v1 .*, toy v2"):
        evaluate_claims([make_record(), other])


def test_order_of_records_does_not_matter():
    records = [
        *cells(shift="disjoint-halves", barrier_error=around(0.3)),
        *cells(shift="same-half", barrier_error=0.2),
    ]
    assert render_findings(records) == render_findings(records[::-1])


def test_a_claim_is_one_entry():
    claim = Claim("mine", "[X]", "all is well", "fraction", lambda cells, split: [])
    assert judge_claim(claim, "test", []).verdict == "not testable here"
