"""A run from its request to its last event, as the command line and `lmcbench.run` need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.run_folder import RunFolder
from lmcbench.results.tuning import Tuning, read_tuning, tuning_key
from lmcbench.running.place import LOCAL, RETRIES
from lmcbench.running.plan import Event, Plan, by_engine, plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Cell, Selection, expand
from lmcbench.spec.suite import Suite
from lmcbench.spec.sweep import TUNED


@dataclass(frozen=True)
class TunedRecipe:
    """A tuning file that belongs to a suite.

    Attributes:
        path: the file, for messages.
        suite: the suite with the chosen setting as its recipe `tuned`.
    """

    path: Path
    tuning: Tuning
    suite: Suite

    @classmethod
    def read(cls, path: Path, suite: Suite, recipe: str | None) -> TunedRecipe:
        """Read a tuning file for `suite`; `recipe` is the one that was asked for, if any.

        Raises:
            UserError: if the file cannot be read, has no choice, is of another suite or digest, or another
                recipe is asked for.
        """
        if recipe not in (None, TUNED):
            raise UserError(f"--tuning {path} gives recipe {TUNED!r}, not {recipe!r}. Give one of both.")
        tuning = read_tuning(path)
        tuning.check(suite, str(path))
        return cls(path, tuning, suite.with_tuned(tuning.recipe))

    @property
    def architecture(self) -> str:
        """The network as text for --arch."""
        return self.tuning.architecture.label

    def check_cells(self, cells: Iterable[Cell]) -> None:
        """Raise `UserError` if a cell is of another network than the one that was tuned."""
        for architecture in {cell.architecture.label: cell.architecture for cell in cells}.values():
            self.tuning.check_architecture(architecture.identity(), architecture.label, str(self.path))

    def store(self, folder: RunFolder) -> None:
        """Copy the file to the run folder, from which `submit` takes it."""
        write_atomic(folder.tuning(tuning_key(self.tuning.architecture.identity())), self.tuning.to_json())


@dataclass(frozen=True)
class Job:
    """A planned run.

    Attributes:
        suite: with the recipe of the tuning file, if one was given.
        tuned: the tuning file, which the run folder gets a copy of.
    """

    suite: Suite
    folder: RunFolder
    plan: Plan
    tuned: TunedRecipe | None = None


def prepare_job(
    suite: Suite,
    selection: Selection,
    out: Path | None,
    *,
    measure: Sequence[str] = (),
    tuning: Path | None = None,
) -> Job:
    """Plan the run of a part of a suite; nothing is written.

    Args:
        suite: the suite.
        selection: the part of it.
        out: the run folder; None: `runs/SUITE`.
        measure: names of analyses, or `all`.
        tuning: file of `lmcbench tune` whose choice is the recipe.

    Raises:
        UserError: if the selection, the tuning file, the folder or an analysis does not suit.
    """
    tuned = None
    if tuning is not None:
        tuned = TunedRecipe.read(tuning, suite, selection.recipe)
        suite = tuned.suite
        selection = replace(
            selection,
            architectures=selection.architectures or (tuned.architecture,),
            recipe=TUNED,
        )
    folder = RunFolder(out if out is not None else Path("runs") / suite.name)
    cells = expand(suite, selection)
    if tuned is not None:
        tuned.check_cells(cells)
    return Job(suite, folder, plan_run(cells, folder, measure), tuned)


def run_job(
    job: Job,
    *,
    data_dir: Path | None,
    device: str,
    jobs: int | None,
    engine: str = "auto",
    on: str = LOCAL,
    gpus_per_family: float = 1.0,
    retries: int = RETRIES,
) -> Iterator[Event]:
    """Run the unfinished part of a job and yield events; see `run_plan`."""
    yield from run_plan(
        job.plan,
        job.folder,
        data_dir=data_dir,
        device=device,
        jobs=jobs,
        conditions=by_engine(engine),
        on=on,
        gpus_per_family=gpus_per_family,
        retries=retries,
    )
    if job.tuned is not None:
        job.tuned.store(job.folder)
