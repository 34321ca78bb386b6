"""Compare two runs cell by cell: the regression gate."""

from __future__ import annotations

from collections.abc import Sequence

from lmcbench.errors import UserError, counted, unknown
from lmcbench.gate.comparison import ALL_CELLS, DECIDED_BY_ONE, Comparison, Described, Overall, Side, Tested
from lmcbench.gate.differences import Differences
from lmcbench.gate.matching import (
    FIELDS,
    Matched,
    cell_label,
    check_one_suite,
    find_obstacles,
    match,
    same_observations,
    suite_text,
)
from lmcbench.results.cell_values import shift_label
from lmcbench.results.record import UNTRAINED, Record
from lmcbench.spec.gate_tests import AREA, DEFAULT_GATE, MEASURES, GateTest
from lmcbench.spec.suite_files import load_suite
from lmcbench.stats.inference import Rule, judge


def select_gate(records: Sequence[Record], suite: str | None = None) -> tuple[Sequence[GateTest], str]:
    """Return the headline tests for `records`, and in words where they come from.

    Args:
        records: of one suite.
        suite: name or file of the suite that declares the tests; default: that of the records, if published.

    Raises:
        UserError: if there is no such suite.
    """
    if suite is not None:
        chosen = load_suite(suite)
        return (chosen.gate or DEFAULT_GATE), suite if chosen.gate else f"the defaults ({suite} has no gate)"
    name = f"{records[0].suite.name}-v{records[0].suite.version}"
    try:
        published = load_suite(name)
    except UserError:
        published = None
    if published is None or published.digest != records[0].suite.digest:
        return DEFAULT_GATE, "the defaults (the suite is not a published one; --suite FILE names yours)"
    return (published.gate or DEFAULT_GATE), name if published.gate else f"the defaults ({name} has no gate)"


def compare(
    base: Sequence[Record],
    head: Sequence[Record],
    gate: Sequence[GateTest] = DEFAULT_GATE,
    across: Sequence[str] = (),
    names: tuple[str, str] = ("BASE", "HEAD"),
    unreadable: tuple[int, int] = (0, 0),
) -> Comparison:
    """Compare two runs cell by cell; the replicate is the unit.

    Args:
        base: records of the run to compare with.
        head: records of the run in question.
        gate: the headline tests, at most three.
        across: fields in which the runs differ on purpose.
        names: of the two runs, for messages.
        unreadable: damaged records of each run, which are missing in `base` and `head`.

    Raises:
        UserError: if a side is not one run, or cells match ambiguously.
    """
    across = tuple(dict.fromkeys(across))
    for field in across:
        if field not in FIELDS:
            raise unknown("field to compare across", field, FIELDS)
    for records, name in zip((base, head), names, strict=True):
        check_one_suite(records, name)
    sides = _side(base, names[0]), _side(head, names[1])
    if "suite" not in across and base[0].suite.digest != head[0].suite.digest:
        return _refused(
            sides,
            across,
            [
                f"{names[0]} is of suite {suite_text(base[0])}, {names[1]} of {suite_text(head[0])}; "
                "--across suite compares them all the same"
            ],
        )
    matched = match(base, head, across, names)
    if not matched.base:
        return _refused(
            sides,
            across,
            [
                f"{names[0]} and {names[1]} have no cell in common "
                f"({matched.missing_in_head[0]}, say, against {matched.missing_in_base[0]}); "
                "--across architecture|recipe|suite|seeds compares over a field on purpose"
            ],
        )
    obstacles = find_obstacles(matched, across)
    if obstacles:
        return _refused(sides, across, obstacles)
    return _compare(matched, sides, gate, across, unreadable)


# --- the comparison ------------------------------------------------------------------------------


