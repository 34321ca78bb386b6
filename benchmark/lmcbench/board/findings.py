"""The papers' claims held against records: effect, interval, n and verdict of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from lmcbench.board.claims import CLAIMS, Claim
from lmcbench.board.contrasts import Contrast
from lmcbench.board.observations import Cells
from lmcbench.board.stability import stability_table
from lmcbench.board.statistics import CONFIDENCE, Estimate, estimate
from lmcbench.board.words import DEMONSTRATION
from lmcbench.results.record import Record
from lmcbench.results.values import SPLIT
from lmcbench.spec.suite import DEMONSTRATIONS

Verdict = Literal["supported", "not supported", "contrary", "not testable here"]

ROUNDING = 1e-12
"""What sums of equal numbers may differ by: where replicates agree to the bit, the interval is a point."""


@dataclass(frozen=True)
class Finding:
    """What the records say about a claim on one split.

    Attributes:
        effect: mean over replicates with its interval; positive is what the claim says.
        contrasts: how many contrasts each replicate's number is the mean of.
        left_out: contrasts that were not measured in every replicate, and are therefore not counted.
        verdict: `supported` and `contrary`: the interval lies above or below 0; `not supported`: it holds 0.
        reason: why it is not testable, else empty.
    """

    claim: Claim
    split: str
    effect: Estimate
    contrasts: int
    left_out: int
    verdict: Verdict
    reason: str

    def summary(self) -> dict[str, Any]:
        """The finding as JSON holds it."""
        mean, width = self.effect.mean, self.effect.half_width
        low = None if mean is None or width is None else mean - width
        high = None if mean is None or width is None else mean + width
        return {
            "claim": self.claim.name,
            "source": self.claim.source,
            "statement": self.claim.statement,
            "test": test_of(self.claim),
            "split": self.split,
            "unit": self.claim.unit.replace("points", "fraction"),
            "effect": mean,
            "low": low,
            "high": high,
            "n": self.effect.n,
            "contrasts": self.contrasts,
            "left_out": self.left_out,
            "verdict": self.verdict,
            "reason": self.reason or None,
        }


def find(records: Iterable[Record]) -> list[Finding]:
    """Every claim, held against the records of one suite; some under each evaluation shift too.

    Raises:
        UserError: for records of more than one suite.
    """
    return _find(Cells(records))


def weigh(claim: Claim, split: str, contrasts: Sequence[Contrast]) -> Finding:
    """The verdict on a claim from its contrasts.

    The replicate is the unit: its contrasts are averaged, and the effect is the mean over replicates
    with its two-sided 95 % Student t interval. Only contrasts that were measured in every replicate
    count, so that replicates are means of the same things.
    """
    replicates: dict[int, dict[tuple[str, ...], float]] = {}
    for contrast in contrasts:
        replicates.setdefault(contrast.replicate, {})[contrast.what] = contrast.value
    held = [set(found) for found in replicates.values()]
    common = sorted(set.intersection(*held)) if held else []
    left_out = len(set().union(*held)) - len(common)
    means = [float(np.mean([found[what] for what in common])) for found in replicates.values() if common]
    effect = estimate(means)
    verdict, reason = _verdict(effect)
    if held and not common:
        reason = "no contrast was measured in every replicate"
    return Finding(claim, split, effect, len(common), left_out, verdict, reason)


def render_findings(records: Iterable[Record], style: str = "github") -> str:
    """The findings of one suite as text: the table, the verdicts by architecture, and the exact tests.

    Args:
        records: of one suite.
        style: a format of tabulate.

    Raises:
        UserError: for records of more than one suite.
    """
    cells = Cells(records)
    findings = _find(cells)
    table = [
        {
            "": finding.claim.source,
            "claim": _statement(finding),
            "effect": _number(finding.effect.mean, finding.claim.unit),
            f"{100 * CONFIDENCE:g} % interval": _interval(finding),
            "n": finding.effect.n,
            "contrasts": finding.contrasts,
            "verdict": finding.verdict,
        }
        for finding in findings
    ]
    parts = [tabulate(table, headers="keys", tablefmt=style, disable_numparse=True)]
    names = cells.architectures()
    if len(names) > 1:
        by_name = {name: _find(cells.of(name), findings) for name in names}
        rows = [
            {"claim": _statement(finding)} | {name: _brief(found[i]) for name, found in by_name.items()}
            for i, finding in enumerate(findings)
        ]
        parts.append(_heading("By architecture", style))
        parts.append(tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True))
    if any(True for _ in cells.forked()):
        parts.append(_heading("Stability points: the fork from which on siblings are connected", style))
        parts.append(stability_table(cells.records, style))
    parts.append(_heading("How each was tested", style))
    parts.append("\n".join(f"- {claim.statement}: {test_of(claim)}" for claim in CLAIMS))
    parts.append("\n".join(f"- {note}" for note in _notes(cells, findings)))
    return "\n\n".join(parts) + "\n"


def test_of(claim: Claim) -> str:
    """The exact test of a claim in one line: what its contrasts' docstring says."""
    return " ".join((claim.contrasts.__doc__ or "").split())


