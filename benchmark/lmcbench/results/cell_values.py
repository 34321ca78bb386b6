"""What a record is called in print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Literal

from lmcbench.errors import UserError
from lmcbench.results.curves import Barrier
from lmcbench.results.record import Record
from lmcbench.spec import architectures as spec
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.shifts import Noise, Shift


def architecture_label(record: Record) -> str:
    """The architecture in print, with its adaptation and keyword arguments."""
    shown = record.architecture
    return spec.architecture_label(shown.name, shown.kwargs, shown.adapt)


def shift_label(record: Record) -> str:
    """The training shift in print, with what differs from its defaults."""
    return _shift_label(record.shift.name, canonical_json(record.shift.params), record.shift.noise)


def cell_text(record: Record) -> str:
    """A cell in words, beside others of its architecture."""
    return f"{shift_label(record)}, fork {record.fork.name}, replicate {record.replicate}"


@lru_cache
def _shift_label(name: str, canonical: str, noise: Noise) -> str:
    params = json.loads(canonical)
    try:
        return Shift.parse(name, params, noise).label
    except UserError:
        # a shift that this version does not know: nothing says which parameters are defaults
        settings = ",".join(f"{k}={v}" for k, v in sorted(params.items()))
        return f"{name}[{settings}]" if settings else name


SPLIT = "test"
"""What headlines are measured on."""
CONNECTED = 0.02
"""Error barrier under which siblings are connected [F, section 3.1]: chord form, test, mean over pairs."""

Form = Literal["error_chord", "error_mean"]
"""Of the error barrier: over the chord between the ends, which headlines are in, or over their mean."""
_BARRIER = {field.name for field in fields(Barrier)}


def cell_value(record: Record, measure: str) -> float | None:
    """`measure` of a cell, by the name `load_records` has for it; None where it was not measured."""
    if measure in _BARRIER:
        return barrier_value(record, measure)
    if measure == "disagreement":
        found = [p.disagreement.get(SPLIT) for p in record.pairs]
    elif measure in ("error", "loss"):
        found = [getattr(s.splits[SPLIT], measure) for s in record.siblings if SPLIT in s.splits]
    elif measure.startswith("soup_"):
        soup = (record.soup or {}).get(SPLIT)
        found = [] if soup is None else [getattr(soup, measure.removeprefix("soup_"))]
    else:
        found = [(record.ensemble or {}).get(SPLIT, {}).get(measure)]
    return _mean(found)


def barrier_value(record: Record, measure: str, split: str = SPLIT) -> float | None:
    """A field of `Barrier`, mean over the cell's pairs; None where it was not measured."""
    return _mean([getattr(p.barriers[split], measure) for p in record.pairs if split in p.barriers])


def error_barrier(record: Record, split: str = SPLIT, form: Form = "error_chord") -> float | None:
    """The error barrier (fraction), mean over the cell's pairs; None where it was not measured."""
    return barrier_value(record, form, split)


def is_connected(record: Record, form: Form = "error_chord") -> bool:
    """Whether the cell's error barrier on the test set is under `CONNECTED`; not so where it has none."""
    found = error_barrier(record, form=form)
    return found is not None and found < CONNECTED


def _mean(found: Sequence[float | None]) -> float | None:
    """None where any value is missing."""
    values = [float(value) for value in found if value is not None]
    return sum(values) / len(values) if values and len(values) == len(found) else None
