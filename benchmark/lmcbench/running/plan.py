"""Plan a run: the cells without a record, the families they form, and what each family's work needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmcbench.errors import UserError, counted
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record import Record
from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.cells import Cell, Family, families
from lmcbench.spec.recipe import ENGINES, EngineName
from lmcbench.spec.shift_rules import View


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        cells: every cell asked for.
        finished: the records that exist already.
        families: the remaining cells by family, most expensive first.
        measures: analyses of the probe cells (`--measure`).
        params: trainable weights of the networks with records in the folder, by label and recipe.
    """

    cells: Sequence[Cell]
    finished: Sequence[Record]
    families: Sequence[Family]
    measures: tuple[str, ...] = ()
    params: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """Settings that change results in their last digits only, as another draw of SGD noise would.

    Attributes:
        engine: None for the committed choice; a network that cannot be stacked uses `reference`.
        threads: of torch on a CPU; results are bit-equal between runs with 1 only.
    """

    engine: EngineName | None = None
    threads: int = 1


DEFAULT_CONDITIONS = Conditions()


def by_engine(engine: object) -> Conditions:
    """Return conditions with the engine of this name, or with the committed choice for any other value."""
    return Conditions(next((name for name in ENGINES if name == engine), None))


@dataclass(frozen=True)
class Task:
    """One family with everything that its work needs.

    Attributes:
        views: per shift label, the siblings' views of the training set.
        device: `auto`, `cpu` or `cuda`.
        data_dir: the user's data folder, if any.
        data: sha256 of each split in the order of `Dataset.identity`.
        measures: analyses of the probe cells.
        params: trainable weights that existing records state for this network, if any.
        memory_share: share of the device's memory that the family may fill: others run beside it.
        trunk_only: train the trunk and store it at the forks of the cells, and nothing else.
    """

    family: Family
    folder: RunFolder
    views: Mapping[str, Sequence[View]]
    device: str
    data_dir: Path | None = None
    data: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    params: int | None = None
    conditions: Conditions = DEFAULT_CONDITIONS
    memory_share: float = 1.0
    trunk_only: bool = False


@dataclass(frozen=True)
class Finished:
    """A cell has its record."""

    record: Record


@dataclass(frozen=True)
class Progress:
    """Work done since the last event, in cells; training is a part of each cell. A retry takes back some."""

    cells: float


@dataclass(frozen=True)
class Notice:
    """A message to the user during a run, for example about a retry."""

    text: str


Event = Finished | Progress | Notice


def plan_run(cells: Sequence[Cell], folder: RunFolder, measure: Sequence[str] = ()) -> Plan:
    """Compare the `cells` asked for with the records in `folder`.

    Args:
        cells: cells of one suite.
        folder: the run folder, which may not exist yet.
        measure: names of analyses to run on the probe cells among `cells`, or `all`.

    Raises:
        UserError: if the folder belongs to another suite or holds records of a different network with the
            same label, if an analysis is unknown or no cell is a probe cell, or if an architecture's name
            is unknown.
    """
    suite = cells[0].suite
    folder.check(suite.identity())
    measures = _check_measures(cells, measure) if measure else ()
    records = folder.measured()
    for record in records.values():
        if record.suite.digest != suite.digest:
            raise UserError(
                f"{folder.record(record.key)} has suite digest {record.suite.digest[:12]}, its folder has "
                f"{suite.digest[:12]}. Remove the file to measure the cell again."
            )
    params = _check_networks(cells, records.values(), folder)
    finished, remaining = [], []
    for cell in cells:
        existing = records.get(cell.key)
        if existing is None or (measures and cell.has_analyses and _lacks(existing, measures)):
            remaining.append(cell)
        else:
            finished.append(existing)
    groups = families(remaining)
    _find_factories(groups)
    # suites list architectures by rising cost; with the most expensive first, workers end at similar times
    rank = {architecture.label: i for i, architecture in enumerate(suite.architectures)}
    groups.sort(key=lambda f: (-rank.get(f.architecture.label, len(rank)), f.replicate))
    return Plan(cells, finished, groups, measures, params)


def _check_networks(
    cells: Sequence[Cell], records: Iterable[Record], folder: RunFolder
) -> dict[tuple[str, str], int]:
    """Return the trainable weights that `records` state for the networks asked for, by label and recipe.

    Raises:
        UserError: if a record's fingerprint differs. Tables know a network by its label, which a user's file
            keeps when it is edited.
    """
    requested = {(cell.architecture.label, cell.architecture.recipe): cell.architecture for cell in cells}
    conflicts: dict[tuple[str, str], list[str]] = {}
    params: dict[tuple[str, str], int] = {}
    for record in records:
        network = architecture_label(record), record.recipe["name"]
        if network not in requested:
            continue
        if record.architecture.fingerprint != requested[network].fingerprint:
            conflicts.setdefault(network, []).append(record.architecture.fingerprint)
        elif record.architecture.params is not None:
            params[network] = record.architecture.params
    for (label, recipe), fingerprints in conflicts.items():
        raise UserError(
            f"{folder.root} holds {counted(len(fingerprints), 'cell')} of an earlier version of {label} with "
            f"recipe {recipe} (fingerprint {', '.join(sorted(set(fingerprints)))}, now "
            f"{requested[label, recipe].fingerprint}). Tables would average both versions. Run into another "
            "folder: --out DIR"
        )
    return params


def _find_factories(groups: Sequence[Family]) -> None:
    """Check that every architecture exists before any is trained; built-in ones are known without torch."""
    external = {f.architecture.name: f.architecture for f in groups if f.architecture.source != "lmcbench"}
    if external:
        from lmcbench.train.build import find_factory

        for architecture in external.values():
            find_factory(architecture)


def _check_measures(cells: Sequence[Cell], names: Sequence[str]) -> tuple[str, ...]:
    from lmcbench.running.analyses import select_analyses

    selected, suite = select_analyses(names), cells[0].suite
    if not any(cell.has_analyses for cell in cells):
        shifts, count = ", ".join(suite.probe.shifts), suite.probe.replicates
        which = f"shifts {shifts}; replicates 0 to {count - 1}; all forks" if shifts else "none"
        raise UserError(
            f"--measure applies to probe cells, and none was asked for. Probe cells of suite {suite.name}: "
            f"{which}."
        )
    return selected


def _lacks(record: Record, measures: Sequence[str]) -> bool:
    from lmcbench.running.stored_cells import missing_analyses

    return bool(missing_analyses(record, measures))
