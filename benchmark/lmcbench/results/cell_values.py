"""Labels and single numbers read from the record of a cell."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Literal

from lmcbench.errors import UserError
from lmcbench.results.curves import Barrier
from lmcbench.results.record import Record
from lmcbench.spec import architectures as spec
from lmcbench.spec.canonical import canonical_json
from lmcbench.spec.own_shifts import is_own
from lmcbench.spec.shifts import Noise, Shift, split_control


def architecture_label(record: Record) -> str:
    """Return the printed name of the architecture, with its adaptation and keyword arguments."""
    network = record.architecture
    return spec.architecture_label(network.name, network.kwargs, network.adapt)


def epochs_of(record: Record) -> float:
    """Return the length of the recipe; NaN if the record does not have it."""
    epochs = record.recipe.get("epochs")
    return float(epochs) if isinstance(epochs, int | float) else math.nan


def shift_label(record: Record) -> str:
    """Return the printed name of the training shift, with the parameters that differ from their defaults."""
    return _shift_label(record.shift.name, canonical_json(record.shift.params), record.shift.noise)


def cell_text(record: Record) -> str:
    """Return shift, fork and replicate in words: they tell a cell from others of its architecture."""
    return f"{shift_label(record)}, fork {record.fork.name}, replicate {record.replicate}"


@lru_cache
def _shift_label(name: str, canonical: str, noise: Noise) -> str:
    params = json.loads(canonical)
    try:
        if is_own(split_control(name)[0]):  # a user's rule, whose file is not read
            return Shift(name, params, noise, source=name).label
        return Shift.parse(name, params, noise).label
    except UserError:
        # a shift of a later version: its defaults are unknown
        settings = ",".join(f"{k}={v}" for k, v in sorted(params.items()))
        return f"{name}[{settings}]" if settings else name


SPLIT = "test"
"""Split of all headline numbers."""
CONNECTED = 0.02
"""Siblings are connected if their error barrier is below this fraction: chord form, test set, mean over pairs
(Frankle et al., 2020, section 3.1)."""

Form = Literal["error_chord", "error_mean"]
"""Chord form (used in headlines) or mean form of the error barrier."""
_BARRIER_FIELDS = {field.name for field in fields(Barrier)}


def cell_value(record: Record, measure: str) -> float | None:
    """Return a measure by its name in `load_records`, averaged over pairs or members; None if missing."""
    if measure in _BARRIER_FIELDS:
        return barrier_value(record, measure)
    if measure == "disagreement":
        values = [p.disagreement.get(SPLIT) for p in record.pairs]
    elif measure in ("error", "loss", "ece"):
        values = [getattr(s.splits[SPLIT], measure) for s in record.siblings if SPLIT in s.splits]
    elif measure.startswith("soup_"):
        soup = (record.soup or {}).get(SPLIT)
        values = [] if soup is None else [getattr(soup, measure.removeprefix("soup_"))]
    else:
        values = [(record.ensemble or {}).get(SPLIT, {}).get(measure)]
    return _mean(values)


def barrier_value(record: Record, measure: str, split: str = SPLIT) -> float | None:
    """Return a field of `Barrier`, averaged over the cell's pairs; None if it was not measured."""
    return _mean([getattr(p.barriers[split], measure) for p in record.pairs if split in p.barriers])


def error_barrier(record: Record, split: str = SPLIT, form: Form = "error_chord") -> float | None:
    """Return the error barrier (fraction), averaged over the cell's pairs; None if it was not measured."""
    return barrier_value(record, form, split)


def is_connected(record: Record, form: Form = "error_chord") -> bool:
    """Return whether the error barrier on the test set is below `CONNECTED`; False if it was not measured."""
    height = error_barrier(record, form=form)
    return height is not None and height < CONNECTED


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if there are no values or any is missing."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def chance_error(record: Record) -> float | None:
    """Return the test error of always answering the commonest test class; None if it is not known.

    Where the record does not state the size of that class, all test classes are taken to be equally large.
    """
    tested = next((entry for entry in record.data if entry["split"] == SPLIT), {})
    largest, n = tested.get("largest_class"), tested.get("n")
    if largest and n:
        return 1 - float(largest) / float(n)
    counts = record.training["label_counts"] if record.training else []
    return 1 - 1 / len(counts[0]) if counts else None
