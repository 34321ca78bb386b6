"""One number of a record: a measure on the test split, averaged over the cell's pairs or siblings."""

from __future__ import annotations

from dataclasses import fields

from lmcbench.results.measures import Barrier
from lmcbench.results.record import Record

SPLIT = "test"
"""What headlines are measured on."""
_BARRIER = {field.name for field in fields(Barrier)}


def cell_value(record: Record, measure: str) -> float | None:
    """`measure` of a cell, by the name `load_records` has for it; None where it was not measured."""
    if measure in _BARRIER:
        found = [getattr(p.barriers[SPLIT], measure) for p in record.pairs if SPLIT in p.barriers]
    elif measure == "disagreement":
        found = [p.disagreement.get(SPLIT) for p in record.pairs]
    elif measure in ("error", "loss"):
        found = [getattr(s.splits[SPLIT], measure) for s in record.siblings if SPLIT in s.splits]
    elif measure.startswith("soup_"):
        soup = (record.soup or {}).get(SPLIT)
        found = [] if soup is None else [getattr(soup, measure.removeprefix("soup_"))]
    else:
        found = [(record.ensemble or {}).get(SPLIT, {}).get(measure)]
    values = [float(value) for value in found if value is not None]
    return sum(values) / len(values) if values and len(values) == len(found) else None
