"""The application that verbs are added to, its entry point, and what verbs share."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

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


def parse_channels(text: str | None, option: str) -> tuple[float, ...] | None:
    """`0.5` or `0.49,0.48,0.45` as one number per channel.

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text!r}: write one number per channel, as in 0.49,0.48,0.45.") from None


NAMES = ("SIGTERM", "SIGHUP")
"""Told to end; hung up, where the terminal or the connection is closed (Windows has none)."""

ENDING_S = 10.0
"""Seconds in which further ones are taken for the same; later ones are heard, should the first be lost."""


def answer_signals() -> None:
    """Answer them as Ctrl-C is answered; one that is ignored, as nohup does, stays ignored."""
    answer = _Answer()
    for signum in (signal.Signals[name] for name in NAMES if name in signal.Signals.__members__):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, answer)


class _Answer:
    """Interrupts once: whoever closes a session sends several signals, and ending takes its time."""

    def __init__(self) -> None:
        self.deaf_until = -math.inf

    def __call__(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if now < self.deaf_until:
            return
        self.deaf_until = now + ENDING_S
        _leave_closed_terminal()
        raise KeyboardInterrupt


def _leave_closed_terminal() -> None:
    """What is said on the way out goes nowhere where the terminal is gone, and ends in no error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
