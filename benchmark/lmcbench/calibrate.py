"""Run the same cells several times under changed, irrelevant conditions: engine, threads, device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.record import Record, read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import Conditions, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite import Suite


def narrowed(suite: Suite, selection: Selection) -> Selection:
    """`selection`, by default of the cells that the suite's gate looks at: its shifts, its forks."""
    shifts = [name for test in suite.gate for name in test.shifts]
    forks = [name for test in suite.gate for name in test.forks] or [suite.fork_list[0].name]
    if selection.shifts:  # a comparator that the gate looks at under another shift was not asked for
        there = {cell.fork.name for cell in expand(suite, replace(selection, forks=()))}
        forks = [name for name in forks if name in there] or forks
    return Selection(
        selection.architectures,
        selection.shifts or shifts,
        selection.forks or forks,
        selection.replicates,
        selection.recipe,
    )


def conditions(device: str) -> Iterator[tuple[str, Conditions]]:
    """Device and conditions of the first repeat, the second, ...: no end, and no two the same."""
    for threads in count(1):
        for how in (Conditions("reference", threads), Conditions("stacked", threads)):
            yield "cpu", how
            if device == "cuda" and threads == 1:
                yield "cuda", how


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
    """Each repeat's conditions in words and its records, as it is finished; runs are kept under `root`.

    Raises:
        UserError: for fewer than two repeats, or bad input found on the way.
    """
    if repeats < 2:
        raise UserError(f"A deviation needs at least 2 repeats, found {repeats}.")
    cells = expand(suite, narrowed(suite, selection))
    if device == "auto":
        device = "cuda" if _has_cuda() else "cpu"
    for where, how in islice(conditions(device), repeats):
        threads = f"{how.threads} thread{'s' if how.threads > 1 else ''}"
        name = f"{where}-{how.engine}-{how.threads}"
        folder = RunFolder(root / name)
        plan = plan_run(cells, folder)
        for _ in run_plan(plan, folder, data_dir=data_dir, device=where, jobs=jobs, conditions=how):
            pass
        records = [read_record(folder.record(cell.key)) for cell in cells]
        yield f"{where}, {how.engine} engine, {threads}", records


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
