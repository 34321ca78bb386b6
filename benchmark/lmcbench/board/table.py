"""The leaderboard of one suite: records in, tables out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from lmcbench.board.statistics import estimate
from lmcbench.results.frame import frame
from lmcbench.results.record import Record
from lmcbench.spec.forks import INDEPENDENT, Fork

SPLIT = "test"
LINE = ["architecture", "recipe", "shift"]


@dataclass(frozen=True)
class Board:
    """A suite's tables, cells already formatted.

    Attributes:
        connectivity: error barrier per fork, in percentage points.
        ensembles: what siblings of the earliest fork are worth, beside independent networks, in percent.
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
    values = measured.groupby([*LINE, "fork", "replicate"], sort=False).mean(numeric_only=True).reset_index()
    lines = list(cells[LINE].drop_duplicates().itertuples(index=False, name=None))
    connectivity, ensembles, low = [], [], False
    for line in lines:
        mine = values[(values[LINE] == pd.Series(line, index=LINE)).all(axis=1)]
        here = cells[(cells[LINE] == pd.Series(line, index=LINE)).all(axis=1)]
        accuracy = estimate((1 - mine["error"]).tolist()).mean
        below = accuracy is not None and accuracy < floor
        low |= below
        head = dict(zip(LINE, line, strict=True))
        head["architecture"] += " *" if below else ""
        counts = {
            "n": str(here["replicate"].nunique()),
            "diverged": f"{(here['status'] == 'diverged').sum()}/{len(here)}",
        }
        if (failed := int((here["status"] == "failed").sum())) > 0:
            counts["diverged"] += f", {failed} failed"
        by_fork = {fork: mine[mine["fork"] == fork] for fork in forks}
        connectivity.append(
            head | {fork: _percent(by_fork[fork]["error_chord"].tolist()) for fork in forks} | counts
        )
        ensembles.append(head | _worth(by_fork, forks))
    notes = [
        "Mean over replicates (n) ± half-width of the 95 % Student t interval; no interval for n = 1.",
        "Fork: epoch at which siblings leave the common trunk; independent: separately initialised networks.",
    ]
    if low:
        notes.append(f"* mean member accuracy below the suite's floor of {floor:.0%}: not ranked.")
    return Board(pd.DataFrame(connectivity), pd.DataFrame(ensembles), notes)


def _worth(by_fork: dict[str, pd.DataFrame], forks: Sequence[str]) -> dict[str, str]:
    """Accuracy, disagreement, ensemble and soup at the earliest fork, the independent reference beside."""
    siblings = [fork for fork in forks if fork != INDEPENDENT]
    chosen = ([(siblings[0], f"fork {siblings[0]}")] if siblings else []) + (
        [(INDEPENDENT, "indep.")] if INDEPENDENT in forks else []
    )
    line = {}
    for fork, name in chosen:
        cells = by_fork[fork]
        line |= {
            f"{name}: member": _percent(cells["accuracy_mean"].tolist()),
            "disagree" if fork != INDEPENDENT else "disagree ": _percent(cells["disagreement"].tolist()),
            "ensemble" if fork != INDEPENDENT else "ensemble ": _percent(cells["ensemble_accuracy"].tolist()),
            "gain" if fork != INDEPENDENT else "gain ": _percent(cells["ensemble_gain"].tolist(), sign=True),
        }
        if fork != INDEPENDENT:
            line["soup"] = _percent((1 - cells["soup_error"]).tolist())
    return line


def _percent(values: Sequence[float], sign: bool = False) -> str:
    """A mean of fractions in percent, `12.4 ± 1.3`; a dash without values."""
    mean = estimate(values)
    if mean.mean is None:
        return "–"
    text = f"{100 * mean.mean:{'+' if sign else ''}.1f}"
    return text if mean.half_width is None else f"{text} ± {100 * mean.half_width:.1f}"
