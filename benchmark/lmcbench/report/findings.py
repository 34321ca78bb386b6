"""Test the papers' claims on the records of one suite: effect, interval, n and verdict of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import stdtrit

from lmcbench.output import GITHUB, escape_markdown, make_table, one_line
from lmcbench.report.claims import CLAIMS, PAPERS, Claim
from lmcbench.results.cell_values import SPLIT
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.suite import DEMONSTRATIONS
from lmcbench.stats.cells import Cells, join_control
from lmcbench.stats.estimates import CONFIDENCE, ROUNDING, Contrast, Estimate, pool
from lmcbench.stats.inference import ALPHA, POWER, Difference, holm
from lmcbench.stats.stability import stability_table

ClaimVerdict = Literal["supported", "contrary", "equivalent", "not supported", "not testable"]

DEMONSTRATION = (
    "Networks or recipes of this suite were chosen to make effects visible: what it shows is a "
    "demonstration, no evidence."
)

NOT_MEASURED = {"diverged": "diverged", "did-not-learn": "did not learn", "failed": "failed"}
"""Statuses of cells without results, in words."""

MIN_REPLICATES = 3
"""Replicates that a verdict needs: the interval of two is their mean ± 9 standard deviations."""


@dataclass(frozen=True)
class Finding:
    """The result of testing a claim on one split.

    Attributes:
        effect: mean over replicates with its interval; positive agrees with the claim.
        contrasts: number of contrasts averaged in each replicate.
        excluded: number of contrasts that are missing in some replicate.
        control: the same on the convex baseline, for claims that have it as negative control.
        verdict: `equivalent`: the effect is certainly smaller than the claim's margin; `supported` and
            `contrary`: it is above or below 0; `not supported`: neither is known; `not testable`: too
            little data for a verdict, though there may be an interval. All p-values are corrected together.
        reason: why there is no other verdict, else empty.
        smallest: the smallest effect that is found with a probability of 0.8; None if it is not testable.
    """

    claim: Claim
    split: str
    effect: Estimate
    contrasts: int
    excluded: int
    control: Estimate | None = None
    verdict: ClaimVerdict = "not testable"
    reason: str = ""
    smallest: float | None = None


def judge_claims(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with their verdicts.

    The p-values of all testable rows are corrected together by Holm's method: of no effect (two-sided t test)
    and of equivalence (two one-sided t tests at the margin; Schuirmann, 1987).
    """
    reasons = [_obstacle(finding) for finding in findings]
    tested = [_difference(f.effect) for f, reason in zip(findings, reasons, strict=True) if not reason]
    margins = [f.claim.margin for f, reason in zip(findings, reasons, strict=True) if not reason]
    zero = holm([difference.p_change() for difference in tested])
    within = holm(
        [max(d.p_above(-m), d.p_below(m)) for d, m in zip(tested, margins, strict=True)],
    )
    results = iter(zip(tested, zero, within, strict=True))
    judged = []
    for finding, reason in zip(findings, reasons, strict=True):
        if reason:
            judged.append(replace(finding, reason=reason))
            continue
        difference, p, p_within = next(results)
        verdict, why = _verdict(finding, difference.estimate, p, p_within)
        smallest = _detectable(difference, len(tested))
        judged.append(replace(finding, verdict=verdict, reason=why, smallest=smallest))
    return judged


@dataclass(frozen=True)
class Findings:
    """The findings of one suite.

    Attributes:
        cells: the tables that they are made from.
        all: one finding a claim and split, on all architectures but the baseline.
        by_name: the same on each architecture alone.
    """

    cells: Cells
    all: Sequence[Finding]
    by_name: Mapping[str, Sequence[Finding]]


