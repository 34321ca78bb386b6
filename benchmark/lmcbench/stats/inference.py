"""Tests of a difference between two runs: t intervals, equivalence, non-inferiority, Holm's correction.

The input is one value per replicate. Any of several tests may detect a change, so their p-values are
corrected together (Holm, 1979). Equivalence requires that all tests pass; such an intersection-union test
needs no correction (Berger, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import nctdtr, ndtr, stdtr, stdtrit

from lmcbench.spec.gate_tests import Better, Kind

ALPHA = 0.05
POWER = 0.8
"""Probability of a decision with `Judgement.replicates_needed` replicates."""

MOST_REPLICATES = 10_000
"""Largest number of replicates that `Judgement.replicates_needed` reports."""

TestVerdict = Literal[
    "identical", "equivalent", "non-inferior", "improved", "inconclusive", "changed", "regressed"
]


@dataclass(frozen=True)
class Difference:
    """A mean difference, head - base.

    Attributes:
        n: number of replicates of base and of head.
        estimate: the difference, in the measure's unit.
        variance: variance of the difference of one replicate; None with too few replicates.
        error: standard error of the estimate; None with too few replicates.
        df: degrees of freedom of the error.
        exact: whether every replicate is equal on both sides to the last bit.
        paired: whether replicates were compared one by one.
    """

    n: tuple[int, int]
    estimate: float
    variance: float | None
    error: float | None
    df: float
    exact: bool
    paired: bool

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Return the two-sided Student t interval; None with too few replicates."""
        if self.error is None:
            return None
        half = float(stdtrit(self.df, (1 + confidence) / 2)) * self.error
        return self.estimate - half, self.estimate + half

    def p_above(self, bound: float) -> float:
        """Return the p-value of the one-sided test whose claim is a true difference above `bound`.

        It is 1 with too few replicates.
        """
        return self._tail(self.estimate - bound)

    def p_below(self, bound: float) -> float:
        """Return the p-value of the one-sided test whose claim is a true difference below `bound`."""
        return self._tail(bound - self.estimate)

    def p_change(self) -> float:
        """Return the two-sided p-value of the test whose claim is a true difference other than 0."""
        return min(1.0, 2 * self._tail(abs(self.estimate)))

    def _tail(self, distance: float) -> float:
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(self.df, -distance / self.error))


def paired(base: Sequence[float], head: Sequence[float]) -> Difference:
    """Return the mean of head - base over matched replicates.

    Raises:
        ValueError: without replicates, or for different numbers of them.
    """
    if len(base) != len(head) or len(base) == 0:
        raise ValueError(f"paired replicates are needed, found {len(base)} and {len(head)}")
    differences = np.subtract(head, base)
    n = len(differences)
    estimate = float(differences.mean())
    exact = bool((differences == 0).all())
    if n < 2:
        return Difference((n, n), estimate, None, None, 0, exact, True)
    variance = float(differences.var(ddof=1))
    return Difference((n, n), estimate, variance, math.sqrt(variance / n), n - 1, exact, True)


def welch(base: Sequence[float], head: Sequence[float]) -> Difference:
    """Return the difference of the means of independent replicates (Welch, Satterthwaite).

    Raises:
        ValueError: if one side has no replicates.
    """
    n = (len(base), len(head))
    if min(n) < 1:
        raise ValueError(f"replicates are needed on both sides, found {n[0]} and {n[1]}")
    estimate = float(np.mean(head) - np.mean(base))
    if min(n) < 2:
        return Difference(n, estimate, None, None, 0, False, False)
    variances = float(np.var(base, ddof=1)), float(np.var(head, ddof=1))
    shares = [v / k for v, k in zip(variances, n, strict=True)]
    total = sum(shares)
    spread = sum(s**2 / (k - 1) for s, k in zip(shares, n, strict=True))
    df = total**2 / spread if spread > 0 else float(sum(n) - 2)
    return Difference(n, estimate, sum(variances), math.sqrt(total), df, False, False)


