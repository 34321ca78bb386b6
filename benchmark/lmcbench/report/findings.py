"""The papers' claims held against records: effect, interval, n and verdict of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tabulate import tabulate

from lmcbench.report.claims import CLAIMS, PAPERS, Claim
from lmcbench.report.contrasts import controlled
from lmcbench.results.cell_values import SPLIT, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.suite import DEMONSTRATIONS
from lmcbench.stats.cells import Cells, is_baseline, is_control
from lmcbench.stats.estimates import CONFIDENCE, ROUNDING, Contrast, Estimate, pool
from lmcbench.stats.stability import stability_table

Verdict = Literal["supported", "not supported", "contrary", "not testable here"]

DEMONSTRATION = (
    "The recipes of this suite were chosen to make effects visible: what it shows is a demonstration, "
    "no evidence."
)

MIN_REPLICATES = 3
"""Replicates that a verdict needs: of two, the interval is their mean ± 9 standard deviations."""


@dataclass(frozen=True)
class Finding:
    """What the records say about a claim on one split.

    Attributes:
        effect: mean over replicates with its interval; positive is what the claim says.
        contrasts: how many contrasts each replicate's number is the mean of.
        left_out: contrasts that were not measured in every replicate, and are therefore not counted.
        verdict: `supported` and `contrary`: the interval lies above or below 0; `not supported`: it holds 0;
            `not testable here`: there is too little for a verdict, though there may be an interval.
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
            "test": exact_test(self.claim),
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


def evaluate_claims(records: Iterable[Record]) -> list[Finding]:
    """Every claim, held against the records of one suite; some under each evaluation shift too.

    The permanent baseline is left out: its convex loss gives constants that say nothing of the claims.

    Raises:
        UserError: for records of more than one suite.
    """
    return _find(Cells(records).without_baseline())


def judge_claim(claim: Claim, split: str, contrasts: Sequence[Contrast]) -> Finding:
    """The verdict on a claim from its contrasts.

    Its effect is the mean over replicates with its two-sided 95 % Student t interval.
    """
    effect, counted, left_out = pool(contrasts)
    verdict, reason = _verdict(effect)
    if left_out and not counted:
        reason = "no contrast was measured in every replicate"
    return Finding(claim, split, effect, counted, left_out, verdict, reason)


def render_findings(records: Iterable[Record], style: str = "github") -> str:
    """The findings of one suite as text: the table, the verdicts by architecture, and the exact tests.

    Args:
        records: of one suite.
        style: a format of tabulate.

    Raises:
        UserError: for records of more than one suite.
    """
    cells = Cells(records)
    findings = _find(cells.without_baseline())
    table = [
        {
            "": finding.claim.source,
            "claim": _statement(finding),
            "effect": _number(finding.effect.mean, finding.claim.unit),
            f"{100 * CONFIDENCE:g} % interval": _interval(finding),
            "n": finding.effect.n,
            "contrasts": f"{finding.contrasts}"
            + (f" ({finding.left_out} left out)" if finding.left_out else ""),
            "verdict": finding.verdict + (f": {finding.reason}" if finding.reason else ""),
        }
        for finding in findings
    ]
    parts = [tabulate(table, headers="keys", tablefmt=style, disable_numparse=True)]
    names = cells.architectures()
    if len(names) > 1 or any(map(is_baseline, cells.records)):
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
    parts.append("\n".join(f"- {claim.statement}: {exact_test(claim)}" for claim in CLAIMS))
    parts.append("\n".join(f"- {note}" for note in _notes(cells, findings)))
    return "\n\n".join(parts) + "\n"


def exact_test(claim: Claim) -> str:
    """The exact test of a claim in one line: what its contrasts' docstring says."""
    return " ".join((claim.contrasts.__doc__ or "").split())


def _find(cells: Cells, like: Sequence[Finding] | None = None) -> list[Finding]:
    """Findings on the splits that `cells` have, or on those of other findings, so that rows agree."""
    if like is not None:
        asked = [(finding.claim, finding.split) for finding in like]
    else:
        splits = [SPLIT, *cells.evaluations()]
        asked = [(claim, s) for claim in CLAIMS for s in (splits if claim.everywhere else [SPLIT])]
    return [judge_claim(claim, split, list(claim.contrasts(cells, split))) for claim, split in asked]


