"""Submissions: made of a run, and checked by whoever merges them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.base import EXIT_CHECK, Json, app, print_json
from lmcbench.errors import UserError

SuiteFile = Annotated[
    Path | None,
    typer.Option("--suite", metavar="FILE.toml", help="The suite, where it is not a published one."),
]


@app.command()
def submit(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, as 'lmcbench run' made it.")
    ],
    name: Annotated[str, typer.Option(metavar="SLUG", help="Name of the submission: a-z, 0-9, hyphens.")],
    arch: Annotated[
        str | None,
        typer.Option(help="Which of the run's architectures, as tables show it, where it has several."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="One line; default: architecture and suite.")] = None,
    author: Annotated[list[str] | None, typer.Option(help="Who made it (repeatable).")] = None,
    licence: Annotated[str, typer.Option(help="Of records and predictions, an SPDX name.")] = "CC-BY-4.0",
    pretraining: Annotated[str, typer.Option(help="What the network had seen before.")] = "none",
    extra_data: Annotated[str, typer.Option(help="Data beyond the suite's that it was trained on.")] = "none",
    notes: Annotated[str, typer.Option(help="Anything a reader should know.")] = "",
    source: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="The network's source, where it has been moved.")
    ] = None,
    reproduces: Annotated[
        str | None, typer.Option(metavar="SLUG", help="The submission that this one repeats (with --nonce).")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The maintainer's word that chose the replicates.")
    ] = None,
    board_dir: Annotated[Path, typer.Option("--leaderboard", help="The leaderboard's folder.")] = Path(
        "leaderboard"
    ),
    suite: SuiteFile = None,
) -> None:
    """Make a submission of a run: one new folder in the leaderboard, checked, and how to send it.

    Fewer cells than the suite has are accepted; such a submission is shown and not ranked.
    """
    from lmcbench.board.trust import ANONYMOUS
    from lmcbench.submit import Statement, next_steps, summary
    from lmcbench.submit import submit as make

    if (reproduces is None) != (nonce is None):
        raise UserError("--reproduces SLUG and --nonce TEXT go together.")
    said = Statement(
        title,
        author or [ANONYMOUS],
        licence,
        pretraining,
        extra_data,
        notes,
        None if reproduces is None or nonce is None else (reproduces, nonce),
    )
    made = make(run_folder, name, said, board_dir, arch=arch, source=source, suite_file=suite)
    typer.echo(summary(made))
    typer.echo(f"\nSend it as a pull request:\n\n{next_steps(made)}\n")


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A submission: leaderboard/submissions/SLUG.")],
    suite: SuiteFile = None,
    as_json: Json = False,
) -> None:
    """Check a submission without running anything of it; exit 1 and name every fault if there is one."""
    from lmcbench import verify as checks

    found = checks.verify(path, suite)
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo(checks.explain(found), nl=False, err=not found.sound)
    if not found.sound:
        raise typer.Exit(2 if found.newer else EXIT_CHECK)
