"""What passes between a run and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmcbench.results.store import RunFolder
from lmcbench.spec.cells import Family


@dataclass(frozen=True)
class Task:
    """A family, where its work goes and what it runs on.

    Attributes:
        data_dir: the user's data folder, if any.
        device: auto, cpu or cuda.
        measures: what probe cells are asked for beyond the record.
    """

    family: Family
    folder: RunFolder
    data_dir: Path | None
    device: str
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A cell has its record."""

    key: str


@dataclass(frozen=True)
class Progress:
    """Work done since the last event; a cell is 1, half of it training."""

    cells: float


Event = Finished | Progress
