"""What a person sees of a readiness check: a row as it is found, and what to do next."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lmcbench.check.check import Finding, Status, Verdict
from lmcbench.spec.architectures import Architecture, architecture_label
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import command_name

WIDTH = 110
MARKS: Mapping[Status, str] = {
    "passed": "ok",
    "failed": "FAILED",
    "not needed": "not needed",
    "not tried": "not tried",
}


def heading(verdict: Verdict) -> str:
    """What is about to be checked."""
    return f"{verdict.asked.label} for images {verdict.target}"


def row_texts(findings: Iterable[Finding]) -> Iterator[str]:
    """The rows of the table as they come, wrapped; what was not tried for one reason is one row."""
    held: list[Finding] = []
    for finding in findings:
        if held and (finding.status, finding.found) != (held[0].status, held[0].found):
            yield _row_text(held)
            held = []
        if finding.status == "not tried":
            held.append(finding)
        else:
            yield _row_text([finding])
    if held:
        yield _row_text(held)


def _row_text(alike: Sequence[Finding]) -> str:
    """Findings of one status and one text, as one row."""
    one, *more = alike
    text = one.found if not more else f"{', '.join(f.check for f in alike)}: {one.found}"
    start = f"  {MARKS[one.status]:<11} {'' if more else one.check:<13} "
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)))


def conclusion(verdict: Verdict) -> str:
    """What to do about each failure, or the command that comes next."""
    failed = [finding for finding in verdict.findings if finding.status == "failed"]
    if failed:
        lines = ["", f"{verdict.asked.label} is not ready for {verdict.target.size}. What to do:"]
        for finding in failed:
            start = f"  {finding.check}: "
            lines += textwrap.wrap(
                finding.todo or "", WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
            )
        return "\n".join(lines)
    assert verdict.built is not None
    lines = ["", f"{verdict.built.label} is ready for {verdict.target.size}."]
    lines += [_next_command(verdict.built, suite, _optimizers(verdict)) for suite in verdict.target.suites]
    return "\n".join(lines)


def _optimizers(verdict: Verdict) -> list[str]:
    [learns] = [finding for finding in verdict.findings if finding.check == "learns"]
    return [name.lower() for name in learns.data["optimizers"]]


def _next_command(built: Architecture, suite: Suite, optimizers: Sequence[str]) -> str:
    command = f"Run it: lmcbench run {command_name(suite.name, suite.version, suite.digest)}"
    if any(listed.label == built.label for listed in suite.architectures):
        return f"{command} --arch {shlex.quote(built.label)}"
    recipes = [name for name, recipe in suite.recipes.items() if recipe.optimizer in optimizers]
    if not recipes:
        return f"Suite {suite.name} has no recipe with {' or '.join(optimizers)}; it may not learn there."
    named = shlex.quote(architecture_label(built.name, built.kwargs, built.adapt))
    choice = recipes[0] if len(recipes) == 1 else f"RECIPE (one of {', '.join(recipes)})"
    return f"{command} --arch {named} --recipe {choice}"
