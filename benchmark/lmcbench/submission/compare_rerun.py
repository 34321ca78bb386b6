"""A cell beside itself, trained again: each measure identical, within the noise of rounding, or outside."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from lmcbench.gate.calibration import FACTOR
from lmcbench.gate.matching import cell_label, same_observations
from lmcbench.leaderboard.trust import CellAgain, MeasureAgain, Verdict
from lmcbench.results.cell_values import cell_value
from lmcbench.results.record import Record
from lmcbench.spec.gate_tests import MEASURES
from lmcbench.spec.suite import Suite

CALIBRATIONS = "calibration"
"""Folder beside the suites, with what `lmcbench calibrate SUITE --json` printed as `NAME-vVERSION.json`."""

_ORDER: tuple[Verdict, ...] = ("identical", "within", "outside")


def allowances(suite: Suite) -> dict[str, float]:
    """The difference that rounding explains, by measure, in its unit; empty for a suite never calibrated.

    Twice the calibrated run-to-run deviation. That is one run's about their mean; the difference of two runs
    has sqrt(2) times as much. Never less than the largest difference seen while calibrating: the
    deviation is pooled over cells, of which some vary much more than others. (Measured, 96 cells of digits,
    reference against stacked engine, 2026-11-22: 14 % of honest differences are beyond twice one run's
    deviation, in 56 cells; 6 % beyond sqrt(2) times that, in 30.)
    """
    file = files("lmcbench.suites") / CALIBRATIONS / f"{suite.name}-v{suite.version}.json"
    if not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_bytes())
    if found["suite"]["digest"] != suite.digest:
        return {}
    return {
        entry["measure"]: max(FACTOR * 2**0.5 * entry["deviation"], entry["largest"])
        for entry in found["measures"]
    }


def compare_cells(submitted: Record, rerun: Record, allowed: dict[str, float]) -> CellAgain:
    """Every measure of the gate's table before and after; the cell's verdict is the worst of them.

    Identical is a cell all of whose observations are, to the last bit; a cell that diverged once is outside.
    """
    measures = [
        found for measure in MEASURES if (found := _measure(measure, submitted, rerun, allowed)) is not None
    ]
    verdict: Verdict = "identical"
    if submitted.status != rerun.status:
        verdict = "outside"
    elif not same_observations(submitted, rerun):
        verdict = max((*(m.verdict for m in measures), "within"), key=_ORDER.index)
    return CellAgain(key=submitted.key, cell=cell_label(submitted), verdict=verdict, measures=measures)


def _measure(
    measure: str, submitted: Record, rerun: Record, allowed: dict[str, float]
) -> MeasureAgain | None:
    before, after = cell_value(submitted, measure), cell_value(rerun, measure)
    if before is None and after is None:
        return None
    limit = allowed.get(measure)
    verdict: Verdict = "outside"
    if before == after:
        verdict = "identical"
    elif before is not None and after is not None and limit is not None and abs(after - before) <= limit:
        verdict = "within"
    return MeasureAgain(measure=measure, submitted=before, rerun=after, allowed=limit, verdict=verdict)
