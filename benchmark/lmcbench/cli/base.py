"""The application that verbs are added to, its entry point, and what verbs share."""

from __future__ import annotations

import io
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lmcbench.cli.signals import answer_signals
from lmcbench.errors import UserError

EXIT_CHECK, EXIT_INPUT, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="lmcbench",
    help="Measure linear mode connectivity of image classifiers under data shift.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", envvar="LMCBENCH_DATA", help="Folder of data sets as parquet files."),
]


@app.callback(invoke_without_command=True)
def _help(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"lmcbench {installed('lmcbench')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def main() -> None:
    """Run the command line and exit with its code: one message, no traceback, on bad input."""
    answer_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a ± that a Latin or ASCII terminal lacks must end no run
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="lmcbench")
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # the system's: no permission, no space, a file where a folder is needed
        if error.strerror is None:
            raise
        typer.echo(f"Error: {error.filename or 'The system'}: {error.strerror}.", err=True)
        sys.exit(EXIT_INPUT)
