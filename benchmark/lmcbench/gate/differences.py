"""Matched cells in, one value per replicate out: the units that every test counts."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from lmcbench.errors import counted
from lmcbench.gate.matching import Matched, group_label
from lmcbench.results.cell_values import cell_value
from lmcbench.results.record import Record
from lmcbench.stats.inference import Difference, paired, welch

Means = tuple[float, float, Difference]
"""Mean over replicates of base and of head, and their difference."""


class PairsTable:
    """Values of matched cells, replicate by replicate: mean over its cells, the same ones on both sides."""

    def __init__(self, matched: Matched) -> None:
        self.pairs = [(group_label(b), a, b) for a, b in matched.pairs if a.status == b.status == "ok"]
        lost = sum(a.status == b.status == "diverged" for a, b in matched.pairs)
        self.notes = [f"{counted(lost, 'cell')} diverged on both sides, in no mean."] if lost else []
        self.unbalanced: str | None = None

    def groups(self) -> dict[str, Record]:
        """What there is besides replicates: label -> one of its cells."""
        return {group: b for group, _, b in self.pairs}

    def difference(self, measure: str, chosen: Container[str]) -> Means | None:
        """Over the cells of `chosen` groups; None where `measure` was not taken on both sides."""
        found: dict[int, list[tuple[float, float]]] = {}
        for group, a, b in self.pairs:
            if group in chosen:
                old, new = cell_value(a, measure), cell_value(b, measure)
                if old is not None and new is not None:
                    found.setdefault(b.replicate, []).append((old, new))
        if not found:
            return None
        base = [_mean([old for old, _ in cells]) for _, cells in sorted(found.items())]
        head = [_mean([new for _, new in cells]) for _, cells in sorted(found.items())]
        # equal means of unequal cells are no equality
        exact = all(old == new for cells in found.values() for old, new in cells)
        return _mean(base), _mean(head), replace(paired(base, head), exact=exact)


class SeedsTable:
    """Values of two sets of replicates that share no seeds; replicates that lack a cell are left out."""

    def __init__(self, matched: Matched) -> None:
        self.sides = [self._whole(records) for records in (matched.base, matched.head)]
        lost = [
            len({r.replicate for r in records}) - len({r.replicate for _, r in kept})
            for records, kept in zip((matched.base, matched.head), self.sides, strict=True)
        ]
        diverged = [sum(r.status == "diverged" for r in side) for side in (matched.base, matched.head)]
        self.notes = ["Across seeds: replicates are not paired; Welch's t interval."]
        if any(lost):
            self.notes.append(
                "Left out, as a cell of theirs was not measured: "
                f"{counted(lost[0], 'replicate')} of BASE and {lost[1]} of HEAD."
            )
        here, there = diverged
        told = f"{counted(here, 'cell')} diverged in BASE and {there} in HEAD"
        self.unbalanced = told if any(diverged) else None

    @staticmethod
    def _whole(records: Sequence[Record]) -> list[tuple[str, Record]]:
        labelled = [(group_label(r), r) for r in records]
        groups = {group for group, _ in labelled}
        have: dict[int, set[str]] = {}
        for group, r in labelled:
            if r.status == "ok":
                have.setdefault(r.replicate, set()).add(group)
        return [(group, r) for group, r in labelled if have.get(r.replicate) == groups]

    def groups(self) -> dict[str, Record]:
        """What there is besides replicates: label -> one of its cells."""
        return dict(self.sides[1])

    def difference(self, measure: str, chosen: Container[str]) -> Means | None:
        """Over the cells of `chosen` groups; None where `measure` was not taken on both sides."""
        sides = []
        for records in self.sides:
            found: dict[int, list[float]] = {}
            for group, r in records:
                value = cell_value(r, measure) if group in chosen else None
                if value is not None:
                    found.setdefault(r.replicate, []).append(value)
            sides.append([_mean(values) for _, values in sorted(found.items())])
        base, head = sides
        return (_mean(base), _mean(head), welch(base, head)) if base and head else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
