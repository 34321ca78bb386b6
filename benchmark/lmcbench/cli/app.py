"""The application that commands are added to, its entry point, and the options that commands share."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lmcbench.errors import UserError
from lmcbench.output import print_text, shorten, terminal_text

EXIT_CHECK, EXIT_INPUT, EXIT_INCONCLUSIVE, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 1, 2, 3, 5, 130

GROUPS = {
    "Run and measure": ("run", "status", "tune", "measure", "report", "landscape"),
    "Add a network": ("new-arch", "check"),
    "Leaderboard": ("leaderboard", "submit", "verify"),
    "Regression gate": ("compare", "calibrate"),
    "List what is available": ("suites", "shifts", "archs", "data", "doctor"),
}
"""The commands in the order in which `--help` lists them."""


class GroupedCommands(TyperGroup):
    """List the commands under the headings of `GROUPS`, the others last; quote bad usage safely."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        grouped = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in grouped)
        width = max(map(len, self.commands))
        for heading, names in {**GROUPS, "Other commands": others}.items():
            limit = formatter.width - 6 - width
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options before a command."""
        with _safe_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command."""
        with _safe_usage_errors():
            return super().invoke(ctx)


_USAGE_ERROR: Any = typer.BadParameter.__base__
"""Of click, or of the copy of click inside typer."""


@contextmanager
def _safe_usage_errors() -> Iterator[None]:
    """Replace control characters and shorten the message of a usage error: it quotes the arguments."""
    try:
        yield
    except _USAGE_ERROR as error:
        error.message = shorten(terminal_text(error.message))
        raise


app = typer.Typer(
    name="lmcbench",
    cls=GroupedCommands,
    help="Measure linear mode connectivity of image classifiers under data shift.",
    epilog="Start with: lmcbench run digits",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", envvar="LMCBENCH_DATA", help="Folder that contains the data sets."),
]
ArchKwargs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Keyword argument of the architecture (repeatable)."),
]


@app.callback(invoke_without_command=True)
def _help(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print_text(f"lmcbench {installed('lmcbench')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print_text(context.get_help())


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, in ASCII."""
    print_text(json.dumps(value, indent=1, allow_nan=False).replace("\x7f", "\\u007f"))


def name_damaged(path: Path, damaged: Sequence[UserError]) -> None:
    """Name the records of a run that cannot be read, if there are any, on standard error."""
    from lmcbench.results.record_files import describe_damage

    if damaged:
        print_text(f"Left out: {describe_damage(path, damaged)}", err=True)


def exit_if_damaged(path: Path, damaged: Sequence[UserError]) -> None:
    """Name the records of a run that cannot be read and exit with `EXIT_INCOMPLETE`, if there are any."""
    name_damaged(path, damaged)
    if damaged:
        raise typer.Exit(EXIT_INCOMPLETE)


def main() -> None:
    """Run the command line and exit with its code; bad input gives one message and no traceback."""
    handle_signals()
    os.environ.pop("MPLBACKEND", None)  # no window is opened, and matplotlib refuses an unknown name
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Latin-1 or ASCII terminal cannot show every character
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="lmcbench")
    except UserError as error:
        print_text(shorten(f"Error: {error}"), err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # from the file system: no permission, no space, a file where a folder is needed
        if error.strerror is None:
            raise
        print_text(shorten(f"Error: {error.filename or 'The system'}: {error.strerror}."), err=True)
        sys.exit(EXIT_INPUT)
    except MemoryError:
        print_text(
            "Error: Main memory is exhausted. Use a machine with more, or raise 'ulimit -v'.", err=True
        )
        sys.exit(EXIT_INPUT)
    except ImportError as error:  # the library is damaged, of another version, or too large for 'ulimit -v'
        print_text(shorten(f"Error: A library cannot be loaded: {terminal_text(str(error))}."), err=True)
        print_text("Install lmcbench again, or raise the limit of memory ('ulimit -v').", err=True)
        sys.exit(EXIT_INPUT)


def parse_channels(text: str | None, option: str) -> tuple[float, ...] | None:
    """Parse `0.5` or `0.49,0.48,0.45` as one number per channel.

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text!r}: write one number per channel, as in 0.49,0.48,0.45.") from None


SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Handled like Ctrl-C. The system sends SIGHUP when a terminal is closed."""

REPEAT_S = 10.0
"""Seconds within which further signals are ignored, so that shutdown is not interrupted."""


def handle_signals() -> None:
    """Raise `KeyboardInterrupt` on `SIGNALS`, except those that the process ignores (as under nohup)."""
    ignored_until = -math.inf

    def interrupt(signum: int, frame: Any) -> None:
        nonlocal ignored_until
        now = time.monotonic()
        # closing a session sends several signals
        if now >= ignored_until:
            ignored_until = now + REPEAT_S
            _redirect_closed_streams()
            raise KeyboardInterrupt

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, interrupt)


def _redirect_closed_streams() -> None:
    """Send output to the null device where the terminal is closed, so that printing raises no error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream)
            os.close(null)
