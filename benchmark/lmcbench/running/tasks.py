"""What passes between a run and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmcbench.results.run_folder import RunFolder
from lmcbench.spec.cells import Family
from lmcbench.spec.recipe import ENGINES, EngineName


@dataclass(frozen=True)
class Conditions:
    """What changes no result but in its last digits, and through those as another draw of noise.

    Attributes:
        engine: None for the committed choice; a network that cannot be stacked is trained by reference.
        threads: of torch on a CPU; anything but 1 gives up equality to the last bit (design 3.11).
    """

    engine: EngineName | None = None
    threads: int = 1


AS_COMMITTED = Conditions()
"""What a run takes if nothing else is asked for."""


def by_engine(engine: object) -> Conditions:
    """Conditions with the engine of this name, asked for or recorded; the committed choice for any other."""
    return Conditions(next((name for name in ENGINES if name == engine), None))


@dataclass(frozen=True)
class Task:
    """A family, where its work goes and what it runs on.

    Attributes:
        data_dir: the user's data folder, if any.
        device: auto, cpu or cuda.
        measures: what probe cells are asked for beyond the record.
        params: trainable weights that records of this network say, where there are any.
        conditions: another engine where the user asks for it, other threads for 'lmcbench calibrate'.
        data: sha256 of each split, as `Dataset.identity` lists them; None: whatever is found.
    """

    family: Family
    folder: RunFolder
    data_dir: Path | None
    device: str
    measures: tuple[str, ...] = ()
    params: int | None = None
    conditions: Conditions = AS_COMMITTED
    data: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Finished:
    """A cell has its record."""

    key: str


@dataclass(frozen=True)
class Progress:
    """Work done since the last event; a cell is 1, part of it training."""

    cells: float


Event = Finished | Progress
