"""Run a plan: open the data set, check that it suits every cell, and run each family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmcbench.data.dataset import Dataset
from lmcbench.data.selection import open_suite_data
from lmcbench.data.transforms import apply_transform
from lmcbench.errors import UserError, counted
from lmcbench.results.atomic_files import WriteError
from lmcbench.results.provenance import command_line, versions
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.drive import Driver
from lmcbench.running.other_machines import portable
from lmcbench.running.place import LOCAL, RETRIES, parse_place
from lmcbench.running.plan import DEFAULT_CONDITIONS, Conditions, Event, Plan, Task
from lmcbench.spec.cells import Family
from lmcbench.spec.shift_rules import View

Views = Mapping[str, Sequence[View]]
"""Each sibling's view of the training set, by shift label."""


def run_plan(
    plan: Plan,
    folder: RunFolder,
    *,
    data_dir: Path | None,
    device: str,
    jobs: int | None,
    conditions: Conditions = DEFAULT_CONDITIONS,
    on: str = LOCAL,
    gpus_per_family: float = 1.0,
    retries: int = RETRIES,
) -> Iterator[Event]:
    """Run the families of `plan` and yield events; a record is in `folder` before its `Finished` event.

    Args:
        plan: the work.
        folder: the run folder; on other machines too, under the same path.
        data_dir: the user's data folder, if any.
        device: `auto`, `cpu` or `cuda`.
        jobs: families at once on this machine: one in this process, several in as many single-threaded worker
            processes. None: one a core; a single one on CUDA, where a fleet fills the device, or with a
            network that only this process has.
        conditions: engine and threads.
        on: `local`, `ray`, `ray:ADDRESS` or `slurm[:key=value,...]`. Records do not depend on it.
        gpus_per_family: share of a GPU that a family gets on Ray, more than 0 and at most 1.
        retries: how often a family is tried again after an attempt that failed.

    Raises:
        UserError: for bad input, before anything is written; with exit code 5, if a file cannot be written,
            as on a full disk.
        FamiliesLostError: with exit code 5, at the end, if families were lost after their retries.
    """
    if not plan.families:
        return
    place = parse_place(on, gpus_per_family)
    jobs = _jobs_here(plan, jobs, on)
    # opened and checked before torch is loaded, and decoded by one process only
    dataset = open_suite_data(plan.cells[0].suite, data_dir)
    identity = dataset.identity()
    folder.check_data(identity, plan.finished)
    views = expand_views(plan.families, dataset)
    tasks = [
        Task(
            family,
            folder,
            views[family.replicate],
            device,
            data_dir,
            tuple(part["sha256"] for part in identity),
            plan.measures,
            plan.params.get((family.architecture.label, family.architecture.recipe)),
            conditions,
        )
        for family in plan.families
    ]
    suite = plan.cells[0].suite
    made = {"commands": [command_line()], "citation": suite.citation, "versions": versions()}
    with folder.claimed(suite.identity(), identity, made):
        folder.remove_stale_files()
        if place.is_remote:
            tasks, folder = [portable(task) for task in tasks], RunFolder(folder.root.absolute())
        executor, units = place.prepare(tasks, dataset, device, jobs)
        driver = Driver(units, folder, executor, retries)
        try:
            yield from driver.run()
        except (UserError, OSError) as error:
            held = {path.name for path in folder.root.iterdir()}
            if held <= {folder.header.name, folder.events.name} or driver.was_refused_at_once():
                driver.discard()
            if isinstance(error, WriteError):
                message = f"{error} Finished cells are kept; run the same command again to resume."
                raise UserError(message, exit_code=5) from None
            raise


def _jobs_here(plan: Plan, jobs: int | None, on: str) -> int | None:
    """Return 1 for `jobs` if a network of the plan is known in this process only.

    Raises:
        UserError: if several processes or another place are asked for.
    """
    here = next((f.architecture.label for f in plan.families if f.architecture.source == "python"), None)
    if here is None:
        return jobs
    if on != LOCAL or jobs not in (None, 1):
        asked = f"on={on!r}" if on != LOCAL else f"jobs={jobs}"
        raise UserError(
            f"{here} was defined in this Python session, so it runs in this process and not with {asked}. "
            "Put it into a file and name it 'FILE.py:FUNCTION'."
        )
    return 1


def expand_views(families: Sequence[Family], dataset: Dataset) -> dict[int, Views]:
    """Return the views of the training set by replicate and shift label, and check that they suit the cells.

    Raises:
        UserError: if a view has no full batch or a transform does not suit the images, naming suite, shift,
            recipe and architecture.
    """
    suite = families[0].suite
    domains = dataset.train.domains
    views: dict[int, dict[str, list[View]]] = {}
    checked: set[str] = set()
    for name in suite.evaluations:
        if name not in dataset.shifted:
            with _naming(f"Suite {suite.name}, evaluation shift {name}"):
                _check_transform(name, dataset)
    for family, cell in ((group, cell) for group in families for cell in group.cells):
        shift, of_replicate = cell.shift, views.setdefault(cell.replicate, {})
        if shift.label not in of_replicate:
            with _naming(f"Suite {suite.name}, shift {shift.label}"):
                found = shift.views(
                    dataset.train.labels,
                    suite.siblings,
                    family.seeds.shift,
                    cell.replicate,
                    None if domains is None else replace(domains, classes=dataset.classes),
                )
                for transform in {view.transform for view in found if view.transform is not None} - checked:
                    _check_transform(transform, dataset)
                    checked.add(transform)
            of_replicate[shift.label] = found
        smallest = min(len(view.indices) for view in of_replicate[shift.label])
        if smallest < cell.recipe.batch_size and cell.networks > 1:
            raise UserError(
                f"Suite {suite.name}, shift {shift.label}, replicate {cell.replicate}: a sibling sees "
                f"{counted(smallest, 'image')}, fewer than one batch of recipe "
                f"{cell.architecture.recipe} ({cell.recipe.batch_size} images) of {cell.architecture.label}. "
                "Choose a smaller batch, more training images, or other shifts (--shift)."
            )
    return dict(views)


def _check_transform(name: str, dataset: Dataset) -> None:
    """Raise if a transform does not suit the images; one image decides for all of them."""
    apply_transform(name, dataset.train.images[:1], np.arange(1), 0, dataset.statistics[0])


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Prefix the message of a `UserError` in the block with `place`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}", exit_code=error.exit_code) from None
