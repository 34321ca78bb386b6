"""How far a run has come, said now and then where no bar shows it: in a log, in CI."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from lmcbench.errors import counted

SILENCE = 60.0
"""Seconds without a word after which a run says how far it is."""

PATIENCE = 0.05
"""Share of a run's time so far that a silence may last at least: a day's log has no line for every minute."""


class Pulse:
    """Says how far a run is when it has been silent for a while.

    Args:
        finished: cells that were there before.
        clock: seconds that only grow.
    """

    def __init__(self, finished: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.finished = finished
        self.clock = clock
        self.began = self.spoke = clock()

    def speak(self) -> None:
        """Note that something was said."""
        self.spoke = self.clock()

    def line(self, done: float, cells: int) -> str | None:
        """What to say when `done` of `cells` cells are finished, earlier ones among them; mostly None."""
        now = self.clock()
        gone, share = now - self.began, done - self.finished
        if now - self.spoke < max(SILENCE, PATIENCE * gone):
            return None
        self.spoke = now
        left = f", about {_clock(gone * (cells - done) / share)} left" if share > 0 else ""
        return f"{done:.{1 if cells >= 10 else 2}f} of {counted(cells, 'cell')} after {_clock(gone)}{left}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
