"""What a record is called in print."""

from __future__ import annotations

import json
from functools import lru_cache

from lmcbench.errors import UserError
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
