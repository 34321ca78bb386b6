"""Run-to-run deviations of measures, from repeats under other engines, threads and devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmcbench.errors import counted
from lmcbench.gate.matching import cell_label
from lmcbench.output import GITHUB, escape_markdown, make_table, one_line
from lmcbench.results.cell_values import cell_value, shift_label
from lmcbench.results.record import Record
from lmcbench.spec.gate_tests import MEASURES, GateTest

FACTOR = 2.0
"""A margin must be larger than this many run-to-run deviations, or the gate would report noise."""


@dataclass(frozen=True)
class Deviation:
    """The spread of a measure over repeats, in its unit.

    Attributes:
        deviation: standard deviation over repeats, pooled over cells.
        largest: the largest difference between two repeats of a cell.
        cells: number of repeated cells.
        equal: number of cells whose repeats are all equal to the last bit.
    """

    measure: str
    deviation: float
    largest: float
    cells: int
    equal: int


@dataclass(frozen=True)
class Margin:
    """The margin of a headline test, and whether it is large enough.

    Attributes:
        deviation: run-to-run deviation of a replicate's mean over the tested cells.
        replicates: number of replicates that `deviation` is estimated from.
        enough: whether the margin is larger than `FACTOR` deviations.
    """

    measure: str
    margin: float
    deviation: float
    replicates: int
    enough: bool


@dataclass(frozen=True)
class Calibration:
    """Run-to-run deviations of the measures of a suite.

    Attributes:
        conditions: engine, device and threads of each repeat.
        unstable: cells that diverged or failed in some repeats only.
        baseline_accuracy: of the convex baseline without shift, for floors above it; None: not measured.
    """

    suite: dict[str, Any]
    conditions: list[str]
    measures: list[Deviation]
    margins: list[Margin]
    unstable: list[str]
    baseline_accuracy: float | None = None


def calibrate(
    repeats: Sequence[Sequence[Record]], gate: Sequence[GateTest], baseline: Sequence[Record] = ()
) -> Calibration:
    """Return the deviations over `repeats` of the same cells.

    Repeats of a cell under the same conditions count once: a network that cannot be stacked always uses the
    reference engine.

    Args:
        repeats: records of each repeat.
        gate: the tests whose margins are compared with the deviations.
        baseline: records of the convex baseline without shift, for its accuracy.
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
        _accuracy(baseline),
    )


def _accuracy(baseline: Sequence[Record]) -> float | None:
    """Return the mean accuracy of the siblings on the test set, over records that are `ok`."""
    by_replicate: dict[int, list[float]] = {}
    for record in baseline:
        if record.status == "ok":
            errors = [sibling.splits["test"].error for sibling in record.siblings]
            by_replicate.setdefault(record.replicate, []).append(1 - float(np.mean(errors)))
    if not by_replicate:
        return None
    return float(np.mean([np.mean(values) for values in by_replicate.values()]))


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
    """Return the margin of `test` and the deviation of a replicate's mean over cells, which it compares."""
    chosen = [cell for cell in cells if test.covers(shift_label(cell[0]), cell[0].fork.name)]
    sums: dict[int, list[list[float]]] = {}
    for cell in chosen or cells:
        values = [v for r in cell if (v := cell_value(r, test.measure)) is not None]
        if len(values) > 1:
            sums.setdefault(cell[0].replicate, []).append(values)
    if not sums:
        return None
    # use as many repeats of a replicate as all its cells have
    means = []
    for columns in sums.values():
        repeats = min(map(len, columns))
        means.append([sum(c[i] for c in columns) / len(columns) for i in range(repeats)])
    deviation = _pooled(means)
    return Margin(test.measure, test.margin, deviation, len(means), test.margin > FACTOR * deviation)


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation within groups, pooled over them."""
    # relative to the first value: equal values have a deviation of exactly 0
    squares = sum(float(np.var(np.subtract(g, g[0]), ddof=1)) * (len(g) - 1) for g in groups)
    return float(np.sqrt(squares / sum(len(g) - 1 for g in groups)))


def _conditions(record: Record) -> str:
    threads = (record.env.get("flags") or {}).get("threads")
    threads_text = "threads unknown" if threads is None else counted(threads, "thread")
    return f"{record.env.get('engine')}, {record.env.get('device')}, {threads_text}"


def _conditions_of(repeat: Sequence[Record]) -> str:
    return " / ".join(sorted({_conditions(r) for r in repeat if r.status == "ok"}))


def as_json(calibration: Calibration) -> dict[str, Any]:
    """Return the calibration as one JSON document."""
    return {"schema": "lmcbench/calibration/1", "factor": FACTOR, **asdict(calibration)}


def _verdict(margin: Margin) -> str:
    """Return in words whether a margin is large enough, or why that is unknown."""
    if margin.replicates < 2:
        return "not known: from 1 replicate"
    if margin.deviation == 0:
        return "not known: all repeats are equal"
    return "yes" if margin.enough else "no: raise it, or average over more cells"


def render(calibration: Calibration, style: str) -> str:
    """Return the calibration as text in a format of tabulate."""
    c = calibration
    safe = escape_markdown if style == GITHUB else one_line
    conditions = "\n".join(f"{i}. {safe(text)}" for i, text in enumerate(c.conditions, 1))
    measures = make_table(
        [[m.measure, f"{m.deviation:.3g}", f"{m.largest:.3g}", f"{m.equal}/{m.cells}"] for m in c.measures],
        ["measure", "deviation of a cell", "largest difference", "equal cells"],
        style,
        disable_numparse=True,
    )
    margins = make_table(
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
        style,
        disable_numparse=True,
    )
    parts = [
        f"Repeats of {safe(c.suite['name'])} version {c.suite['version']}:\n\n{conditions}",
        measures,
        margins,
    ]
    if c.baseline_accuracy is not None:
        parts.append(f"The convex baseline without shift: baseline_accuracy = {c.baseline_accuracy:.4f}")
    if c.unstable:
        parts.append(f"Diverged in some repeats only: {'; '.join(map(safe, c.unstable))}.")
    return "\n\n".join(parts) + "\n"
