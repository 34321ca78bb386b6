"""The leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.base import EXIT_CHECK, Json, app, print_json

STDOUT = Path("-")
"""The file name that stands for standard output."""


@app.command()
def leaderboard(
    path: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Print the table of this run folder instead.")
    ] = None,
    board_dir: Annotated[
        Path, typer.Option("--leaderboard", metavar="DIR", help="The leaderboard's folder.")
    ] = Path("leaderboard"),
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 when what is committed is out of date."),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all numbers there as CSV (-: print them), and nothing else."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Render the leaderboard, or print the table of one run.

    From the submissions it writes README.md, index.html and, under results/, what was derived from each
    submission. --check derives everything anew. --csv and --json export every number instead and change
    nothing in the folder.
    """
    if path is not None:
        if check or as_json or csv is not None:
            raise typer.BadParameter("--check, --csv and --json are of the leaderboard, not of one run")
        from lmcbench.board.runs.runtable import run_table

        typer.echo(run_table(path, "simple"), nl=False)
        return
    if check and (as_json or csv is not None):
        raise typer.BadParameter("--check writes nothing; leave out --csv and --json")
    if as_json and csv == STDOUT:
        raise typer.BadParameter("--json and --csv - both print; give --csv a file, or leave out one of them")
    if as_json or csv is not None:
        _export(board_dir, csv, as_json)
    else:
        _render(board_dir, check)


def _export(board_dir: Path, csv: Path | None, as_json: bool) -> None:
    from lmcbench.board.pages.derived import read_rows
    from lmcbench.board.pages.export import export_rows, to_csv
    from lmcbench.board.pages.standings import make_tables
    from lmcbench.results.store import write_atomic

    found = read_rows(board_dir)
    tables = make_tables(row.entry for row in found)
    rows = export_rows(tables, {row.entry.slug: (row.submission.meta, row.trust) for row in found})
    if csv == STDOUT:
        typer.echo(to_csv(rows), nl=False)
    elif csv is not None:
        write_atomic(csv, to_csv(rows))
        typer.echo(f"Wrote {csv}.", err=True)
    if as_json:
        print_json(rows)


def _render(board_dir: Path, check: bool) -> None:
    from lmcbench.board.pages.leaderboard import render_leaderboard

    # a derived file that was tampered with must not vouch for the page
    rendered = render_leaderboard(board_dir, afresh=check)
    if not check:
        written = rendered.write()
        for file in written:
            typer.echo(f"{'Wrote' if file.exists() else 'Removed'} {file}.")
        if not written:
            typer.echo(f"{board_dir} is up to date.")
        return
    outdated = rendered.outdated()
    if outdated:
        for file in outdated:
            typer.echo(f"{file} is out of date.", err=True)
        typer.echo("Run 'lmcbench leaderboard' and commit what it writes.", err=True)
        raise typer.Exit(EXIT_CHECK)
    typer.echo(f"{board_dir} is up to date.")
