"""Which cells ranks are based on."""

from __future__ import annotations

from lmcbench.results.cell_values import shift_label
from lmcbench.results.record import Record
from lmcbench.spec.suite import Suite

HEADLINE_FORK = "0"
NO_SHIFT = "none"


def headline_shifts(suite: Suite) -> tuple[str, ...]:
    """Return the training shifts that connectivity is a mean over: all but none and controls.

    A suite without any is ranked by the barrier without shift.
    """
    shifts = [spec.shift for spec in suite.shifts]
    real = [s.label for s in shifts if s.name != NO_SHIFT and not s.is_control]
    return tuple(real or [s.label for s in shifts if s.name == NO_SHIFT])


def is_ranked_cell(record: Record, suite: Suite) -> bool:
    """Return whether the rank of a suite is based on a cell."""
    return record.fork.name == HEADLINE_FORK and shift_label(record) in headline_shifts(suite)
