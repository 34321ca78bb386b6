"""Render a comparison for a terminal, or as Markdown for a pull request comment."""

from __future__ import annotations

from collections.abc import Sequence

from lmcbench.errors import counted
from lmcbench.gate.comparison import Comparison, Side, Tested
from lmcbench.output import GITHUB, escape_markdown, make_table, one_line
from lmcbench.stats.inference import ALPHA, MOST_REPLICATES, POWER, Difference

MEANING = {
    "identical": "everything measured is equal to the last bit",
    "equivalent": "every tested measure lies within its margin, or is not worse by more than it",
    "improved": "nothing is worse by its margin, and something is better by more than it",
    "inconclusive": "these replicates cannot tell",
    "changed": "a tested measure moved by more than its margin",
    "regressed": "a tested measure got worse by more than its margin",
    "incomplete": "cells are missing, failed or cannot be read",
    "not comparable": "the runs are not of one kind",
}


def headline(comparison: Comparison) -> str:
    """Return the verdict in one line."""
    return one_line(f"{comparison.verdict.capitalize()}: {_meaning(comparison)}")


def _meaning(comparison: Comparison) -> str:
    """Return the verdict as a sentence with its reasons."""
    c = comparison
    meaning = MEANING[c.verdict]
    if c.verdict == "identical":
        meaning += f" in {_all_cells(c.matched)}"
    if c.verdict == "inconclusive" and 1 in (len(c.base.replicates), len(c.head.replicates)):
        meaning = "one replicate cannot tell"
    if c.verdict == "inconclusive" and not c.measured:
        meaning = "nothing was compared"
    made_by = "; ".join(c.reasons) or ", ".join(c.deciding)
    return f"{meaning}{f' ({made_by})' if made_by else ''}.{_moved(c.moved)}"


def _moved(measures: Sequence[str]) -> str:
    """Return a sentence on the measures that moved without being tested, if there are any."""
    if not measures:
        return ""
    named = ", ".join(measures[:5]) + (", ..." if len(measures) > 5 else "")
    return (
        f" Not tested, but moved (95 % interval excludes 0): {counted(len(measures), 'measure')} ({named})."
    )


def render(comparison: Comparison, gate: str, markdown: bool = False) -> str:
    """Return the comparison as text.

    Args:
        comparison: of two runs.
        gate: where the margins come from, in words.
        markdown: whether to write Markdown, for a pull request comment.
    """
    c = comparison
    style, bullet, safe = (GITHUB, "- ", escape_markdown) if markdown else ("simple", "", one_line)
    meaning = safe(_meaning(c))
    title = f"### lmcbench: {c.verdict}\n\n{meaning[0].upper()}{meaning[1:]}" if markdown else headline(c)
    roles = (("BASE", c.base), ("HEAD", c.head))
    sides = "\n".join(f"{bullet}{role} {safe(_side(side))}" for role, side in roles)
    parts = [title, sides]
    if c.tests and c.verdict != "identical":
        parts.append(_tests(c.tests, style))
        remarks = [line for test in c.tests if (line := _remark(test)) is not None]
        method = "Welch t" if "seeds" in c.across else "paired t over replicates"
        remarks.append(
            f"Difference: HEAD - BASE, {method}; changes are called at Holm-corrected p <= {ALPHA:g} and "
            f"beyond the margin. Power: chance of calling a change of twice the margin. Margins: {gate}."
        )
        parts.append("\n".join(f"{bullet}{safe(line)}" for line in [*remarks, *c.notes]))
    elif c.notes:
        parts.append("\n".join(f"{bullet}{safe(note)}" for note in c.notes))
    if c.measures:
        parts.append(_measures(c, style, markdown))
    return "\n\n".join(parts) + "\n"


def _side(side: Side) -> str:
    size = f"{counted(side.cells, 'cell')}, {counted(len(side.replicates), 'replicate')}"
    where = "; ".join(side.environments)
    return f"{side.name}: {side.suite}, {size}{f'; {where}' if where else ''}"


def _all_cells(n: int) -> str:
    return "the one cell" if n == 1 else f"all {n} cells"


def _tests(tests: Sequence[Tested], style: str) -> str:
    rows = [
        [
            t.test.measure,
            t.cells,
            f"{t.base:.4f}",
            f"{t.head:.4f}",
            f"{t.difference.estimate:+.4f}",
            _interval(t.difference, 1 - 2 * ALPHA),
            _interval(t.difference, 1 - ALPHA),
            ("±" if t.test.kind == "equivalence" else "-" if t.test.better == "higher" else "+")
            + f"{t.test.margin:g}",
            "–" if t.judgement.power is None else f"{100 * t.judgement.power:.0f} %",
            t.judgement.verdict,
        ]
        for t in tests
    ]
    headers = ["measure", "cells", "base", "head", "difference", "90 %", "95 %", "margin", "power", "verdict"]
    return make_table(rows, headers, style, disable_numparse=True)


def _remark(tested: Tested) -> str | None:
    """Return where a change is largest, or how many replicates a decision needs."""
    t, name = tested.judgement, tested.test.measure
    if t.verdict == "inconclusive":
        if tested.difference.error is None:
            return None  # one replicate: a note covers all tests
        if t.replicates_needed is None:
            return f"{name}: more than {MOST_REPLICATES} replicates would be needed to tell."
        return (
            f"{name}: about {t.replicates_needed} replicates would tell "
            f"({POWER:.0%} chance, if difference and spread stay)."
        )
    if t.verdict in ("changed", "regressed", "improved") and tested.largest is not None:
        return f"{name}: largest in {tested.largest}."
    return None


def _measures(comparison: Comparison, style: str, markdown: bool) -> str:
    rows = [
        [
            m.measure,
            f"{m.base:.4f}",
            f"{m.head:.4f}",
            f"{m.difference.estimate:+.4f}",
            _interval(m.difference, 1 - ALPHA) + (" moved" if m.moved else ""),
        ]
        for m in comparison.measures
    ]
    headers = ["measure", "base", "head", "difference", "95 %"]
    table = make_table(rows, headers, style, disable_numparse=True)
    title = "All measures, over all cells (described, not tested; moved: the interval excludes 0)"
    return (
        f"<details><summary>{title}</summary>\n\n{table}\n\n</details>" if markdown else f"{title}\n\n{table}"
    )


def _interval(difference: Difference, confidence: float) -> str:
    interval = difference.interval(confidence)
    return "–" if interval is None else f"[{interval[0]:+.4f}, {interval[1]:+.4f}]"