def collect_findings(cells: Cells) -> Findings:
    """Test every claim on the records of one suite, on all architectures together and on each.

    Some are tested under each evaluation shift too. The baseline is in no effect: with its convex loss most
    measures are constant. It is the negative control of claims about connectivity.
    """
    tested = _collect_contrasts(cells)
    names, baselines = cells.architectures(), cells.baselines()
    by_name = {name: _judge(tested, {name}, set()) for name in names}
    return Findings(cells, _judge(tested, set(names) - baselines, baselines), by_name)


def claim_finding(found: Findings, name: str) -> Finding | None:
    """Return the finding on a claim on the test set, by the claim's name; None if it is not tested."""
    return next((f for f in found.all if f.claim.name == name and f.split == SPLIT), None)


def render_findings(found: Findings, style: str = GITHUB) -> str:
    """Return the findings as text: the table, verdicts by architecture, and the exact tests.

    Args:
        found: of one suite.
        style: a format of tabulate.
    """
    cells, findings = found.cells, found.all
    safe = escape_markdown if style == GITHUB else one_line
    baselines = cells.baselines()
    table = [
        {
            "paper": finding.claim.source,
            "claim": _statement(finding),
            "effect": _number(finding.effect.mean, finding.claim.unit),
            f"{100 * CONFIDENCE:g} % interval": _interval(finding.effect, finding.claim.unit),
            "margin": _size(finding.claim.margin, finding.claim.unit),
            "detectable effect": _size(finding.smallest, finding.claim.unit),
            "n": finding.effect.n,
            "contrasts": f"{finding.contrasts}"
            + (f" ({finding.excluded} left out)" if finding.excluded else ""),
            "verdict": finding.verdict + (f": {finding.reason}" if finding.reason else ""),
        }
        for finding in findings
    ]
    parts = [make_table(table, style=style, disable_numparse=True)]
    controls = [f for f in findings if f.control is not None and f.control.n]
    if controls:
        shown = [
            {
                "claim": _statement(f),
                "effect": _number(f.control.mean, f.claim.unit),
                f"{100 * CONFIDENCE:g} % interval": _interval(f.control, f.claim.unit),
                "n": f.control.n,
            }
            for f in controls
            if f.control is not None
        ]
        parts.append(_heading("Negative control: the same on the convex baseline", style))
        parts.append(make_table(shown, style=style, disable_numparse=True))
    if len(found.by_name) > 1 or baselines:
        rows = [
            {"claim": _statement(finding)}
            | {name: _brief(of_name[i], name in baselines) for name, of_name in found.by_name.items()}
            for i, finding in enumerate(findings)
        ]
        parts.append(_heading("By architecture", style))
        parts.append(make_table(rows, style=style, disable_numparse=True))
    if cells.rows["fork_share"].notna().any():
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


def _judge(tested: Tested, architectures: Collection[str], baselines: Collection[str]) -> list[Finding]:
    """Return the findings on some of the architectures, beside their negative controls."""
    findings = []
    for claim, split, contrasts in tested:
        effect, counted, excluded = pool(c for c in contrasts if c.what[0] in architectures)
        control = pool(c for c in contrasts if c.what[0] in baselines).effect if claim.controlled else None
        findings.append(Finding(claim, split, effect, counted, excluded, control))
    return judge_claims(findings)


def _obstacle(finding: Finding) -> str:
    """Return why a claim cannot be tested; empty if it can."""
    effect = finding.effect
    if finding.excluded and not finding.contrasts:
        return "no contrast was measured in every replicate"
    if effect.mean is None:
        return "the records do not hold what it needs"
    if effect.half_width is None:
        return "one replicate has no interval"
    if effect.n < MIN_REPLICATES:
        return f"{effect.n} replicates of the {MIN_REPLICATES} that a verdict needs"
    if effect.half_width <= ROUNDING:
        return "all replicates agree to rounding: no spread to take an interval from"
    return ""


