"""Is a record sound: does it keep to its suite, are its measurements consistent, may its values stand?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from lmcbench.board.entries.checks import Found, collect
from lmcbench.board.entries.manifest import Fault
from lmcbench.board.entries.measurements import check_pairs, check_siblings, check_soup, check_splits
from lmcbench.board.entries.terms import check_cost, check_data, check_fork, check_status
from lmcbench.results.record import Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.pins import Pins

_ABSOLUTE = re.compile(r"""(?:^|[\s"'(=:])(?:/[\w.-]+/[\w./-]+|[A-Za-z]:\\)""")


def soundness_faults(record: Record, file: str, cell: Cell, pins: Pins) -> list[Fault]:
    """Everything in a record that cannot be, whoever measured it; `file` names it in faults.

    Recomputed exactly: the fields of every barrier, from its curve. Bounded: errors, losses, the ends and
    the middle of curves against siblings and soup, disagreement, steps and FLOPs of training.
    """
    checks = (
        *(check_data, check_fork, check_status, check_cost),
        *(check_splits, check_siblings, check_pairs, check_soup, _leaves),
    )
    return collect(checks, record, file, cell, pins)


def _leaves(record: Record, cell: Cell, pins: Pins) -> Found:
    """Keys that this version does not know may hold anything but infinities and paths of a machine."""
    for place, value in _walk(record.model_dump(by_alias=True), ""):
        if isinstance(value, float) and not math.isfinite(value):
            yield place, f"found {value}; what was not measured is null"
        if isinstance(value, str) and _ABSOLUTE.search(value):
            yield place, f"holds a path of somebody's machine: {value[:80]!r}"


def _walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _walk(inner, f"{place}.{i}")
    else:
        yield place, value
