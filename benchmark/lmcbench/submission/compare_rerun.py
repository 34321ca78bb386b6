"""Compare a cell with itself trained again: each measure is identical, within the allowance, or outside."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from lmcbench.gate.calibration import FACTOR
from lmcbench.gate.matching import cell_label, same_observations
from lmcbench.leaderboard.trust import CellAgain, MeasureAgain, Verdict
from lmcbench.results.cell_values import cell_value
from lmcbench.results.record import Record
from lmcbench.spec.gate_tests import MEASURES
from lmcbench.spec.suite import Suite
from lmcbench.untrusted import parse_json

CALIBRATIONS = "calibration"
"""Folder beside the suites, with the output of `lmcbench calibrate SUITE --json` as `NAME-vVERSION.json`."""

_ORDER: tuple[Verdict, ...] = ("identical", "within", "outside")


def allowances(suite: Suite) -> dict[str, float]:
    """Return the allowed difference by measure, in its unit; empty for a suite that was never calibrated.

    It is twice the calibrated run-to-run deviation of a difference, which is sqrt(2) times that of one run,
    and at least the largest difference seen in calibration, because the deviation is pooled over cells of
    which some vary much more than others. (Measured on 96 cells of digits, reference against stacked engine,
    2026-11-22: 14 % of differences exceed twice one run's deviation, in 56 cells; 6 % exceed sqrt(2) times
    that, in 30.)
    """
    file = files("lmcbench.suites") / CALIBRATIONS / f"{suite.name}-v{suite.version}.json"
    if not file.is_file():
        return {}
    found: dict[str, Any] = parse_json(file.read_bytes(), file.name)
    if found["suite"]["digest"] != suite.digest:
        return {}
    return {
        entry["measure"]: max(FACTOR * 2**0.5 * entry["deviation"], entry["largest"])
        for entry in found["measures"]
    }


def compare_cells(submitted: Record, rerun: Record, allowed: dict[str, float]) -> CellAgain:
    """Compare every measure of the gate's table; the cell's verdict is the worst of theirs.

    A cell is identical if all its observations are, to the last bit. One that diverged only once is outside.
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
