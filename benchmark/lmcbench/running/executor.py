"""What runs units of work: the interface that `drive` uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lmcbench.results.events import AttemptLog
from lmcbench.running.attempt import Attempt, Outcome


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended.

    Attributes:
        outcome: what it returned; None if it died, or if the executor passes on no values: then the event
            file has the outcome.
        reason: why it may have died, such as an exit code; one line.
    """

    outcome: Outcome | None
    reason: str = "it ended without a word"


class Handle(Protocol):
    """A submitted attempt."""

    def ended(self) -> Ended | None:
        """Return how it ended; None while it waits or runs."""

    def cancel(self) -> None:
        """End it, and wait for nothing."""


class Executor(Protocol):
    """What runs attempts.

    Attributes:
        name: as in `--on`, without options.
        slots: attempts that run at once; None: the executor has a queue of its own.
        is_remote: whether attempts may run on other machines.
    """

    name: str
    slots: int | None
    is_remote: bool

    def submit(self, work: Attempt, unit: str) -> Handle:
        """Begin an attempt, or put it into the executor's queue; `unit` names the unit of work.

        Raises:
            UserError: if the executor cannot run it.
        """

    def attach(self, log: AttemptLog) -> Handle | None:
        """Return a handle of an attempt that another driver submitted and this executor still has.

        By default, attempts end with their driver.
        """
        return None

    def keeps(self, log: AttemptLog) -> bool:
        """Return whether an attempt may run on although its driver has ended."""
        return False

    def wait(self, timeout: float) -> None:
        """Wait until an attempt may have ended or made progress, at most `timeout` seconds."""

    def close(self) -> None:
        """Cancel all running and waiting attempts and release their resources."""
