"""Run a suite: which cells are missing, who works on them, and what has happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmcbench.data.selection import select
from lmcbench.data.shifted_sets import open_all_shifted
from lmcbench.data.sources import open_dataset, settle_dataset
from lmcbench.errors import UserError, counted
from lmcbench.machine import has_cuda, usable_cores
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record import Record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.tasks import AS_COMMITTED, Conditions, Event, Task
from lmcbench.spec.cells import Cell, Family, families


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        cells: everything asked for.
        finished: records that are there already.
        families: the rest, the dearest first.
        measures: what probe cells are asked for beyond the record.
        params: trainable weights of networks that the folder has records of, by label and recipe.
    """

    cells: Sequence[Cell]
    finished: Sequence[Record]
    families: Sequence[Family]
    measures: tuple[str, ...] = ()
    params: Mapping[tuple[str, str], int] = field(default_factory=dict)


def plan_run(cells: Sequence[Cell], folder: RunFolder, measure: Sequence[str] = ()) -> Plan:
    """Compare what is asked for with what `folder` holds.

    Args:
        cells: what is asked for.
        folder: where it is kept.
        measure: further measures of the probe cells among them, or `all`.

    Raises:
        UserError: where the folder is not one of this suite, or has records of another network that is called
            alike; where a measure is unknown, or no cell is probed; where timm has no network of a name, or a
            file or module no function.
    """
    suite = cells[0].suite
    folder.check(suite.identity())
    measures = _measures(cells, measure) if measure else ()
    held = folder.measured()
    for other in (r for r in held.values() if r.suite.digest != suite.digest):
        raise UserError(
            f"{folder.record(other.key)} is of suite digest {other.suite.digest[:12]}, its folder of "
            f"{suite.digest[:12]}. Remove it, and it is measured again."
        )
    params = _same_networks(cells, held.values(), folder)
    finished, missing = [], []
    for cell in cells:
        record = held.get(cell.key)
        if record is None or (measures and cell.has_analyses and _lacks(record, measures)):
            missing.append(cell)
        else:
            finished.append(record)
    # suites list architectures from cheap to dear: with the dearest first, no worker is left alone with it
    rank = {architecture.label: i for i, architecture in enumerate(suite.architectures)}
    groups = families(missing)
    _find_networks(groups)
    groups.sort(key=lambda f: (-rank.get(f.architecture.label, len(rank)), f.replicate))
    return Plan(cells, finished, groups, measures, params)


def run_plan(
    plan: Plan,
    folder: RunFolder,
    *,
    data_dir: Path | None,
    device: str,
    jobs: int | None,
    conditions: Conditions = AS_COMMITTED,
) -> Iterator[Event]:
    """Do the work of `plan`; the records are in `folder` as their `Finished` events come.

    With one job the work is done in this process, else in that many single-threaded ones. By default
    there is one for each core, and a single one on CUDA, where a fleet fills the device.

    Raises:
        UserError: for bad input found on the way.
    """
    if jobs is None:
        jobs = 1 if device != "cpu" and has_cuda() else usable_cores()
    tasks = [
        Task(
            family,
            folder,
            data_dir,
            device,
            plan.measures,
            plan.params.get((family.architecture.label, family.architecture.recipe)),
            conditions,
        )
        for family in plan.families
    ]
    if tasks:
        from lmcbench.running.validate import check_fit

        # here, so that missing data are known before torch is loaded, and decoded by one process only
        suite = plan.cells[0].suite
        settle_dataset(suite.data.name, data_dir)
        shifted = open_all_shifted(suite.evaluations, data_dir)
        whole = replace(open_dataset(suite.data.name, data_dir), shifted=shifted)
        dataset = select(whole, suite.data)
        folder.check_data(dataset.identity(), plan.finished)
        folder.remove_stale_files()
        check_fit([cell for family in plan.families for cell in family.cells], dataset)
        seen = tuple(part["sha256"] for part in dataset.identity())
        tasks = [replace(task, data=seen) for task in tasks]
    if min(jobs, len(tasks)) > 1:
        from lmcbench.running.workers import run_in_processes

        yield from run_in_processes(tasks, jobs)
    elif tasks:
        from lmcbench.running.family import run_task

        for task in tasks:
            yield from run_task(task)


def _same_networks(
    cells: Sequence[Cell], held: Iterable[Record], folder: RunFolder
) -> dict[tuple[str, str], int]:
    """The numbers of weights in records of the networks asked for; another network is no such record.

    Tables know a network by its label, which a file keeps when it is edited.
    """
    asked = {(cell.architecture.label, cell.architecture.recipe): cell.architecture for cell in cells}
    others: dict[tuple[str, str], list[Record]] = {}
    params: dict[tuple[str, str], int] = {}
    for record in held:
        network = architecture_label(record), record.recipe["name"]
        if network not in asked:
            continue
        if record.architecture.fingerprint != asked[network].fingerprint:
            others.setdefault(network, []).append(record)
        elif record.architecture.params is not None:
            params[network] = record.architecture.params
    for (label, recipe), found in others.items():
        was = ", ".join(sorted({record.architecture.fingerprint for record in found}))
        now = asked[label, recipe].fingerprint
        raise UserError(
            f"{folder.root} holds {counted(len(found), 'cell')} of an earlier {label} with recipe {recipe} "
            f"(fingerprint {was}, now {now}); tables would average them with these. Run into another folder: "
            "--out DIR"
        )
    return params


def _find_networks(groups: Sequence[Family]) -> None:
    """Refuse a name that nothing answers to before anything is trained; our own are known without torch."""
    others = {f.architecture.name: f.architecture for f in groups if f.architecture.source != "lmcbench"}
    if others:
        from lmcbench.train.build import find_factory

        for architecture in others.values():
            find_factory(architecture)


def _measures(cells: Sequence[Cell], asked: Sequence[str]) -> tuple[str, ...]:
    from lmcbench.running.analyses import names_of

    names, suite = names_of(asked), cells[0].suite
    if not any(cell.has_analyses for cell in cells):
        shifts, count = ", ".join(suite.probe.shifts), suite.probe.replicates
        which = f"shifts {shifts}; replicates 0 to {count - 1}; all forks" if shifts else "it names none"
        raise UserError(
            f"None of these cells is asked for further measures. Suite {suite.name} takes them on its probe "
            f"cells: {which}."
        )
    return names


def _lacks(record: Record, measures: Sequence[str]) -> bool:
    from lmcbench.running.reopen import lacking

    return bool(lacking(record, measures))
