"""Units of work: what one attempt does, a family or a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmcbench.running.plan import Task
from lmcbench.spec.canonical import digest
from lmcbench.spec.cells import Cell

FULL = 2
"""Families per slot from which an executor is kept busy by whole families."""


@dataclass(frozen=True)
class Unit:
    """A unit of work.

    Attributes:
        name: of its event files; begins with the family's key.
        after: names of the units that must be finished before.
    """

    name: str
    task: Task
    after: tuple[str, ...] = ()
    part: str = ""

    @property
    def label(self) -> str:
        """The family, and the part of it, in messages."""
        family = self.task.family
        label = f"{family.architecture.label}, replicate {family.replicate}"
        return f"{label}, {self.part}" if self.part else label

    @property
    def keys(self) -> list[str]:
        """Keys of the cells whose records the unit writes."""
        return [] if self.task.trunk_only else [cell.key for cell in self.task.family.cells]


def depends_on_fleet(tasks: Sequence[Task]) -> bool:
    """Return whether any network may be trained by `stacked` on CUDA, whose bits depend on the fleet.

    The engine is chosen later, where the network is built: one with a row in the table of choices counts.
    """
    from lmcbench.train.choice import STACKED  # torch, which is slow to load

    return any(
        task.conditions.engine == "stacked"
        or (task.conditions.engine is None and (task.family.architecture.name, "cuda") in STACKED)
        for task in tasks
    )


def whole_families(tasks: Sequence[Task]) -> list[Unit]:
    """Return one unit a family."""
    return [Unit(task.family.key, task) for task in tasks]


def fill(tasks: Sequence[Task], slots: int, n: int) -> list[Unit]:
    """Return units that keep `slots` attempts busy: families, or parts of them if there are few.

    A family is split into its trunk and, after that, a unit for each shift with its control and each fork.
    Cells of different units share no sibling, so that no training is repeated. Bits are those of whole
    families unless results depend on the fleet (`stacked` on CUDA).

    Args:
        tasks: one a family, most expensive first.
        slots: attempts that run at once.
        n: training images.
    """
    if len(tasks) >= FULL * slots:
        return whole_families(tasks)
    trunks, parts = [], []
    for task in tasks:
        trunk, others = _split(task, n)
        trunks += trunk
        parts += others
    return [*trunks, *parts]


def _split(task: Task, n: int) -> tuple[list[Unit], list[Unit]]:
    family = task.family
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in family.cells:
        groups.setdefault((cell.shift.rule, cell.fork.identity), []).append(cell)
    if len(groups) == 1:
        return [], whole_families([task])
    trunks = []
    on_trunk = [cell for cell in family.cells if cell.fork_step(n) > 0]
    if any(not task.folder.trunk(family.key, cell.fork_step(n)).exists() for cell in on_trunk):
        cells = tuple(cell for cell in family.cells if cell.fork.has_trunk)
        reduced = replace(task, family=replace(family, cells=cells), trunk_only=True)
        trunks.append(Unit(f"{family.key}.trunk", reduced, part="trunk"))
    parts = []
    for (rule, fork), cells_of in sorted(groups.items(), key=lambda group: -_cost(group[1], n)):
        reduced = replace(task, family=replace(family, cells=tuple(cells_of)))
        waits = trunks if any(cell.fork.has_trunk for cell in cells_of) else []
        name = f"{family.key}.{digest([rule, fork])[:8]}"
        part = f"{rule}, fork {cells_of[0].fork.name}"
        parts.append(Unit(name, reduced, tuple(unit.name for unit in waits), part))
    return trunks, parts


def _cost(cells: Sequence[Cell], n: int) -> int:
    """Return the steps of training of the siblings of `cells`."""
    return sum(cell.networks * (cell.length(n) - cell.fork_step(n)) for cell in cells)
