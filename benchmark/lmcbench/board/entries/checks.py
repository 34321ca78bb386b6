"""Checks of a record, made one by one into faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lmcbench.board.entries.manifest import Fault
from lmcbench.errors import UserError
from lmcbench.results.record import Record
from lmcbench.spec.cells import Cell
from lmcbench.spec.pins import Pins

Found = Iterator[tuple[str, str]]
"""Field and message of what is wrong."""


Check = Callable[[Record, Cell, Pins], Found]


def collect(checks: Sequence[Check], record: Record, file: str, cell: Cell, pins: Pins) -> list[Fault]:
    """The faults that some checks find in a record; one that its contents trip up is a fault too."""
    faults = []
    for check in checks:
        try:
            found = list(check(record, cell, pins))
        except UserError as error:
            found = [("data", str(error).rstrip("."))]
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # extra keys of a record may hold anything
            found = [("", f"cannot be checked: {type(error).__name__}: {error}")]
        faults += [Fault(file=file, field=field, message=f"{message}.") for field, message in found]
    return faults
