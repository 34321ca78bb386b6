"""The stability point: from which fork on siblings of a line are connected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tabulate import tabulate

from lmcbench.results.cell_values import Form, is_connected
from lmcbench.results.record import Record
from lmcbench.stats.cells import Line, line_of


class StabilityPoint(NamedTuple):
    """The earliest fork from which a replicate is connected at all later forks (Frankle et al., 2020).

    Attributes:
        epoch: of the trunk.
        fraction: of the full training.
    """

    epoch: float
    fraction: float


@dataclass(frozen=True)
class Stability:
    """The stability points of one architecture, recipe and shift, by replicate.

    Attributes:
        line: architecture, recipe and shift.
        forks: all measured forks as epochs, earliest first.
        points: by replicate; None: not connected even at the last fork.
        incomplete: replicates without a point because a fork is missing, diverged or failed.
        form: of the error barrier that decides whether siblings are connected.
    """

    line: Line
    forks: tuple[float, ...]
    points: Mapping[int, StabilityPoint | None]
    incomplete: int
    form: Form = "error_chord"

    @property
    def n(self) -> int:
        """Replicates that have an answer."""
        return len(self.points)

    @property
    def never(self) -> int:
        """Replicates that are not connected even at the last fork."""
        return sum(onset is None for onset in self.points.values())

    @property
    def median(self) -> StabilityPoint | None:
        """The median replicate, the later of the middle two; None: never, or no replicate."""
        ordered = self._ordered()
        return ordered[len(ordered) // 2] if ordered else None

    @property
    def interval(self) -> tuple[StabilityPoint | None, StabilityPoint | None] | None:
        """Earliest and latest replicate (None: never); None for fewer than two.

        It holds the median of all possible replicates with probability `coverage`, whatever their
        distribution. Onsets fall on a coarse grid of forks and may lie beyond its end, so that a t
        interval of their mean would mean nothing.
        """
        ordered = self._ordered()
        return (ordered[0], ordered[-1]) if len(ordered) >= 2 else None

    @property
    def coverage(self) -> float | None:
        """1 - 2^(1-n), None for fewer than two replicates: six are needed for 95 %."""
        return 1 - 2.0 ** (1 - self.n) if self.n >= 2 else None

    def _ordered(self) -> list[StabilityPoint | None]:
        return sorted(self.points.values(), key=lambda onset: math.inf if onset is None else onset.epoch)


def stability_points(records: Iterable[Record], form: Form = "error_chord") -> list[Stability]:
    """The stability point of every line that has forks, sorted by line.

    A replicate's is the earliest fork from which on it is connected at all later forks that any
    replicate of the line was run at. One fork that diverged or is missing leaves the replicate without.
    """
    lines: dict[Line, list[Record]] = {}
    for record in records:
        if record.fork.epoch is not None:
            lines.setdefault(line_of(record), []).append(record)
    return [_point(line, lines[line], form) for line in sorted(lines)]


def stability_table(records: Iterable[Record], style: str = "github") -> str:
    """The stability points as text, in a format of tabulate; forks as epochs and shares of training.

    By the chord form, and beside it the median and the range by the mean form.
    """
    records = list(records)
    rows = [
        {
            **point.line._asdict(),
            "forks": ", ".join(f"{epoch:g}" for epoch in point.forks),
            "median": _median_text(point),
            "replicates": _range_text(point),
            "median, mean form": _median_text(beside),
            "replicates, mean form": _range_text(beside),
            "coverage": "–" if point.coverage is None else f"{100 * point.coverage:.0f} %",
            "n": f"{point.n} ({point.incomplete} left out)" if point.incomplete else str(point.n),
        }
        for point, beside in zip(
            stability_points(records), stability_points(records, "error_mean"), strict=True
        )
    ]
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)


def _median_text(point: Stability) -> str:
    return _onset_text(point.median) if point.n else "–"


def _range_text(point: Stability) -> str:
    return "–" if point.interval is None else " to ".join(map(_onset_text, point.interval))


def _onset_text(onset: StabilityPoint | None) -> str:
    return "never" if onset is None else f"{onset.epoch:g} ({100 * onset.fraction:.0f} %)"


def _point(line: Line, records: list[Record], form: Form) -> Stability:
    forks = tuple(sorted({r.fork.epoch for r in records if r.fork.epoch is not None}))
    replicates: dict[int, dict[float, Record]] = {}
    for record in records:
        measured = replicates.setdefault(record.replicate, {})
        if record.status == "ok" and record.fork.epoch is not None and record.fork.fraction is not None:
            measured[record.fork.epoch] = record
    whole = {r: m for r, m in sorted(replicates.items()) if len(m) == len(forks)}
    onsets = {replicate: _onset(forks, measured, form) for replicate, measured in whole.items()}
    return Stability(line, forks, onsets, len(replicates) - len(whole), form)


def _onset(forks: tuple[float, ...], measured: Mapping[float, Record], form: Form) -> StabilityPoint | None:
    onset = None
    for epoch in reversed(forks):
        record = measured[epoch]
        if record.fork.fraction is None or not is_connected(record, form):
            break
        onset = StabilityPoint(epoch, record.fork.fraction)
    return onset
