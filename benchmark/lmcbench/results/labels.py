"""What a record is called in print."""

from __future__ import annotations

from lmcbench.errors import UserError
from lmcbench.results.record import Record
from lmcbench.spec import architectures as spec
from lmcbench.spec.shifts import Shift


def architecture_label(record: Record) -> str:
    """The architecture in print, with its adaptation and keyword arguments."""
    shown = record.architecture
    return spec.architecture_label(shown.name, shown.kwargs, shown.adapt)


def shift_label(record: Record) -> str:
    """The training shift in print, with what differs from its defaults."""
    name, params, noise = record.shift.name, record.shift.params, record.shift.noise
    try:
        return Shift.parse(name, params, noise).label
    except UserError:
        # a shift that this version does not know: nothing says which parameters are defaults
        settings = ",".join(f"{k}={v}" for k, v in sorted(params.items()))
        return f"{name}[{settings}]" if settings else name