def _verdict(finding: Finding, effect: float, p: float, p_within: float) -> tuple[ClaimVerdict, str]:
    if p_within <= ALPHA:
        return "equivalent", ""
    if p > ALPHA:
        return "not supported", ""
    control = finding.control
    if control is not None and not _obstacle(replace(finding, effect=control, excluded=0)):
        plain = _difference(control)
        if plain.p_change() <= ALPHA and plain.estimate * effect > 0:
            return "not supported", "the convex baseline shows it too"
    return ("supported" if effect > 0 else "contrary"), ""


def _difference(effect: Estimate) -> Difference:
    """Return an estimate over replicates as a difference from 0."""
    assert effect.mean is not None
    assert effect.half_width is not None
    n = effect.n
    error = effect.half_width / float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Difference((n, n), effect.mean, n * error**2, error, n - 1, False, True)


def _detectable(difference: Difference, tests: int) -> float:
    """Return the effect that is found with probability `POWER` at Holm's first and strictest step."""
    assert difference.error is not None
    quantiles = stdtrit(difference.df, 1 - ALPHA / 2 / tests) + stdtrit(difference.df, POWER)
    return float(quantiles) * difference.error


def _statement(finding: Finding) -> str:
    where = "" if finding.split == SPLIT else f" ({finding.split})"
    return f"{finding.claim.statement}{where}"


def _brief(finding: Finding, convex: bool) -> str:
    if finding.effect.mean is None:
        return "–"
    number = _number(finding.effect.mean, finding.claim.unit)
    if convex:  # nothing separates its networks
        return number
    verdict = "no verdict" if finding.verdict == "not testable" else finding.verdict
    return f"{number}, {verdict}"


def _interval(effect: Estimate, unit: str) -> str:
    mean, width = effect.mean, effect.half_width
    if mean is None or width is None:
        return "–"
    low, high = (_number(x, unit) for x in (mean - width, mean + width))
    return f"{low} to {high}"


def _size(value: float | None, unit: str) -> str:
    return _number(value, unit).removeprefix("+")


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
    tested = sum(f.verdict != "not testable" for f in findings)
    counts = {status: sum(r.status == status for r in cells.records) for status in NOT_MEASURED}
    notes = [
        f"Papers: {'; '.join(f'{paper}, {place}' for paper, place in PAPERS.items())}.",
        "Effect: positive is what the claim says; barriers, accuracies and disagreement in percentage "
        "points. Mean over replicates (n) with its Student t interval; a replicate's number is the mean "
        "of its contrasts. Only those that were measured in every replicate count; how many others there "
        "are stands behind as left out.",
        "Supported, contrary: the effect is above, below 0. Equivalent: it is certainly smaller than the "
        "margin, in either direction. Not supported: neither is known, which does not prove that there is no "
        "effect; effects smaller than the detectable effect are missed in more than one of five cases. "
        "Not testable here (no verdict): the records do not hold what is needed, or fewer than "
        f"{MIN_REPLICATES} replicates do, or all of these agree to rounding.",
        f"{tested} claims were tested, and their p-values corrected together (Holm): where no claim has an "
        f"effect, any is called supported or contrary with a probability of at most {100 * ALPHA:g} %. "
        "Intervals are not corrected.",
        "Stability point: share of training. From the earliest to the latest replicate; this range holds the "
        "median of all possible replicates with the probability under coverage. By the chord form of the "
        "error barrier, and by the mean form, which is never below half the difference of its ends.",
        *_controls(cells),
    ]
    if cells.baselines():
        notes.append(
            f"{BASELINE} is the permanent baseline: its loss is convex, so that its networks are connected "
            "whatever is done. It is in no effect of the claims and gets no verdict. Where a claim is about "
            "connectivity, it is the negative control: what it shows too is not called supported."
        )
    if any(counts.values()):
        listed = ", ".join(f"{n} {NOT_MEASURED[status]}" for status, n in counts.items() if n)
        notes.append(f"Of {len(cells.records)} cells {listed}; they are in no contrast.")
    if any(r.suite.name in DEMONSTRATIONS for r in cells.records[:1]):
        notes.append(DEMONSTRATION)
    return notes
