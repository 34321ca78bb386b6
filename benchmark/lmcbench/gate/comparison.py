"""What a comparison of two runs found, as values and as one JSON document."""

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

CLAIMS: tuple[Overall, ...] = ("regressed", "changed", "inconclusive", "improved")
"""What a single test makes the verdict of all, the gravest first; the others must hold of every test."""

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
    """One of the two runs, in words."""

    name: str
    suite: str
    cells: int
    replicates: list[int]
    environments: list[str]


@dataclass(frozen=True)
class Tested:
    """A headline test and its outcome; `cells` in words, `base` and `head` means over replicates."""

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


@dataclass(frozen=True)
class Comparison:
    """All there is to say about two runs.

    Attributes:
        reasons: what made the verdict, where the tests did not.
        diverged: cells that diverged on one side only, in words.
    """

    verdict: Overall
    base: Side
    head: Side
    across: tuple[str, ...]
    matched: int
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
        """The measures whose tests made the verdict; none where it was made otherwise."""
        if self.reasons or self.verdict not in CLAIMS:
            return []
        return [t.test.measure for t in self.tests if t.judgement.verdict == self.verdict]

    @property
    def exit_code(self) -> int:
        """The command's exit code (design section 5)."""
        return EXIT_CODES[self.verdict]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one JSON document."""
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
        "measures": [{"measure": m.measure, **_numbers(m.base, m.head, m.difference)} for m in c.measures],
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
