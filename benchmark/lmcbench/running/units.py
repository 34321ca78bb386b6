"""Units of work: what one attempt does, a family or a part of one."""

from __future__ import annotations

from dataclasses import dataclass

from lmcbench.running.plan import Task


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

    @property
    def label(self) -> str:
        """The family, and the part of it, in messages."""
        family = self.task.family
        label = f"{family.architecture.label}, replicate {family.replicate}"
        if self.task.trunk_only:
            return f"{label} (trunk)"
        return label

    @property
    def keys(self) -> list[str]:
        """Keys of the cells whose records it writes."""
        return [] if self.task.trunk_only else [cell.key for cell in self.task.family.cells]


def whole_families(tasks: list[Task]) -> list[Unit]:
    """Return one unit a family."""
    return [Unit(task.family.key, task) for task in tasks]
