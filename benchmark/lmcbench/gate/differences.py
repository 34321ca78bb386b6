"""Matched cells of two runs as one value per replicate and measure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd

from lmcbench.errors import counted
from lmcbench.gate.matching import Matched, group_label
from lmcbench.results.frame import build_frame
from lmcbench.results.record import Record
from lmcbench.stats.cells import average_pairs
from lmcbench.stats.inference import Difference, paired, welch

Means = tuple[float, float, Difference]
"""Mean over replicates of base and of head, and their difference."""


class Differences:
    """Differences between the matched cells of two runs; the replicate is the unit.

    Paired runs are compared replicate by replicate over the cells that were measured on both sides. Across
    seeds the replicates of each side are independent, and those with a missing cell are excluded.

    Attributes:
        groups: label of a cell without its replicate -> one such record of the head.
        notes: what the reader must know about the cells.
        unbalanced: why no verdict of equality is possible; None if it is.
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
            lost = sum(a.status == b.status == "diverged" for a, b in matched.pairs)
            if lost:
                self.notes.append(f"{counted(lost, 'cell')} diverged on both sides, in no mean.")
        self.groups = {group_label(record): record for record in sides[1]}
        self._base, self._head = (_cells(records) for records in sides)
        if not seeds:
            # one label for both: across architectures, recipes or suites the labels differ
            self._base[["group", "replicate"]] = self._head[["group", "replicate"]]

    def difference(self, measure: str, groups: Collection[str]) -> Means | None:
        """Return the difference over the cells of `groups`; None if `measure` is missing on a side."""
        if measure not in self._base or measure not in self._head:
            return None
        base, head = (t[t["group"].isin(groups)].dropna(subset=measure) for t in (self._base, self._head))
        if not self.seeds:
            both = base.index.intersection(head.index)
            base, head = base.loc[both], head.loc[both]
        if base.empty or head.empty:
            return None
        old, new = _replicate_means(base, measure), _replicate_means(head, measure)
        if self.seeds:
            return _mean(old), _mean(new), welch(old, new)
        # equal means of unequal cells are not an equality
        exact = bool((base[measure] == head[measure]).all())
        return _mean(old), _mean(new), replace(paired(old, new), exact=exact)

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
        diverged = [sum(r.status == "diverged" for r in side) for side in (matched.base, matched.head)]
        if any(diverged):
            self.unbalanced = f"{counted(diverged[0], 'cell')} diverged in BASE and {diverged[1]} in HEAD"
        return base, head


def _complete(records: Sequence[Record]) -> list[Record]:
    """Return the records of the replicates whose cells were all measured."""
    groups = {group_label(r) for r in records}
    measured: dict[int, set[str]] = {}
    for r in records:
        if r.status == "ok":
            measured.setdefault(r.replicate, set()).add(group_label(r))
    return [r for r in records if measured.get(r.replicate) == groups]


def _cells(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per record in the order of `records`."""
    table = average_pairs(build_frame(records)).set_index("key").reindex([r.key for r in records])
    table["group"] = [group_label(r) for r in records]
    table["replicate"] = [r.replicate for r in records]
    return table.reset_index(drop=True)


def _replicate_means(table: pd.DataFrame, measure: str) -> list[float]:
    values: dict[int, list[float]] = {}
    for replicate, value in zip(table["replicate"], table[measure], strict=True):
        values.setdefault(replicate, []).append(value)
    return [_mean(values[replicate]) for replicate in sorted(values)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
