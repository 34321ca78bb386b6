import math

import numpy as np
import pytest
from scipy import stats

from lmcbench.spec.gate_tests import DEFAULT_GATE
from lmcbench.stats.inference import ALPHA, Rule, holm, judge, paired, welch

EQUIVALENCE = Rule("equivalence", 0.05, None)
HIGHER = Rule("non-inferiority", 0.01, "higher")
LOWER = Rule("non-inferiority", 0.01, "lower")


def exactly(mean, deviation, n):
    """n differences with this mean and standard deviation, as base and head."""
    values = np.linspace(-1, 1, n)
    return [0.0] * n, (mean + deviation * values / values.std(ddof=1)).tolist()


def judged(mean, deviation, n, rule):
    [found] = judge([paired(*exactly(mean, deviation, n))], [rule])
    return found


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_paired_intervals_and_p_values_are_scipys(n):
    rng = np.random.default_rng(n)
    base, head = rng.gamma(1, size=n), rng.gamma(1, size=n)
    ours, theirs = paired(base, head), stats.ttest_rel(head, base)
    assert ours.estimate == pytest.approx(np.mean(head) - np.mean(base), abs=1e-12)
    assert ours.p_change() == pytest.approx(theirs.pvalue, abs=1e-12)
    for confidence in (0.90, 0.95):
        assert ours.interval(confidence) == pytest.approx(tuple(theirs.confidence_interval(confidence)))
    for bound in (-0.3, 0.0, 0.3):
        above = stats.ttest_1samp(head - base, bound, alternative="greater")
        below = stats.ttest_1samp(head - base, bound, alternative="less")
        assert ours.p_above(bound) == pytest.approx(above.pvalue, abs=1e-12)
        assert ours.p_below(bound) == pytest.approx(below.pvalue, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (5, 5), (3, 10)])
def test_welch_is_scipys(n, m):
    rng = np.random.default_rng(n * m)
    base, head = rng.gamma(1, size=n), 2 * rng.gamma(1, size=m)
    ours, theirs = welch(base, head), stats.ttest_ind(head, base, equal_var=False)
    assert ours.df == pytest.approx(theirs.df)
    assert ours.p_change() == pytest.approx(theirs.pvalue, abs=1e-12)
    assert ours.interval(0.9) == pytest.approx(tuple(theirs.confidence_interval(0.9)))
    assert ours.n == (n, m)
    assert not ours.paired


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04]) == [0.04]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("rule", [EQUIVALENCE, HIGHER, LOWER])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_verdicts_of_a_single_test_are_those_of_the_intervals(rule, n):
    """The issue's rule, read literally, over a grid of estimates and spreads."""
    seen = set()
    for mean in np.linspace(-3, 3, 26) * rule.margin:
        for deviation in np.array([0.1, 0.5, 1, 3]) * rule.margin:
            difference = paired(*exactly(mean, deviation, n))
            (low90, high90), (low95, high95) = difference.interval(0.9), difference.interval(0.95)
            m = rule.margin
            if (low95 > 0 or high95 < 0) and abs(mean) > m:
                good = {"higher": mean > 0, "lower": mean < 0}.get(rule.better)
                expected = {None: "changed", True: "improved", False: "regressed"}[good]
            elif -m < low90 and high90 < m:
                expected = "equivalent"
            elif (rule.better == "higher" and -m < low90) or (rule.better == "lower" and high90 < m):
                expected = "non-inferior"
            else:
                expected = "inconclusive"
            assert judge([difference], [rule])[0].verdict == expected, (mean, deviation)
            seen.add(expected)
    assert {"inconclusive", "equivalent"} < seen