def _find(cells: Cells, like: Sequence[Finding] | None = None) -> list[Finding]:
    """Findings on the splits that `cells` have, or on those of other findings, so that rows agree."""
    if like is not None:
        asked = [(finding.claim, finding.split) for finding in like]
    else:
        splits = [SPLIT, *cells.evaluations()]
        asked = [(claim, s) for claim in CLAIMS for s in (splits if claim.everywhere else [SPLIT])]
    return [weigh(claim, split, list(claim.contrasts(cells, split))) for claim, split in asked]


def _verdict(effect: Estimate) -> tuple[Verdict, str]:
    if effect.mean is None:
        return "not testable here", "the records do not hold what it needs"
    if effect.half_width is None:
        return "not testable here", "one replicate has no interval"
    if effect.mean - effect.half_width > ROUNDING:
        return "supported", ""
    if effect.mean + effect.half_width < -ROUNDING:
        return "contrary", ""
    return "not supported", ""


def _statement(finding: Finding) -> str:
    where = "" if finding.split == SPLIT else f" ({finding.split})"
    return f"{finding.claim.statement}{where}"


def _brief(finding: Finding) -> str:
    if finding.verdict == "not testable here":
        return "–"
    return f"{_number(finding.effect.mean, finding.claim.unit)}, {finding.verdict}"


def _interval(finding: Finding) -> str:
    mean, width = finding.effect.mean, finding.effect.half_width
    if mean is None or width is None:
        return finding.reason
    low, high = (_number(x, finding.claim.unit) for x in (mean - width, mean + width))
    return f"{low} to {high}"


def _number(value: float | None, unit: str) -> str:
    """A signed number; fractions that are percentages in points."""
    if value is None:
        return "–"
    scaled, digits = (100 * value, 2) if unit.startswith("points") else (value, 3)
    # adding 0.0 keeps a rounded zero from showing a minus
    return f"{round(scaled, digits) + 0.0:+.{digits}f}"


def _heading(text: str, style: str) -> str:
    return f"### {text}" if style == "github" else f"{text}:"


def _notes(cells: Cells, findings: Sequence[Finding]) -> list[str]:
    tested = sum(f.verdict != "not testable here" for f in findings)
    out = sum(r.status != "ok" for r in cells.records)
    notes = [
        "Effect: positive is what the claim says; barriers, accuracies and disagreement in percentage "
        "points. Mean over replicates (n) with its Student t interval; a replicate's number is the mean "
        "of its contrasts, those that were measured in every replicate.",
        "Supported, contrary: the interval lies above, below 0. Not supported: it holds 0, which is no proof "
        "that there is no effect. Not testable here: the records do not hold what is needed.",
        f"{tested} claims were tested and none corrected for the number: without any effect, "
        f"about {100 * (1 - CONFIDENCE):g} % of intervals would still miss 0.",
        "Stability point: epoch and share of training. From the earliest to the latest replicate; this range "
        "holds the median of all possible replicates with the probability under coverage.",
    ]
    if out:
        notes.append(f"{out} of {len(cells.records)} cells diverged or failed, and are in no contrast.")
    if any(r.suite.name in DEMONSTRATIONS for r in cells.records[:1]):
        notes.append(DEMONSTRATION)
    return notes
