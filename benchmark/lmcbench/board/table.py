"""The leaderboard of one suite: records in, tables out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lmcbench.board.statistics import estimate
from lmcbench.results.frame import frame
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT, Fork

SPLIT = "test"
LINE = ["architecture", "recipe", "shift"]
CELL = [*LINE, "fork", "replicate"]
WORTH = ["accuracy_mean", "disagreement", "ensemble_accuracy", "ensemble_gain", "soup_error"]
NUMBERS = ["error_chord", "error", *WORTH]


@dataclass(frozen=True)
class Board:
    """A suite's tables, cells already formatted.

    Attributes:
        connectivity: error barrier per fork, in percentage points.
        ensembles: what siblings of the earliest fork and independent networks are worth, in percent.
        notes: what the reader must know about the numbers.
    """

    connectivity: pd.DataFrame
    ensembles: pd.DataFrame
    notes: list[str]

    def render(self, style: str) -> str:
        """The tables as text, in a format of tabulate (`github` for Markdown, `simple` for terminals)."""
        titles = (
            "Error barrier on the test set (chord form, percentage points, by fork)",
            "Siblings and their ensembles on the test set (percent)",
        )
        mark = "### " if style == "github" else ""
        parts = []
        for title, table in zip(titles, (self.connectivity, self.ensembles), strict=True):
            text = table.to_markdown(index=False, tablefmt=style, disable_numparse=True)
            parts.append(f"{mark}{title}\n\n{text}")
        bullet = "- " if style == "github" else ""
        return "\n\n".join([*parts, "\n".join(f"{bullet}{note}" for note in self.notes)]) + "\n"


def make_board(records: Iterable[Record], floor: float = 0.0) -> Board:
    """The tables of one suite's records.

    The replicate is the unit: pairs are averaged inside it, and each number is a mean over replicates
    with its 95 % t interval (design section 2). Diverged cells are counted and never averaged.

    Args:
        records: of one suite and version.
        floor: mean member accuracy below which a row is marked.
    """
    rows = frame(records)
    cells = rows.drop_duplicates("key")
    forks = sorted(cells["fork"].unique(), key=lambda name: Fork.parse(name).order)
    measured = rows[rows["split"] == SPLIT]
    values = measured.groupby(CELL, sort=False).mean(numeric_only=True).reset_index()
    # where every cell diverged there are no numbers, and no columns for them
    values = values.reindex(columns=[*CELL, *NUMBERS])
    connectivity, ensembles, low = [], [], False
    for line in _lines(cells):
        mine, here = _of(values, line), _of(cells, line)
        accuracy = estimate((1 - mine["error"]).tolist()).mean
        below = accuracy is not None and accuracy < floor
        low |= below
        head = dict(zip(LINE, line, strict=True))
        head["architecture"] += " *" if below else ""
        by_fork = {fork: mine[mine["fork"] == fork] for fork in forks}
        n = here["replicate"].nunique()
        barriers = {fork: _percent(by_fork[fork]["error_chord"], n) for fork in forks}
        connectivity.append(head | barriers | _counts(here))
        shown = [forks[0], *(fork for fork in forks[1:] if fork == INDEPENDENT)]
        ensembles += [head | {"fork": fork} | _worth(by_fork[fork], n) for fork in shown]
    notes = [
        "Mean over replicates (n) ± half-width of the 95 % Student t interval; no interval for n = 1. "
        "Where fewer than n were measured, their number stands behind.",
        "Fork: epoch at which siblings leave the trunk; independent: separately initialised networks.",
    ]
    if low:
        notes.append(f"* mean member accuracy below the suite's floor of {100 * floor:g} %: not ranked.")
    return Board(pd.DataFrame(connectivity), pd.DataFrame(ensembles), notes)


def _lines(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """The rows of the tables: small networks first, and for each no shift, then controls, then the rest."""
    size = cells.groupby("architecture")["params"].max().fillna(0)
    lines = cells[LINE].drop_duplicates().itertuples(index=False, name=None)

    def rank(line: tuple[str, ...]) -> tuple[object, ...]:
        architecture, recipe, shift = line
        return size[architecture], architecture, recipe, shift != "none", not shift.startswith("same"), shift

    return sorted(lines, key=rank)


def _of(table: pd.DataFrame, line: tuple[str, ...]) -> pd.DataFrame:
    return table[(table[LINE] == pd.Series(line, index=LINE)).all(axis=1)]


def _counts(cells: pd.DataFrame) -> dict[str, str]:
    """Replicates, and how many of the row's cells diverged or failed."""
    status = cells["status"].value_counts()
    failed = f", {status['failed']} failed" if "failed" in status else ""
    return {
        "n": str(cells["replicate"].nunique()),
        "diverged": f"{status.get('diverged', 0)}/{len(cells)}{failed}",
    }


def _worth(cells: pd.DataFrame, n: int) -> dict[str, str]:
    """Accuracy of members, ensemble and soup, and how much the members disagree."""
    return {
        "member": _percent(cells["accuracy_mean"], n),
        "disagreement": _percent(cells["disagreement"], n),
        "ensemble": _percent(cells["ensemble_accuracy"], n),
        "gain": _percent(cells["ensemble_gain"], n, sign=True),
        "soup": _percent(1 - cells["soup_error"], n),
    }


def _percent(values: pd.Series[float], n: int, sign: bool = False) -> str:
    """A mean of fractions in percent, `12.4 ± 1.3`; a dash without values.

    Of fewer than `n` replicates it says so, `12.4 ± 1.3 (2)`: the others diverged, failed or are missing.
    """
    mean = estimate(values.dropna().tolist())
    if mean.mean is None:
        return "–"
    # adding 0.0 keeps a rounded zero from showing a minus
    text = f"{round(100 * mean.mean, 1) + 0.0:{'+' if sign else ''}.1f}"
    interval = "" if mean.half_width is None else f" ± {100 * mean.half_width:.1f}"
    return f"{text}{interval}{f' ({mean.n})' if mean.n < n else ''}"
