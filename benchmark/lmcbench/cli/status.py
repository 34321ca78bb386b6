"""Show what a run is doing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmcbench.cli.app import EXIT_INTERRUPTED, Json, app, print_json
from lmcbench.errors import counted
from lmcbench.output import h_m_s, make_table, one_line, print_text, shorten

if TYPE_CHECKING:
    from lmcbench.results.run_status import RunStatus, UnitStatus

WATCH_S = 5.0
"""Seconds between two readings with `--watch`."""


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Print it again when it changes, until no driver runs.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what of a run is finished, running or lost, and where.

    Also estimates the time that remains. Reads the run folder only: it works on any machine that sees the
    folder, while a run goes on elsewhere and after it was killed.
    """
    from lmcbench.results.run_status import run_status

    shown = None
    try:
        while True:
            found = run_status(run)
            if json:
                print_json(found.to_json())
            elif (text := status_text(found)) != shown:
                print_text(text + ("\n" if watch else ""))
                shown = text
            if not watch or not found.drivers:
                return
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def status_text(found: RunStatus) -> str:
    """Return the state of a run: a summary, and a table of the units that are not finished."""
    lines = [f"{one_line(found.suite)}: {found.finished} of {counted(found.cells, 'cell')} finished"]
    if found.failed:
        lines[0] += f", {found.failed} of them failed"
    if found.drivers:
        lines += [f"Running {one_line(driver)}" for driver in found.drivers]
        if found.remaining_s is not None:
            lines.append(f"About {h_m_s(found.remaining_s)} left at the pace so far")
    elif found.ended is not None:
        lines.append(_ENDS.get(found.ended, f"The last run ended: {one_line(found.ended)}."))
    counts = {state: sum(unit.state == state for unit in found.units) for state in _STATES}
    if found.units:
        lines.append("Families: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    rows = [_row(unit) for unit in found.units if unit.state != "finished"]
    rows.sort(key=lambda row: _STATES.index(row[1]))
    if rows:
        lines += ["", make_table(rows, ["family", "state", "cells", "attempt", "where", ""])]
    return "\n".join(lines)


_STATES = ["running", "queued", "waiting", "stopped", "lost", "finished"]
_ENDS = {
    "complete": "The last run is complete.",
    "incomplete": "The last run ended and lost families. Run the same command again to try again.",
    "interrupted": "The last run was interrupted. Run the same command again to resume.",
    "killed": "The last run was killed, or its machine was lost. Run the same command again to resume.",
}


def _row(unit: UnitStatus) -> list[str]:
    cells = f"{unit.finished}/{unit.cells}" if unit.cells else "-"
    said = ""
    if unit.state == "running" and unit.cells:
        said = f"{min(max(unit.done / unit.cells, 0.0), 1.0):.0%}"
        if unit.silent is not None and unit.silent > 120:
            said += f", no sign of life for {h_m_s(unit.silent)}"
    if unit.reason:
        said = f"{said}; {unit.reason}" if said else unit.reason
    return [unit.label, unit.state, cells, str(unit.attempts), unit.where, shorten(said, 120)]
