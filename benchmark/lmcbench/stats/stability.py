"""The stability point: the earliest fork from which siblings are connected at all later forks.

A point is the share of training at that fork (Frankle et al., 2020, section 3), so that recipes of different
length are compared. It is censored: None means that siblings are not connected even at the last fork.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lmcbench.output import make_table
from lmcbench.results.cell_values import Form
from lmcbench.stats.cells import LINE, Line

CONNECTED_BY: dict[Form, str] = {"error_chord": "connected", "error_mean": "connected_mean_form"}
"""Form of the error barrier -> column of `load_records`."""


@dataclass(frozen=True)
class Stability:
    """The stability points of one architecture, recipe and shift, by replicate.

    Attributes:
        line: architecture, recipe and shift.
        forks: shares of training at all forks in the records, earliest first.
        points: replicate -> its point, a share of training; None: not connected even at the last fork.
        incomplete: number of excluded replicates: one of their forks is missing, diverged or failed.
    """

    line: Line
    forks: tuple[float, ...]
    points: Mapping[int, float | None]
    incomplete: int

    @property
    def n(self) -> int:
        """Number of replicates with all forks."""
        return len(self.points)

    @property
    def never(self) -> int:
        """Number of replicates that are not connected even at the last fork."""
        return sum(point is None for point in self.points.values())

    @property
    def median(self) -> float | None:
        """The median point (of two in the middle the later); None: never connected, or no replicate."""
        ordered = self._ordered()
        return ordered[len(ordered) // 2] if ordered else None

    @property
    def interval(self) -> tuple[float | None, float | None] | None:
        """The earliest and the latest point (None: never); None for fewer than two replicates.

        It contains the population median with probability `coverage`, for any distribution. A t interval
        would be meaningless: the points lie on a coarse grid of forks and are censored at its end.
        """
        ordered = self._ordered()
        return (ordered[0], ordered[-1]) if len(ordered) >= 2 else None

    @property
    def coverage(self) -> float | None:
        """Coverage of `interval`: 1 - 2^(1-n), so 95 % needs six replicates; None for fewer than two."""
        return 1 - 2.0 ** (1 - self.n) if self.n >= 2 else None

    def _ordered(self) -> list[float | None]:
        return sorted(self.points.values(), key=lambda point: math.inf if point is None else point)


def stability_points(rows: pd.DataFrame, form: Form = "error_chord") -> list[Stability]:
    """Return the stability points of every architecture, recipe and shift with forks, sorted by them.

    Args:
        rows: the table of `load_records`.
        form: form of the error barrier that decides whether siblings are connected.
    """
    cells = rows[rows["fork_share"].notna()].drop_duplicates("key")
    lines: Any = cells.groupby(LINE, sort=True)
    return [_stability(Line(*line), group, CONNECTED_BY[form]) for line, group in lines]


def _stability(line: Line, cells: pd.DataFrame, connected: str) -> Stability:
    forks = tuple(sorted(cells["fork_share"].unique()))
    cells = cells.sort_values("fork_share", ascending=False)
    replicates: Any = cells[cells["status"] == "ok"].groupby("replicate")
    complete = {int(replicate): group for replicate, group in replicates if len(group) == len(forks)}
    points = {replicate: _earliest(group, connected) for replicate, group in complete.items()}
    return Stability(line, forks, points, cells["replicate"].nunique() - len(complete))


def _earliest(cells: pd.DataFrame, connected: str) -> float | None:
    """Return the point of one replicate from its cells, latest fork first."""
    point = None
    for share, is_connected in zip(cells["fork_share"], cells[connected], strict=True):
        if is_connected is not True:
            break
        point = float(share)
    return point


def stability_table(rows: pd.DataFrame, style: str = "github") -> str:
    """Return the stability points by both forms of the barrier as text.

    Args:
        rows: the table of `load_records`.
        style: a format of tabulate.
    """
    both = zip(stability_points(rows), stability_points(rows, "error_mean"), strict=True)
    table = [_table_row(chord, mean) for chord, mean in both]
    return make_table(table, style=style, disable_numparse=True)


def _table_row(chord: Stability, mean: Stability) -> dict[str, Any]:
    excluded = f" ({chord.incomplete} left out)" if chord.incomplete else ""
    return {
        **chord.line._asdict(),
        "forks": ", ".join(map(share_text, chord.forks)),
        "median": _median_text(chord),
        "replicates": _range_text(chord),
        "median, mean form": _median_text(mean),
        "replicates, mean form": _range_text(mean),
        "coverage": "–" if chord.coverage is None else f"{100 * chord.coverage:.0f} %",
        "n": f"{chord.n}{excluded}",
    }


def _median_text(stability: Stability) -> str:
    return share_text(stability.median) if stability.n else "–"


def _range_text(stability: Stability) -> str:
    return "–" if stability.interval is None else " to ".join(map(share_text, stability.interval))


def median_text(stability: Stability) -> str:
    """Return the median replicate's point with the earliest and latest: `10 % (0 % to never)`."""
    if not stability.n:
        return "–"
    first, last = stability.interval or (stability.median, stability.median)
    ends = "" if first == last else f" ({share_text(first)} to {share_text(last)})"
    return share_text(stability.median) + ends


def share_text(share: float | None) -> str:
    """Return a share of training as `3 %`; None as `never`."""
    return "never" if share is None else f"{100 * share:.3g} %"
