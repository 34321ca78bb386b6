"""Which records hold the further measures, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lmcbench.results.labels import architecture_label, shift_label
from lmcbench.results.measures import Array, chord_excess
from lmcbench.results.record import Record
from lmcbench.spec.forks import Fork

Grid = dict[str, dict[str, Record]]
"""Architecture -> fork -> record."""


def order(records: Iterable[Record]) -> list[Record]:
    """Small networks first, then by replicate, shift (none first) and fork."""

    def rank(record: Record) -> tuple[Any, ...]:
        shift = shift_label(record)
        return (
            record.architecture.params or 0,
            architecture_label(record),
            record.replicate,
            shift != "none",
            shift,
            Fork.parse(record.fork.name).order,
        )

    return sorted(records, key=rank)


def measured(records: Iterable[Record]) -> list[Record]:
    """Those that were measured, in that order."""
    return [r for r in order(records) if r.status == "ok"]


def held(record: Record, name: str) -> dict[str, Any] | None:
    """A further measure of the record's first pair; None where it was not, or could not be, taken."""
    if not record.pairs:
        return None
    found = (record.pairs[0].model_extra or {}).get(name)
    return found if isinstance(found, dict) and "skipped" not in found else None


def further(record: Record, name: str) -> dict[str, Any]:
    """The same of a record that has it, as those of `shown` do."""
    found = held(record, name)
    assert found is not None
    return found


def shown(records: Iterable[Record], name: str) -> Grid:
    """One shift, replicate and recipe of every architecture with the measure: none and the lowest first."""
    cells: Grid = {}
    chosen: dict[str, tuple[int, str, str]] = {}
    for record in order(records):
        if held(record, name) is None:
            continue
        label = architecture_label(record)
        which = (record.replicate, shift_label(record), record.recipe["name"])
        if chosen.setdefault(label, which) == which:
            cells.setdefault(label, {})[record.fork.name] = record
    return cells


def of_shift(cells: Grid) -> str:
    """What the cells have in common, for captions."""
    one = next(iter(next(iter(cells.values())).values()))
    return f"shift {shift_label(one)}, replicate {one.replicate}"


def forks_of(cells: Grid) -> list[str]:
    """Every fork of the cells, in order."""
    return sorted({f for row in cells.values() for f in row}, key=lambda name: Fork.parse(name).order)


def excess(alphas: Sequence[float], values: Sequence[float]) -> Array:
    """S(alpha), how far values are above the chord between their ends."""
    return chord_excess(np.array(alphas), np.array(values))


def interior(values: Array) -> float:
    """The greatest inside 0 < alpha < 1, signed."""
    return float(values[1:-1].max())
