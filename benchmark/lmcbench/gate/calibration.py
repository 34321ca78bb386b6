"""Repeats of the same cells under conditions that should not matter: how far each measure strays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from lmcbench.errors import counted
from lmcbench.gate.matching import cell_label
from lmcbench.results.cell_values import cell_value, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.gate_tests import MEASURES, GateTest

FACTOR = 2.0
"""A margin must exceed this many run-to-run deviations, or the gate would judge noise."""


@dataclass(frozen=True)
class Deviation:
    """A measure of a cell over repeats, in the measure's unit.

    Attributes:
        deviation: standard deviation over repeats, pooled over cells.
        largest: the greatest distance between two repeats of a cell.
        cells: how many were repeated; `equal` of them came out the same to the last bit every time.
    """

    measure: str
    deviation: float
    largest: float
    cells: int
    equal: int


@dataclass(frozen=True)
class Margin:
    """A headline test: `deviation` is that of one replicate's mean over the cells it looks at."""

    measure: str
    margin: float
    deviation: float
    replicates: int
    enough: bool


@dataclass(frozen=True)
class Calibration:
    """Run-to-run deviations; `conditions` of each repeat in words, `unstable` cells diverged in some."""

    suite: dict[str, Any]
    conditions: list[str]
    measures: list[Deviation]
    margins: list[Margin]
    unstable: list[str]


def calibrate(repeats: Sequence[Sequence[Record]], gate: Sequence[GateTest]) -> Calibration:
    """Deviations over `repeats`, each holding the same cells.

    A repeat whose conditions a cell has seen before (a network that cannot be stacked has one engine) is
    not counted for that cell.
    """
    by_key = [{r.key: r for r in repeat} for repeat in repeats]
    common = [key for key in by_key[0] if all(key in other for other in by_key)]
    cells = [_distinct([other[key] for other in by_key]) for key in common]
    unstable = [cell_label(cell[0]) for cell in cells if len({r.status for r in cell}) > 1]
    cells = [cell for cell in cells if len(cell) > 1 and all(r.status == "ok" for r in cell)]
    deviations = [_deviation(name, cells) for name in MEASURES]
    margins = [_margin(test, cells) for test in gate]
    return Calibration(
        repeats[0][0].suite.model_dump(),
        [_conditions_of(repeat) for repeat in repeats],
        [found for found in deviations if found is not None],
        [found for found in margins if found is not None],
        unstable,
    )


def _distinct(cell: Sequence[Record]) -> list[Record]:
    return list({_conditions(record): record for record in reversed(cell)}.values())[::-1]


def _deviation(measure: str, cells: Sequence[Sequence[Record]]) -> Deviation | None:
    found = [[cell_value(r, measure) for r in cell] for cell in cells]
    values = [[v for v in cell if v is not None] for cell in found]
    values = [cell for cell in values if len(cell) > 1]
    if not values:
        return None
    ranges = [max(cell) - min(cell) for cell in values]
    return Deviation(
        measure, _pooled(values), max(ranges), len(values), sum(spread == 0 for spread in ranges)
    )


def _margin(test: GateTest, cells: Sequence[Sequence[Record]]) -> Margin | None:
    """How far the mean over a replicate's cells strays, which is what the gate's test sees."""
    chosen = [
        cell
        for cell in cells
        if (not test.shifts or shift_label(cell[0]) in test.shifts)
        and (not test.forks or cell[0].fork.name in test.forks)
    ]
    sums: dict[int, list[list[float]]] = {}
    for cell in chosen or cells:
        values = [v for r in cell if (v := cell_value(r, test.measure)) is not None]
        if len(values) > 1:
            sums.setdefault(cell[0].replicate, []).append(values)
    if not sums:
        return None
    # cells with fewer conditions than others bound how many repeats their replicate has
    means = []
    for columns in sums.values():
        repeats = min(map(len, columns))
        means.append([sum(c[i] for c in columns) / len(columns) for i in range(repeats)])
    deviation = _pooled(means)
    return Margin(test.measure, test.margin, deviation, len(means), test.margin > FACTOR * deviation)


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    # from the first value on: equal values deviate by exactly nothing
    squares = sum(float(np.var(np.subtract(g, g[0]), ddof=1)) * (len(g) - 1) for g in groups)
    return float(np.sqrt(squares / sum(len(g) - 1 for g in groups)))


def _conditions(record: Record) -> str:
    threads = (record.env.get("flags") or {}).get("threads")
    told = "threads unknown" if threads is None else counted(threads, "thread")
    return f"{record.env.get('engine')}, {record.env.get('device')}, {told}"


def _conditions_of(repeat: Sequence[Record]) -> str:
    return " / ".join(sorted({_conditions(r) for r in repeat if r.status == "ok"}))


def as_json(calibration: Calibration) -> dict[str, Any]:
    """The calibration as one JSON document."""
    return {"schema": "lmcbench/calibration/1", "factor": FACTOR, **asdict(calibration)}


def _verdict(margin: Margin) -> str:
    """Whether a margin is enough, where the deviation is known well enough to say so."""
    if margin.replicates < 2:
        return "not known: from 1 replicate"
    if margin.deviation == 0:
        return "not known: all repeats are equal"
    return "yes" if margin.enough else "no: raise it, or average over more cells"


def render(calibration: Calibration, style: str) -> str:
    """The calibration as text, in a format of tabulate."""
    c = calibration
    conditions = "\n".join(f"{i}. {text}" for i, text in enumerate(c.conditions, 1))
    measures = tabulate(
        [[m.measure, f"{m.deviation:.3g}", f"{m.largest:.3g}", f"{m.equal}/{m.cells}"] for m in c.measures],
        ["measure", "deviation of a cell", "largest difference", "equal cells"],
        tablefmt=style,
        disable_numparse=True,
    )
    margins = tabulate(
        [
            [
                m.measure,
                f"{m.deviation:.3g}",
                str(m.replicates),
                f"{m.margin:g}",
                _verdict(m),
            ]
            for m in c.margins
        ],
        [
            "tested measure",
            "deviation of a replicate",
            "replicates",
            "margin",
            f"margin > {FACTOR:g} deviations",
        ],
        tablefmt=style,
        disable_numparse=True,
    )
    parts = [f"Repeats of {c.suite['name']} version {c.suite['version']}:\n\n{conditions}", measures, margins]
    if c.unstable:
        parts.append(f"Diverged in some repeats only: {'; '.join(c.unstable)}.")
    return "\n\n".join(parts) + "\n"
