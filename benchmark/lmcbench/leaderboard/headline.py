"""Which cells ranks are based on: those of the instability area (docs/design.md, section 9.3)."""

from __future__ import annotations

from lmcbench.results.cell_values import shift_label
from lmcbench.results.record import Record
from lmcbench.spec.suite import Suite
from lmcbench.stats.instability_area import fork_share, is_headline_fork

HEADLINE_FORK = "0"
NO_SHIFT = "none"


def headline_shifts(suite: Suite) -> tuple[str, ...]:
    """Return the training shifts that the area is a mean over: with own noise, but not controls.

    A suite without any is ranked by the area without shift.
    """
    shifts = [spec.shift for spec in suite.shifts if spec.shift.noise == "own"]
    real = [s.label for s in shifts if s.name != NO_SHIFT and not s.is_control]
    return tuple(real or [s.label for s in shifts if s.name == NO_SHIFT])


def is_ranked_cell(record: Record, suite: Suite) -> bool:
    """Return whether the rank of a suite is based on a cell."""
    counts = is_headline_fork(record.fork.name, fork_share(record))
    return counts and shift_label(record) in headline_shifts(suite)