def _compare(
    matched: Matched,
    sides: tuple[Side, Side],
    gate: Sequence[GateTest],
    across: tuple[str, ...],
    unreadable: tuple[int, int],
) -> Comparison:
    seeds = "seeds" in across
    failed = [
        f"{cell_label(r)} in {side.name}"
        for records, side in zip((matched.base, matched.head), sides, strict=True)
        for r in records
        if r.status == "failed"
    ]
    diverged = [
        f"{cell_label(new)} in {sides[new.status != 'ok'].name}"
        for old, new in matched.pairs
        if "ok" in (statuses := {old.status, new.status}) and statuses & UNTRAINED
    ]
    identical = _identical(matched, seeds)
    table = Differences(matched, seeds)
    tests, notes = _headline(table, gate, seeds)
    notes = [*_remarks(matched, across), *table.notes, *notes]
    measures = [] if identical else _describe(table)
    verdict, reasons = _overall(tests, identical, table.measured)
    if seeds and table.unbalanced and verdict in ("identical", "equivalent", "improved"):
        verdict, reasons = "inconclusive", [table.unbalanced]
    if diverged:
        worse = any(new.status in UNTRAINED and old.status == "ok" for old, new in matched.pairs)
        verdict = "regressed" if worse else "changed"
        reasons = [
            f"{counted(len(diverged), 'cell')} diverged or did not learn on one side only: {_some(diverged)}"
        ]
    incomplete = [
        f"{counted(len(cells), 'cell')} {what}: {_some(cells)}"
        for cells, what in (
            (matched.missing_in_head, _missing(len(matched.missing_in_head), *sides)),
            (matched.missing_in_base, _missing(len(matched.missing_in_base), *reversed(sides))),
            (failed, "failed"),
        )
        if cells
    ]
    incomplete += [
        f"{counted(n, 'record')} of {side.name} cannot be read"
        for n, side in zip(unreadable, sides, strict=True)
        if n
    ]
    if incomplete:
        reasons = [*incomplete, f"what both have is {verdict}"]
        verdict = "incomplete"
    return Comparison(
        verdict,
        *sides,
        across,
        len(matched.pairs) or len(matched.base) + len(matched.head),
        table.measured,
        matched.missing_in_base,
        matched.missing_in_head,
        failed,
        diverged,
        reasons,
        tests,
        measures,
        notes,
    )


def _headline(table: Differences, gate: Sequence[GateTest], seeds: bool) -> tuple[list[Tested], list[str]]:
    """Return the results of the headline tests, and notes about them."""
    notes: list[str] = []
    asked = []
    everything = table.groups
    for test in gate:
        chosen = {group for group, r in everything.items() if test.covers(shift_label(r), r.fork.name)}
        here = [everything[group] for group in chosen]
        cells = _cells_text(
            [name for name in test.shifts if any(shift_label(r) == name for r in here)],
            [name for name in test.forks if any(r.fork.name == name for r in here)],
        )
        if not chosen and everything:
            wanted = _cells_text(test.shifts, test.forks)
            notes.append(f"There are no cells of {wanted} here: {test.measure} is tested over all cells.")
            chosen, cells = set(everything), ALL_CELLS
        found = table.difference(test.measure, chosen)
        if found is None:
            notes.append(f"{test.measure} was not measured on both sides: not tested.")
            continue
        asked.append((test, cells, chosen, *found))
    rules = [Rule(test.kind, test.margin, test.better) for test, *_ in asked]
    judged = judge([difference for *_, difference in asked], rules)
    tests = [
        Tested(test, cells, base, head, difference, judgement, _largest(table, test, chosen))
        for (test, cells, chosen, base, head, difference), judgement in zip(asked, judged, strict=True)
    ]
    few = min((min(t.difference.n) for t in tests), default=0)
    open_ended = any(t.judgement.verdict != "identical" for t in tests)
    if few == 1 and open_ended:
        notes.append("One replicate shows no spread: nothing but exact equality can be told. Run at least 5.")
    elif 1 < few < 5 and open_ended:
        blind = [t.test.measure for t in tests if t.judgement.power is not None and t.judgement.power < 0.5]
        if blind:
            notes.append(
                f"With {few} replicates a change of twice the margin would most likely be missed in "
                f"{', '.join(blind)} (see power)."
            )
    return tests, notes


