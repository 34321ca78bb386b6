"""The main job: run a suite."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import EXIT_INTERRUPTED, DataDir, Device, app
from lmcbench.output import print_text


class Engine(StrEnum):
    """How the networks of a family are trained."""

    auto = "auto"
    reference = "reference"
    channels_last = "channels-last"
    stacked = "stacked"


@app.command()
def run(
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A published suite (see 'lmcbench suites') or a .toml file."),
    ],
    arch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB|NAME",
            help="Only these architectures (glob, repeatable), or one the suite does not list: "
            "timm's name, module:function or file.py:function, with +ADAPTATION and '(K=V,...)' if need be.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train with this recipe of the suite, or with 'tuned' (--tuning); needed for an unlisted "
            "--arch.",
        ),
    ] = None,
    tuning: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Use the recipe that 'lmcbench tune' chose for a network (DIR/tuning.json)."
        ),
    ] = None,
    shift: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these shifts (glob, repeatable).")
    ] = None,
    fork: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORK",
            help="Only these forks (repeatable); from:FILE fine-tunes siblings from a checkpoint "
            "of any kind, such as a pretrained one.",
        ),
    ] = None,
    replicates: Annotated[
        str | None,
        typer.Option(metavar="N|A:B", help="Replicates 0 to N-1, or A to B-1; default: the suite's number."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="all|NAME", help="Run analyses on the suite's probe cells (repeatable)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; default: runs/SUITE.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    engine: Annotated[
        Engine,
        typer.Option(
            help="reference: train networks one after another; channels-last: the same in that memory "
            "layout, where a network supports it; stacked: train all in one pass, except those that cannot "
            "be stacked; auto: the one that was measured to be faster (reference on CUDA, where nothing was "
            "measured). Results of the engines differ in their last bits."
        ),
    ] = Engine.auto,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes, one family each; default: one a core, one on CUDA."
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="Where to run: local; ray (all GPUs of this machine) or ray:ADDRESS (a cluster); slurm or "
            "slurm:partition=P,time=T,gres=gpu:1 (one job a family; any option of sbatch). Records do not "
            "depend on it.",
        ),
    ] = "local",
    gpus_per_family: Annotated[
        float, typer.Option(metavar="X", help="On Ray: share of a GPU for each family, at most 1.")
    ] = 1.0,
    retries: Annotated[
        int, typer.Option(min=0, metavar="N", help="How often a family that fails is tried again.")
    ] = 2,
    data_dir: DataDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run and the suite's cost, and stop.")
    ] = False,
) -> None:
    """Run a suite: train siblings and measure their connectivity.

    Prints a line per finished cell, and tables at the end. Run the same command again to resume, or ask for
    more cells to extend the run.
    """
    from lmcbench.running.drive import FamiliesLostError
    from lmcbench.running.job import prepare_job, run_job
    from lmcbench.running.place import parse_place
    from lmcbench.running.progress import RunView
    from lmcbench.spec.cells import Selection, parse_replicates
    from lmcbench.spec.suite_files import load_suite

    parse_place(on, gpus_per_family)
    selection = Selection(
        architectures=arch or (),
        shifts=shift or (),
        forks=fork or (),
        replicates=None if replicates is None else parse_replicates(replicates),
        recipe=recipe,
    )
    job = prepare_job(load_suite(suite), selection, out, measure=measure or (), tuning=tuning)
    view = RunView(job.suite, job.plan, job.folder)
    view.introduce()
    if dry_run:
        from lmcbench.catalogue import needed_data
        from lmcbench.data.listing import describe_location

        places = {name: describe_location(name, data_dir) for name in needed_data(job.suite)}
        view.estimate(places)
        if job.suite.data.domain is not None and places[job.suite.data.name].startswith("found"):
            from lmcbench.running.domains import preview_domains

            print_text(preview_domains(job.plan, data_dir))
        return
    try:
        with view.bar:
            for event in run_job(
                job,
                data_dir=data_dir,
                device=device.value,
                jobs=jobs,
                engine=engine.value,
                on=on,
                gpus_per_family=gpus_per_family,
                retries=retries,
            ):
                view.show(event)
    except KeyboardInterrupt:
        print_text(view.interrupted(), err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except FamiliesLostError as error:
        view.conclude()
        raise error from None
    raise typer.Exit(view.conclude())
