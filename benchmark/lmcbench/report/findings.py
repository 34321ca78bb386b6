"""Test the papers' claims on the records of one suite: effect, interval, n and verdict of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lmcbench.output import GITHUB, escape_markdown, make_table, one_line
from lmcbench.report.claims import CLAIMS, PAPERS, Claim
from lmcbench.results.cell_values import SPLIT
from lmcbench.results.record import Record
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.suite import DEMONSTRATIONS
from lmcbench.stats.cells import Cells, join_control
from lmcbench.stats.estimates import CONFIDENCE, ROUNDING, Contrast, Estimate, pool
from lmcbench.stats.stability import stability_table

ClaimVerdict = Literal["supported", "not supported", "contrary", "not testable here"]

DEMONSTRATION = (
    "The recipes of this suite were chosen to make effects visible: what it shows is a demonstration, "
    "no evidence."
)

MIN_REPLICATES = 3
"""Replicates that a verdict needs: the interval of two is their mean ± 9 standard deviations."""


@dataclass(frozen=True)
class Finding:
    """The result of testing a claim on one split.

    Attributes:
        effect: mean over replicates with its interval; positive agrees with the claim.
        contrasts: number of contrasts averaged in each replicate.
        excluded: number of contrasts that are missing in some replicate.
        verdict: `supported` and `contrary`: the interval lies above or below 0; `not supported`: it contains
            0; `not testable here`: too little data for a verdict, though there may be an interval.
        reason: why it is not testable, else empty.
    """

    claim: Claim
    split: str
    effect: Estimate
    contrasts: int
    excluded: int
    verdict: ClaimVerdict
    reason: str


def evaluate_claims(records: Iterable[Record]) -> list[Finding]:
    """Test every claim on the records of one suite, and some under each evaluation shift too.

    The baseline is excluded: with its convex loss most measures are constant.

    Raises:
        UserError: for records of more than one suite.
    """
    cells = Cells(records)
    return _judge(_collect_contrasts(cells), set(cells.architectures()) - cells.baselines())


def judge_claim(claim: Claim, split: str, contrasts: Iterable[Contrast]) -> Finding:
    """Return the verdict on a claim from its contrasts, by the 95 % t interval over replicates."""
    effect, counted, excluded = pool(contrasts)
    verdict, reason = _verdict(effect)
    if excluded and not counted:
        reason = "no contrast was measured in every replicate"
    return Finding(claim, split, effect, counted, excluded, verdict, reason)


def render_findings(records: Iterable[Record], style: str = "github") -> str:
    """Return the findings of one suite as text: the table, verdicts by architecture, and the exact tests.

    Args:
        records: of one suite.
        style: a format of tabulate.

    Raises:
        UserError: for records of more than one suite.
    """
    cells = Cells(records)
    safe = escape_markdown if style == GITHUB else one_line
    tested = _collect_contrasts(cells)
    names, baselines = cells.architectures(), cells.baselines()
    findings = _judge(tested, set(names) - baselines)
    table = [
        {
            "paper": finding.claim.source,
            "claim": _statement(finding),
            "effect": _number(finding.effect.mean, finding.claim.unit),
            f"{100 * CONFIDENCE:g} % interval": _interval(finding),
            "n": finding.effect.n,
            "contrasts": f"{finding.contrasts}"
            + (f" ({finding.excluded} left out)" if finding.excluded else ""),
            "verdict": finding.verdict + (f": {finding.reason}" if finding.reason else ""),
        }
        for finding in findings
    ]
    parts = [make_table(table, style=style, disable_numparse=True)]
    if len(names) > 1 or baselines:
        by_name = {name: _judge(tested, {name}) for name in names}
        rows = [
            {"claim": _statement(finding)} | {name: _brief(found[i]) for name, found in by_name.items()}
            for i, finding in enumerate(findings)
        ]
        parts.append(_heading("By architecture", style))
        parts.append(make_table(rows, style=style, disable_numparse=True))
    if cells.rows["fork_epoch"].notna().any():
        parts.append(_heading("Stability points: the fork from which on siblings are connected", style))
        parts.append(stability_table(cells.rows, style))
    parts.append(_heading("How each was tested", style))
    parts.append("\n".join(f"- {claim.statement}: {exact_test(claim)}" for claim in CLAIMS))
    parts.append("\n".join(f"- {safe(note)}" for note in _notes(cells, findings)))
    return "\n\n".join(parts) + "\n"


def exact_test(claim: Claim) -> str:
    """Return the exact test of a claim in one line, the docstring of its contrasts."""
    return " ".join((claim.contrasts.__doc__ or "").split())


Tested = Sequence[tuple[Claim, str, Sequence[Contrast]]]
"""Claims and splits with their contrasts."""


def _collect_contrasts(cells: Cells) -> Tested:
    splits = [SPLIT, *cells.evaluations()]
    asked = [(claim, s) for claim in CLAIMS for s in (splits if claim.everywhere else [SPLIT])]
    return [(claim, split, list(claim.contrasts(cells, split))) for claim, split in asked]


def _judge(tested: Tested, architectures: Collection[str]) -> list[Finding]:
    """Return the findings on some of the architectures."""
    return [
        judge_claim(claim, split, [c for c in contrasts if c.what[0] in architectures])
        for claim, split, contrasts in tested
    ]


def _verdict(effect: Estimate) -> tuple[ClaimVerdict, str]:
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
    """Return a signed number, percentages in points."""
    if value is None:
        return "–"
    scaled, digits = (100 * value, 2) if unit.startswith("points") else (value, 3)
    # -0.00 is below zero, so an interval that starts there contains zero; zero up to rounding has no sign
    return f"{scaled if abs(scaled) > ROUNDING else 0.0:+.{digits}f}"


def _heading(text: str, style: str) -> str:
    return f"### {text}" if style == "github" else f"{text}:"


def _controls(cells: Cells) -> list[str]:
    """Return which shifts were compared with their control."""
    forked = cells.forked()
    forked = forked[~forked["architecture"].isin(cells.baselines())]
    both = join_control(forked)
    compared = dict.fromkeys(zip(both["shift"], both["shift_other"], strict=True))
    if not compared:
        return []
    shifts = forked.loc[~forked["is_control"], "shift"].unique()
    alone = [shift for shift in shifts if shift not in set(both["shift"])]
    text = "Training shift over control: compared were " + ", ".join(f"{a} with {b}" for a, b in compared)
    return [text + (f"; the records have no control of {', '.join(alone)}." if alone else ".")]


def _notes(cells: Cells, findings: Sequence[Finding]) -> list[str]:
    tested = sum(f.verdict != "not testable here" for f in findings)
    out = sum(r.status != "ok" for r in cells.records)
    notes = [
        f"Papers: {'; '.join(f'{paper}, {place}' for paper, place in PAPERS.items())}.",
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
        *_controls(cells),
    ]
    if cells.baselines():
        notes.append(
            f"{BASELINE} is the permanent baseline: its loss is convex, so that its barriers are next to "
            "nothing whatever is done. It is in no effect of the claims, and stands under By architecture."
        )
    if out:
        notes.append(f"{out} of {len(cells.records)} cells diverged or failed, and are in no contrast.")
    if any(r.suite.name in DEMONSTRATIONS for r in cells.records[:1]):
        notes.append(DEMONSTRATION)
    return notes
