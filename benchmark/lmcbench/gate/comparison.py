"""The result of comparing two runs, as values and as one JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from lmcbench.spec.gate_tests import GateTest
from lmcbench.stats.inference import ALPHA, Difference, Judgement

Overall = Literal[
    "identical",
    "equivalent",
    "improved",
    "inconclusive",
    "changed",
    "regressed",
    "incomplete",
    "not comparable",
]

DECIDED_BY_ONE: tuple[Overall, ...] = ("regressed", "changed", "inconclusive", "improved")
"""Verdicts that a single test decides, worst first; the others need every test."""

ALL_CELLS = "all cells"
"""Names the cells of a test that is not of certain shifts and forks."""

EXIT_CODES: dict[Overall, int] = {
    "identical": 0,
    "equivalent": 0,
    "improved": 0,
    "changed": 1,
    "regressed": 1,
    "inconclusive": 3,
    "not comparable": 4,
    "incomplete": 5,
}


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    name: str
    suite: str
    cells: int
    replicates: list[int]
    environments: list[str]


@dataclass(frozen=True)
class Tested:
    """A headline test and its result.

    Attributes:
        cells: the tested cells, in words.
        base: mean over the replicates of base.
        head: mean over the replicates of head.
        largest: the cells with the largest difference, in words; None if there are none to tell apart.
    """

    test: GateTest
    cells: str
    base: float
    head: float
    difference: Difference
    judgement: Judgement
    largest: str | None


@dataclass(frozen=True)
class Described:
    """A measure over all cells, without a verdict."""

    measure: str
    base: float
    head: float
    difference: Difference

    @property
    def moved(self) -> bool:
        """Whether the 95 % interval of the difference excludes 0."""
        interval = self.difference.interval(1 - ALPHA)
        return interval is not None and not interval[0] <= 0 <= interval[1]


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs.

    Attributes:
        matched: number of compared cells: matched pairs or, across seeds, the cells of both runs.
        measured: number of these that are in a mean; none that diverged or failed.
        failed: cells that failed on either side, in words.
        reasons: reasons of the verdict; empty if it follows from the tests.
        diverged: cells that diverged on one side only, in words.
    """

    verdict: Overall
    base: Side
    head: Side
    across: tuple[str, ...]
    matched: int
    measured: int
    missing_in_base: list[str]
    missing_in_head: list[str]
    failed: list[str]
    diverged: list[str]
    reasons: list[str]
    tests: list[Tested]
    measures: list[Described]
    notes: list[str]

    @property
    def deciding(self) -> list[str]:
        """The measures whose tests decided the verdict; empty if `reasons` did."""
        if self.reasons or self.verdict not in DECIDED_BY_ONE:
            return []
        return [t.test.measure for t in self.tests if t.judgement.verdict == self.verdict]

    @property
    def moved(self) -> list[str]:
        """The measures that no test judges over the same cells and whose 95 % interval excludes 0."""
        judged = {t.test.measure for t in self.tests if t.cells == ALL_CELLS}
        return [m.measure for m in self.measures if m.moved and m.measure not in judged]

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return EXIT_CODES[self.verdict]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as one JSON document."""
    c = comparison
    return {
        "schema": "lmcbench/comparison/1",
        "verdict": c.verdict,
        "exit_code": c.exit_code,
        "reasons": [f"{c.verdict}: {', '.join(c.deciding)}"] if c.deciding else c.reasons,
        "base": asdict(c.base),
        "head": asdict(c.head),
        "across": list(c.across),
        "cells": {
            "matched": c.matched,
            "measured": c.measured,
            "missing_in_base": c.missing_in_base,
            "missing_in_head": c.missing_in_head,
            "failed": c.failed,
            "diverged_on_one_side": c.diverged,
        },
        "alpha": ALPHA,
        "tests": [
            {
                **t.test.model_dump(mode="json"),
                "cells": t.cells,
                **_numbers(t.base, t.head, t.difference),
                **asdict(t.judgement),
                "largest": t.largest,
            }
            for t in c.tests
        ],
        "moved": c.moved,
        "measures": [
            {"measure": m.measure, **_numbers(m.base, m.head, m.difference), "moved": m.moved}
            for m in c.measures
        ],
        "notes": c.notes,
    }


def _numbers(base: float, head: float, difference: Difference) -> dict[str, Any]:
    return {
        "n": min(difference.n),
        "n_base": difference.n[0],
        "n_head": difference.n[1],
        "method": "paired t" if difference.paired else "Welch t",
        "base": base,
        "head": head,
        "estimate": difference.estimate,
        "interval_90": difference.interval(1 - 2 * ALPHA),
        "interval_95": difference.interval(1 - ALPHA),
    }