def _verdict(effect: Estimate) -> tuple[Verdict, str]:
    if effect.mean is None:
        return "not testable here", "the records do not hold what it needs"
    if effect.half_width is None:
        return "not testable here", "one replicate has no interval"
    if effect.n < MIN_REPLICATES:
        return "not testable here", f"{effect.n} replicates of the {MIN_REPLICATES} that a verdict needs"
    if effect.half_width <= ROUNDING:
        return "not testable here", "all replicates agree to rounding: no spread to take an interval from"
    if effect.mean - effect.half_width > 0:
        return "supported", ""
    if effect.mean + effect.half_width < 0:
        return "contrary", ""
    return "not supported", ""


def _statement(finding: Finding) -> str:
    where = "" if finding.split == SPLIT else f" ({finding.split})"
    return f"{finding.claim.statement}{where}"


def _brief(finding: Finding) -> str:
    if finding.effect.mean is None:
        return "–"
    verdict = "no verdict" if finding.verdict == "not testable here" else finding.verdict
    return f"{_number(finding.effect.mean, finding.claim.unit)}, {verdict}"


def _interval(finding: Finding) -> str:
    mean, width = finding.effect.mean, finding.effect.half_width
    if mean is None or width is None:
        return "–"
    low, high = (_number(x, finding.claim.unit) for x in (mean - width, mean + width))
    return f"{low} to {high}"


def _number(value: float | None, unit: str) -> str:
    """A signed number; fractions that are percentages in points."""
    if value is None:
        return "–"
    scaled, digits = (100 * value, 2) if unit.startswith("points") else (value, 3)
    # -0.00 is less than zero: an interval from there on holds zero; zero but for rounding has no sign
    return f"{scaled if abs(scaled) > ROUNDING else 0.0:+.{digits}f}"


def _heading(text: str, style: str) -> str:
    return f"### {text}" if style == "github" else f"{text}:"


def _controls(cells: Cells) -> list[str]:
    """Which shifts the claim about controls was tested with."""
    compared = dict.fromkeys((shift_label(a), shift_label(b)) for a, b in controlled(cells))
    if not compared:
        return []
    shifts = dict.fromkeys(shift_label(r) for r in cells.forked() if not is_control(r))
    alone = [shift for shift in shifts if shift not in {a for a, _ in compared}]
    text = "Training shift over control: compared were " + ", ".join(f"{a} with {b}" for a, b in compared)
    return [text + (f"; the records have no control of {', '.join(alone)}." if alone else ".")]


def _notes(cells: Cells, findings: Sequence[Finding]) -> list[str]:
    tested = sum(f.verdict != "not testable here" for f in findings)
    out = sum(r.status != "ok" for r in cells.records)
    notes = [
        PAPERS,
        "Effect: positive is what the claim says; barriers, accuracies and disagreement in percentage "
        "points. Mean over replicates (n) with its Student t interval; a replicate's number is the mean "
        "of its contrasts. Only those that were measured in every replicate count; how many others there "
        "are stands behind as left out.",
        "Supported, contrary: the interval lies above, below 0. Not supported: it holds 0, which is no proof "
        "that there is no effect. Not testable here (no verdict): the records do not hold what is needed, or "
        f"fewer than {MIN_REPLICATES} replicates do, or all of these agree to rounding.",
        f"{tested} claims were tested and none corrected for the number: without any effect, "
        f"about {100 * (1 - CONFIDENCE):g} % of intervals would still miss 0.",
        "Stability point: epoch and share of training. From the earliest to the latest replicate; this range "
        "holds the median of all possible replicates with the probability under coverage. By the chord form "
        "of the error barrier, and by the mean form, which is never below half the difference of its ends.",
        *_controls(cells.without_baseline()),
    ]
    if any(map(is_baseline, cells.records)):
        notes.append(
            f"{BASELINE} is the permanent baseline: its loss is convex, so that its barriers are next to "
            "nothing whatever is done. It is in no effect of the claims, and stands under By architecture."
        )
    if out:
        notes.append(f"{out} of {len(cells.records)} cells diverged or failed, and are in no contrast.")
    if any(r.suite.name in DEMONSTRATIONS for r in cells.records[:1]):
        notes.append(DEMONSTRATION)
    return notes