@dataclass(frozen=True)
class Rule:
    """A test's kind, its absolute margin, and the direction that is better, if there is one."""

    kind: Kind
    margin: float
    better: Better | None


@dataclass(frozen=True)
class Judgement:
    """The verdict on one difference.

    Attributes:
        p_change: two-sided p-value of a difference other than 0.
        p_holm: `p_change`, corrected over the tests of the comparison.
        p_margin: p-value of a difference within the margin (equivalence: on both sides; non-inferiority: on
            the worse side only).
        power: probability of detecting a change of twice the margin, given the observed spread; None with too
            few replicates.
        replicates_needed: number of replicates for a decision, if estimate and spread stay as they are; None
            if the test is decided, the spread unknown, or the number above `MOST_REPLICATES`.
    """

    verdict: TestVerdict
    p_change: float
    p_holm: float
    p_margin: float
    power: float | None
    replicates_needed: int | None


def judge(differences: Sequence[Difference], rules: Sequence[Rule]) -> list[Judgement]:
    """Return the verdict on each headline test of a comparison, with p-values corrected over all of them."""
    corrected = holm([difference.p_change() for difference in differences])
    return [
        _judge(difference, rule, p, len(differences))
        for difference, rule, p in zip(differences, rules, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values in the given order: [0.01, 0.04, 0.03] -> [0.03, 0.06, 0.06]."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _judge(difference: Difference, rule: Rule, p_holm: float, tests: int) -> Judgement:
    m, estimate = rule.margin, difference.estimate
    p_low, p_high = difference.p_above(-m), difference.p_below(m)
    bad_side = {"higher": p_low, "lower": p_high}
    either = max(p_low, p_high)
    p_margin = either if rule.kind == "equivalence" or rule.better is None else bad_side[rule.better]
    verdict: TestVerdict = "inconclusive"
    if difference.exact:
        verdict = "identical"
    elif p_holm <= ALPHA and abs(estimate) > m:
        better = {"higher": estimate > 0, "lower": estimate < 0, None: None}[rule.better]
        verdict = "changed" if better is None else "improved" if better else "regressed"
    elif either <= ALPHA:
        verdict = "equivalent"
    elif p_margin <= ALPHA:
        verdict = "non-inferior"
    needed = _needed(difference, rule, tests) if verdict == "inconclusive" else None
    power = _power(difference, 2 * m, m, tests)
    return Judgement(verdict, difference.p_change(), p_holm, p_margin, power, needed)


def _needed(difference: Difference, rule: Rule, tests: int) -> int | None:
    """Return the smallest number of replicates per side that leads to a decision with probability `POWER`."""
    m, estimate, variance = rule.margin, difference.estimate, difference.variance
    if variance is None:
        return None
    within = m - abs(estimate)
    if rule.kind == "non-inferiority":
        within = m + (estimate if rule.better == "higher" else -estimate)
    groups = 1 if difference.paired else 2

    def decides(n: int) -> bool:
        df, error = groups * (n - 1), math.sqrt(variance / n)
        chance = float(stdtrit(df, POWER)) * error
        if within > 0:
            return float(stdtrit(df, 1 - ALPHA)) * error + chance <= within
        significant = float(stdtrit(df, 1 - ALPHA / 2 / tests)) * error + chance <= abs(estimate)
        return significant and chance <= -within

    if not decides(MOST_REPLICATES):
        return None
    low, high = 1, MOST_REPLICATES  # `low` does not decide, `high` does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _power(difference: Difference, size: float, margin: float, tests: int) -> float | None:
    """Return the probability of detecting a true difference of `size`, at Holm's first and strictest step."""
    if difference.error is None:
        return None
    if difference.error == 0:
        return 1.0
    quantile = float(stdtrit(difference.df, 1 - ALPHA / 2 / tests))
    shift = size / difference.error
    # a change must be significant and larger than the margin; the less probable of the two bounds the power
    missed = float(nctdtr(difference.df, shift, quantile))
    significant = 1.0 if math.isnan(missed) else 1 - missed  # not a number where the shift is huge
    return min(significant, float(ndtr((size - margin) / difference.error)))
