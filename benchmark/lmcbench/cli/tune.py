"""Choose a network's recipe by rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.app import EXIT_CHECK, EXIT_INCOMPLETE, EXIT_INTERRUPTED, DataDir, Device, app
from lmcbench.cli.run import Engine
from lmcbench.output import print_text


@app.command()
def tune(
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A published suite with a sweep, or a .toml file."),
    ],
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The network: one of the suite's, or any other one as in 'lmcbench run'."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the results; default: runs/SUITE-tuning/ARCH."),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    engine: Annotated[
        Engine, typer.Option(help="As in 'lmcbench run'; 'stacked' trains all learning rates in one pass.")
    ] = Engine.auto,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes; default: one a core, one on CUDA.")
    ] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")
    ] = False,
) -> None:
    """Choose a network's recipe from the suite's sweep by accuracy.

    Trains independent networks of replicates 1000 to 1002 on four fifths of the training set with every
    setting of the suite's [sweep], and takes their accuracy on the other fifth. The test set is not used.
    Settings with a replicate that failed or did not learn are excluded. The best mean wins; settings of the
    same optimizer within one standard error of it tie, and the larger learning rate wins, then the larger
    weight decay. DIR/tuning.json has all results and the choice; use it with
    'lmcbench run SUITE --recipe tuned --tuning DIR/tuning.json'. Run the same command again to resume.
    Exits with 1 if no setting can be chosen and with 5 if trainings failed with an error.
    """
    from lmcbench.running.plan import by_engine
    from lmcbench.running.tune import plan_tuning
    from lmcbench.running.tune_progress import TuneView
    from lmcbench.spec.suite_files import load_suite

    run = plan_tuning(
        load_suite(suite),
        arch,
        out,
        data_dir=data_dir,
        device=device.value,
        engine=by_engine(engine.value).engine,
    )
    view = TuneView(run)
    view.introduce()
    if dry_run:
        return
    try:
        with view.bar:
            for event in run.run(jobs):
                view.show(event)
    except KeyboardInterrupt:
        print_text(view.interrupted(), err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    tuning = run.conclude()
    view.conclude(tuning, suite, arch)
    if run.failed:
        raise typer.Exit(EXIT_INCOMPLETE)
    if tuning.choice is None:
        raise typer.Exit(EXIT_CHECK)
