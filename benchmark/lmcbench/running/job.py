"""A run from its request to its last event, as the command line and `lmcbench.run` need it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmcbench.results.run_folder import RunFolder
from lmcbench.running.place import LOCAL, RETRIES
from lmcbench.running.plan import Event, Plan, by_engine, plan_run
from lmcbench.running.run import run_plan
from lmcbench.running.tuned import TunedRecipe
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite import Suite


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
            recipe=tuned.recipe,
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
