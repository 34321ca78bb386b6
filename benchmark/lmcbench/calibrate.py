"""Repeat the same cells under other conditions (engine, threads, device) to measure run-to-run noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.machine import has_cuda
from lmcbench.results.record import Record
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import Conditions, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.architectures import BASELINE
from lmcbench.spec.cells import Cell, Selection, expand
from lmcbench.spec.suite import Suite


def narrowed(suite: Suite, selection: Selection) -> Selection:
    """Return `selection` with the shifts and forks of the suite's gate where it names none."""
    shifts = [name for test in suite.gate for name in test.shifts]
    forks = [name for test in suite.gate for name in test.forks] or [suite.fork_list[0].name]
    if selection.shifts:  # leave out comparators that the gate tests under other shifts only
        there = {cell.fork.name for cell in expand(suite, replace(selection, forks=()))}
        forks = [name for name in forks if name in there] or forks
    return Selection(
        selection.architectures,
        selection.shifts or shifts,
        selection.forks or forks,
        selection.replicates,
        selection.recipe,
    )


def baseline_cells(suite: Suite, replicates: range | None) -> list[Cell]:
    """Return the cells of the convex baseline without shift at the first fork; empty if there are none."""
    listed = [a.label for a in suite.architectures if a.name == BASELINE]
    if not listed or all(spec.shift.label != NONE for spec in suite.shifts):
        return []
    return expand(suite, Selection(listed[:1], [NONE], [suite.fork_list[0].name], replicates))


NONE = "none"
"""The training shift that assigns everything to every sibling."""


def conditions(device: str) -> Iterator[tuple[str, Conditions]]:
    """Yield device and conditions of each repeat, without end; no two are the same."""
    for threads in count(1):
        for how in (Conditions("reference", threads), Conditions("stacked", threads)):
            yield "cpu", how
            if device == "cuda" and threads == 1:
                yield "cuda", how


def measure_baseline(
    suite: Suite, replicates: range | None, root: Path, *, data_dir: Path | None, jobs: int | None
) -> list[Record]:
    """Return the records of the cells of `baseline_cells`, run on the CPU in a folder under `root`."""
    cells = baseline_cells(suite, replicates)
    folder = RunFolder(root / "baseline")
    if cells:
        for _ in run_plan(plan_run(cells, folder), folder, data_dir=data_dir, device="cpu", jobs=jobs):
            pass
    return [read_record(folder.record(cell.key)) for cell in cells]


def repeat_runs(
    suite: Suite,
    selection: Selection,
    repeats: int,
    root: Path,
    *,
    data_dir: Path | None,
    device: str,
    jobs: int | None,
) -> Iterator[tuple[str, list[Record]]]:
    """Yield the conditions of each repeat, in words, and its records; run folders are under `root`.

    Raises:
        UserError: for fewer than two repeats, or bad input found on the way.
    """
    if repeats < 2:
        raise UserError(f"Calibration needs at least 2 repeats, found {repeats}.")
    cells = expand(suite, narrowed(suite, selection))
    if device == "auto":
        device = "cuda" if has_cuda() else "cpu"
    for where, how in islice(conditions(device), repeats):
        threads = f"{how.threads} thread{'s' if how.threads > 1 else ''}"
        name = f"{where}-{how.engine}-{how.threads}"
        folder = RunFolder(root / name)
        plan = plan_run(cells, folder)
        for _ in run_plan(plan, folder, data_dir=data_dir, device=where, jobs=jobs, conditions=how):
            pass
        records = [read_record(folder.record(cell.key)) for cell in cells]
        yield f"{where}, {how.engine} engine, {threads}", records
