"""Train some cells of a submission again, chosen by a nonce that its author could not know, and compare.

Each measure is identical, within the allowance, or outside.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from lmcbench.errors import UserError, counted
from lmcbench.gate.calibration import FACTOR
from lmcbench.gate.matching import cell_label, same_observations
from lmcbench.leaderboard.submission_file import Submission
from lmcbench.leaderboard.trust import RERUN_SCHEMA, CellAgain, MeasureAgain, Rerun, Verdict, chosen_cells
from lmcbench.output import make_table
from lmcbench.results.cell_values import cell_value
from lmcbench.results.record import Record
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import by_engine, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.architectures import make_architecture
from lmcbench.spec.cells import Cell
from lmcbench.spec.gate_tests import MEASURES
from lmcbench.spec.suite import Suite
from lmcbench.submission.entry import make_entry, replicates_of
from lmcbench.untrusted import parse_json

CALIBRATIONS = "calibration"
"""Folder beside the suites, with the output of `lmcbench calibrate SUITE --json` as `NAME-vVERSION.json`."""

_ORDER: tuple[Verdict, ...] = ("identical", "within", "outside")


def rerun(
    submission: Submission,
    suite: Suite,
    count: int,
    nonce: str,
    *,
    allow_code: bool = False,
    data_dir: Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> Rerun:
    """Train `count` cells of a verified submission again, in a temporary folder, and compare.

    The cells are the first by sha256 of submission, nonce and key, diverged cells before the others. Choose
    the nonce after the submission is merged.

    Raises:
        UserError: if submitted code would be executed and `allow_code` is not given, or the data or the
            network are not available.
    """
    by_key = {record.key: record for record in submission.records}
    diverged = {key for key, record in by_key.items() if record.status in ("diverged", "did-not-learn")}
    keys = chosen_cells(submission.sha256, nonce, sorted(by_key), count, diverged)
    allowed = allowances(suite)
    with tempfile.TemporaryDirectory(prefix="lmcbench-rerun-") as scratch:
        cells = _cells(submission, suite, keys, Path(scratch), allow_code)
        # by the engine that each record names: with another one it is another draw of SGD noise
        engines = {cell.key: by_engine(by_key[cell.key].env.get("engine")) for cell in cells}
        again: dict[str, Record] = {}
        for i, conditions in enumerate(dict.fromkeys(engines.values())):
            # one folder per engine, because the cells of a family share a trunk
            folder = RunFolder(Path(scratch) / f"run-{i}")
            plan = plan_run([cell for cell in cells if engines[cell.key] == conditions], folder)
            for _ in run_plan(
                plan, folder, data_dir=data_dir, device=device, jobs=jobs, conditions=conditions
            ):
                pass
            again |= {cell.key: read_record(folder.record(cell.key)) for cell in plan.cells}
    return Rerun(
        schema=RERUN_SCHEMA,
        slug=submission.slug,
        submission_sha256=submission.sha256,
        records_sha256=submission.meta.sha256.records,
        lmcbench=version("lmcbench"),
        chosen_by=submission.sha256,
        nonce=nonce,
        asked=count,
        calibrated=bool(allowed),
        conditions="; ".join(sorted({_conditions(r) for r in again.values()})),
        cells=[compare_cells(by_key[key], again[key], allowed) for key in keys],
    )


def _cells(
    submission: Submission, suite: Suite, keys: list[str], scratch: Path, allow_code: bool
) -> list[Cell]:
    """Return the cells with these keys; submitted source is written to `scratch` for import."""
    network, meta = submission.records[0].architecture, submission.meta
    name = network.name
    if meta.architecture.source in ("file", "module"):
        if not allow_code:
            raise UserError(
                f"{submission.slug} is of {name}: to train it again, its author's code must run on this "
                "machine. Read it first, then give --allow-code, on a machine without anything of value."
            )
        for file, content in submission.sources.items():
            (scratch / Path(file).name).write_bytes(content)
            name = f"{scratch / Path(file).name}:{network.name.rpartition(':')[2]}"
    architecture = make_architecture(name, meta.recipe, network.kwargs, network.adapt)
    if architecture.fingerprint != network.fingerprint:
        raise UserError(
            f"{network.name} has another version here (fingerprint {architecture.fingerprint}, the "
            f"submission has {network.fingerprint}). Install the one that was submitted."
        )
    replicates, _ = replicates_of(suite, meta, submission.records)
    entry, _ = make_entry(suite, meta, submission.records[0], {})
    assert entry is not None, "a verified submission has an entry"
    found = {
        entry.key(cell): Cell(suite, architecture, cell.shift, cell.fork, cell.replicate)
        for cell in entry.cells(replicates)
    }
    return [found[key] for key in keys]


def _conditions(record: Record) -> str:
    env = record.env
    versions = env.get("versions") or {}
    return f"{env.get('engine')} engine on {env.get('device')}, torch {versions.get('torch')}"


def render(found: Rerun) -> str:
    """Return the report: each cell, then the measures that differ."""
    lines = [
        f"{counted(len(found.cells), 'cell')} chosen by nonce {found.nonce!r}, trained again "
        f"({found.conditions}):",
        "",
    ]
    lines.append(make_table([[c.verdict, _place(c)] for c in found.cells], style="plain"))
    differing = _differing(found)
    if differing:
        headers = ["cell", "measure", "submitted", "trained again", "allowed", ""]
        lines += ["", make_table(differing, headers, disable_numparse=True)]
    if not found.calibrated:
        lines += [
            "",
            "This suite was never calibrated, so only identical measures count as confirmed. "
            "Calibrate it: lmcbench calibrate SUITE --json > suites/calibration/NAME-vVERSION.json",
        ]
    outside = sum(c.verdict == "outside" for c in found.cells)
    verdict = f"{outside} of them outside." if outside else "none of them outside."
    lines += ["", f"{counted(len(found.cells), 'cell')} trained again, {verdict}"]
    return "\n".join(lines) + "\n"


def _place(cell: CellAgain) -> str:
    """Return the cell without its architecture, which is the same for all."""
    return cell.cell.partition(" | ")[2]


def _differing(found: Rerun) -> list[list[str]]:
    """Return the measures outside the allowance or, if there are none, those that are not identical."""
    outside = any(cell.verdict == "outside" for cell in found.cells)
    return [
        [_place(cell), m.measure, _number(m.submitted), _number(m.rerun), _number(m.allowed), m.verdict]
        for cell in found.cells
        for m in cell.measures
        if m.verdict == "outside" or (not outside and m.verdict == "within")
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6f}"


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