def test_changes_are_corrected_over_tests_and_equivalence_is_not():
    # p = 0.03 alone is a change; beside two others it is not
    n, deviation = 5, 0.05
    mean = stats.t.isf(0.03 / 2, n - 1) * deviation / math.sqrt(n)
    difference = paired(*exactly(mean, deviation, n))
    quiet = paired(*exactly(0.0, 0.01, n))
    assert judge([difference], [EQUIVALENCE])[0].verdict == "changed"
    three = judge([difference, quiet, quiet], [EQUIVALENCE] * 3)
    assert three[0].verdict == "inconclusive"
    assert three[0].p_holm == pytest.approx(0.09)
    assert three[1].verdict == judge([quiet], [EQUIVALENCE])[0].verdict == "equivalent"


def test_exact_equality_is_recognised_and_near_equality_is_not():
    assert judge([paired([0.1, 0.2], [0.1, 0.2])], [EQUIVALENCE])[0].verdict == "identical"
    assert judge([paired([0.1], [0.1])], [EQUIVALENCE])[0].verdict == "identical"
    assert judge([paired([0.1, 0.2], [0.1, 0.2 + 1e-12])], [EQUIVALENCE])[0].verdict == "equivalent"


def test_one_replicate_tells_nothing_else():
    difference = paired([0.1], [0.9])
    assert difference.interval(0.9) is None
    [found] = judge([difference], [EQUIVALENCE])
    assert (found.verdict, found.p_change, found.power, found.replicates_needed) == (
        "inconclusive",
        1.0,
        None,
        None,
    )
    assert judge([welch([0.1], [0.2, 0.3])], [EQUIVALENCE])[0].verdict == "inconclusive"


def test_differences_without_spread():
    assert judge([paired([0.0] * 3, [0.25] * 3)], [EQUIVALENCE])[0].verdict == "changed"
    assert judge([paired([0.0] * 3, [0.03125] * 3)], [EQUIVALENCE])[0].verdict == "equivalent"
    assert judge([welch([0.5] * 3, [0.5] * 3)], [EQUIVALENCE])[0].verdict == "equivalent"


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.1), (0.02, 0.08), (0.2, 0.4)])
def test_the_replicates_it_would_take_decide_in_four_of_five_cases(mean, deviation):
    needed = judged(mean, deviation, 3, EQUIVALENCE).replicates_needed
    rng = np.random.default_rng(0)

    def decided(n, runs=400):
        values = rng.normal(mean, deviation, (runs, n))
        found = [judge([paired([0.0] * n, v)], [EQUIVALENCE])[0].verdict for v in values]
        return sum(v != "inconclusive" for v in found) / runs

    # 80 % where one side of the margin matters; with the estimate in the middle both do
    assert needed > 3
    assert (0.55 if mean == 0 else 0.7) < decided(needed) < 0.9


def test_the_replicates_needed_have_an_end():
    assert judged(0.05, 0.5, 3, EQUIVALENCE).replicates_needed is None  # on the margin for ever
    assert judged(0.0, 50.0, 3, EQUIVALENCE).replicates_needed is None
    assert judged(0.0, 0.001, 3, EQUIVALENCE).replicates_needed is None  # decided


@pytest.mark.parametrize(("n", "deviation"), [(3, 0.05), (5, 0.05), (5, 0.2), (10, 0.1)])
def test_power_is_what_simulation_finds(n, deviation):
    rng = np.random.default_rng(n)
    claimed = judged(0.01, deviation, n, EQUIVALENCE).power
    values = rng.normal(2 * EQUIVALENCE.margin, deviation, (1500, n))
    called = np.mean([judge([paired([0.0] * n, v)], [EQUIVALENCE])[0].verdict == "changed" for v in values])
    assert claimed == pytest.approx(called, abs=0.06)


def test_refusals():
    with pytest.raises(ValueError, match="paired replicates are needed, found 1 and 2"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="replicates are needed on both sides, found 0 and 1"):
        welch([], [1.0])


def test_the_defaults_are_what_the_documentation_says():
    assert ALPHA == 0.05
    assert [(t.measure, t.kind, t.margin) for t in DEFAULT_GATE] == [
        ("error_mid", "equivalence", 0.05),
        ("accuracy_mean", "non-inferiority", 0.01),
        ("ensemble_accuracy", "non-inferiority", 0.01),
    ]
