"""Reduce the matched cells of two runs to one value per replicate and measure, and compare these.

This reads records instead of the table of `load_records`, because a comparison starts faster without pandas.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from lmcbench.errors import counted
from lmcbench.gate.matching import Matched, group_label
from lmcbench.results.cell_values import cell_value
from lmcbench.results.record import UNTRAINED, Record
from lmcbench.spec.gate_tests import AREA
from lmcbench.stats.inference import Difference, paired, welch

Means = tuple[float, float, Difference]
"""Mean over replicates of base and of head, and their difference."""


class Differences:
    """Differences between the matched cells of two runs; the replicate is the unit.

    Paired runs are compared replicate by replicate over the cells that were measured on both sides. Across
    seeds the replicates of each side are independent, and those with a missing cell are excluded.

    Attributes:
        groups: label of a cell without its replicate -> a record of the head with this label.
        measured: number of cells that are in a mean, across seeds on both sides together.
        notes: notes for the reader, such as which cells are excluded.
        unbalanced: the reason why the runs cannot be called equal; None if there is none.
    """

    def __init__(self, matched: Matched, seeds: bool) -> None:
        self.seeds = seeds
        self.notes: list[str] = []
        self.unbalanced: str | None = None
        if seeds:
            sides = self._complete_replicates(matched)
        else:
            pairs = [(a, b) for a, b in matched.pairs if a.status == b.status == "ok"]
            sides = [a for a, _ in pairs], [b for _, b in pairs]
            lost = sum({a.status, b.status} <= UNTRAINED for a, b in matched.pairs)
            if lost:
                self.notes.append(
                    f"{counted(lost, 'cell')} diverged or did not learn on both sides, in no mean."
                )
        self._sides = sides
        self.measured = len(sides[0]) + len(sides[1]) if seeds else len(sides[0])
        self.groups = {group_label(record): record for record in sides[1]}

    def difference(self, measure: str, groups: Container[str]) -> Means | None:
        """Return the difference over the cells of `groups`; None if `measure` is missing on a side."""
        if measure == AREA:
            return self._areas(groups)
        if self.seeds:
            cells = [
                [(r.replicate, cell_value(r, measure)) for r in side if group_label(r) in groups]
                for side in self._sides
            ]
            old, new = (_replicate_means(side) for side in cells)
            return (_mean(old), _mean(new), welch(old, new)) if old and new else None
        values = [
            (b.replicate, cell_value(a, measure), cell_value(b, measure))
            for a, b in zip(*self._sides, strict=True)
            if group_label(b) in groups
        ]
        both = [(r, x, y) for r, x, y in values if x is not None and y is not None]
        if not both:
            return None
        old = _replicate_means([(r, x) for r, x, _ in both])
        new = _replicate_means([(r, y) for r, _, y in both])
        # equal means of unequal cells are not an equality
        exact = all(x == y for _, x, y in both)
        return _mean(old), _mean(new), replace(paired(old, new), exact=exact)

    def _areas(self, groups: Container[str]) -> Means | None:
        # imported here: pandas takes half a second, and few gates test the area
        from lmcbench.stats.instability_area import areas_of_replicates

        old, new = (areas_of_replicates(r for r in side if group_label(r) in groups) for side in self._sides)
        if self.seeds:
            a, b = list(old.values()), list(new.values())
            return (_mean(a), _mean(b), welch(a, b)) if a and b else None
        common = sorted(old.keys() & new.keys())
        if not common:
            return None
        a, b = [old[r] for r in common], [new[r] for r in common]
        return _mean(a), _mean(b), paired(a, b)

    def _complete_replicates(self, matched: Matched) -> tuple[list[Record], list[Record]]:
        base, head = _complete(matched.base), _complete(matched.head)
        self.notes.append("Across seeds: replicates are not paired; Welch's t interval.")
        lost = [
            len({r.replicate for r in records} - {r.replicate for r in kept})
            for records, kept in ((matched.base, base), (matched.head, head))
        ]
        if any(lost):
            self.notes.append(
                "Left out, as a cell of theirs was not measured: "
                f"{counted(lost[0], 'replicate')} of BASE and {lost[1]} of HEAD."
            )
        diverged = [sum(r.status in UNTRAINED for r in side) for side in (matched.base, matched.head)]
        if any(diverged):
            self.unbalanced = (
                f"{counted(diverged[0], 'cell')} diverged or did not learn in BASE and {diverged[1]} in HEAD"
            )
        return base, head


def _complete(records: Sequence[Record]) -> list[Record]:
    """Return the records of the replicates whose cells were all measured."""
    groups = {group_label(r) for r in records}
    measured: dict[int, set[str]] = {}
    for r in records:
        if r.status == "ok":
            measured.setdefault(r.replicate, set()).add(group_label(r))
    return [r for r in records if measured.get(r.replicate) == groups]


def _replicate_means(cells: Iterable[tuple[int, float | None]]) -> list[float]:
    values: dict[int, list[float]] = {}
    for replicate, value in cells:
        if value is not None:
            values.setdefault(replicate, []).append(value)
    return [_mean(values[replicate]) for replicate in sorted(values)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