def _largest(table: Differences, test: GateTest, chosen: set[str]) -> str | None:
    """Return the cells with the largest difference, in words; None if no group of cells stands out.

    The instability area is of all forks of a network under a training shift.
    """
    groups: dict[str, set[str]] = {}
    for group in sorted(chosen):
        name = group.rpartition(" | fork ")[0] if test.measure == AREA else group
        groups.setdefault(name, set()).add(group)
    by_group = {
        name: found[2].estimate
        for name, cells in groups.items()
        if (found := table.difference(test.measure, cells))
    }
    if len(by_group) < 2 or not any(by_group.values()):
        return None
    group = max(by_group, key=lambda g: abs(by_group[g]))
    return f"{group}: {by_group[group]:+.4f}"


def _describe(table: Differences) -> list[Described]:
    names = (*MEASURES, "ece", "soup_ece", "error_chord", "loss_chord")
    found = [(name, table.difference(name, table.groups)) for name in names]
    return [Described(name, *value) for name, value in found if value is not None]


def _overall(tests: Sequence[Tested], identical: bool, measured: int) -> tuple[Overall, list[str]]:
    if identical:
        return "identical", []
    verdicts = {t.judgement.verdict for t in tests}
    for verdict in DECIDED_BY_ONE:
        if verdict in verdicts:
            return verdict, []
    if not measured:
        return "inconclusive", ["all cells diverged or failed"]
    if not tests:
        return "inconclusive", ["nothing that is tested was measured on both sides"]
    if min(min(t.difference.n) for t in tests) < 2:
        return "inconclusive", ["the tested measures are equal, but others are not, in a single replicate"]
    return "equivalent", []


def _identical(matched: Matched, seeds: bool) -> bool:
    if seeds:
        old, new = ({r.key: r for r in records} for records in (matched.base, matched.head))
        pairs = [(old[k], new[k]) for k in old] if old.keys() == new.keys() else []
    else:
        pairs = matched.pairs
    measured = any(a.status == b.status == "ok" for a, b in pairs)
    return measured and all(same_observations(a, b) for a, b in pairs)


def _remarks(matched: Matched, across: Sequence[str]) -> list[str]:
    notes = []
    if across:
        notes.append(f"Compared across {' and '.join(across)} on purpose: they differ in it by design.")
    if "suite" in across:
        notes.append("Data, protocol and seeds may differ with the suite.")
    elif any(a.seeds != b.seeds for a, b in matched.pairs):
        notes.append("Matched replicates do not share their seeds: pairing is by number only.")
    if any(a.views_digest != b.views_digest for a, b in matched.pairs) and "suite" not in across:
        notes.append("Siblings' views of the training data differ.")
    return notes


def _refused(sides: tuple[Side, Side], across: tuple[str, ...], reasons: list[str]) -> Comparison:
    return Comparison("not comparable", *sides, across, 0, 0, [], [], [], [], reasons, [], [], [])


# --- texts -----------------------------------------------------------------------------------


def _side(records: Sequence[Record], name: str) -> Side:
    environments = {
        ", ".join(
            str(part)
            for part in (
                r.env.get("engine"),
                r.env.get("device"),
                f"torch {(r.env.get('versions') or {}).get('torch')}",
            )
        )
        for r in records
        if r.status == "ok"
    }
    replicates = sorted({r.replicate for r in records})
    return Side(name, suite_text(records[0]), len(records), replicates, sorted(environments))


def _cells_text(shifts: Sequence[str], forks: Sequence[str]) -> str:
    named = (("shift", shifts), ("fork", forks))
    parts = [
        f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else "" for kind, names in named
    ]
    return ", ".join(part for part in parts if part) or ALL_CELLS


def _missing(n: int, where: Side, elsewhere: Side) -> str:
    return f"of {where.name} {'is' if n == 1 else 'are'} missing in {elsewhere.name}"


def _some(items: Sequence[str]) -> str:
    return "; ".join(items[:3]) + (f"; and {len(items) - 3} more" if len(items) > 3 else "")
