"""The leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmcbench.cli.base import EXIT_CHECK, app


@app.command()
def leaderboard(
    path: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Print the table of this run folder instead.")
    ] = None,
    board_dir: Annotated[Path, typer.Option("--leaderboard", help="The leaderboard's folder.")] = Path(
        "leaderboard"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 when what is committed is out of date.")
    ] = False,
) -> None:
    """Render the leaderboard from its submissions, or print the table of one run."""
    from lmcbench.board import page

    if path is not None:
        typer.echo(page.run_table(path, "simple"), nl=False)
        return
    content = page.render(board_dir)
    target = board_dir / "README.md"
    if check:
        current = target.read_text(encoding="utf-8") if target.exists() else None
        if current != content:
            typer.echo(f"{target} is out of date. Run 'lmcbench leaderboard' and commit it.", err=True)
            raise typer.Exit(EXIT_CHECK)
        typer.echo(f"{target} is up to date.")
        return
    from lmcbench.results.store import write_atomic

    write_atomic(target, content)
    typer.echo(f"Wrote {target}.")
