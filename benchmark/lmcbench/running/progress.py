"""Show a run: a progress bar or, in a log, a line from time to time; finished cells; the final tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lmcbench.errors import UserError, counted
from lmcbench.output import escape_markdown, h_m_s, one_line, print_text, shorten
from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.cell_values import architecture_label, barrier_value, error_barrier, shift_label
from lmcbench.results.record import Record
from lmcbench.results.record_files import read_records
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import Event, Finished, Notice, Plan
from lmcbench.spec.cells import expand
from lmcbench.spec.suite import Suite
from lmcbench.untrusted import printable

if TYPE_CHECKING:
    from lmcbench.report.tables import Tables

SILENCE = 60.0
"""Seconds without output after which the progress is printed."""

QUIET_SHARE = 0.05
"""Least share of the elapsed time between two such lines: a long log does not have one every minute."""

ESTIMABLE = 0.001
"""Least share of the cells to do that must be done before a remaining time is stated."""


class ProgressLines:
    """Lines about a run's progress for logs, when nothing else was printed for a while.

    Args:
        finished: cells that were finished before the run.
        clock: a monotonic clock, in seconds.
        unit: what is counted.
    """

    def __init__(
        self, finished: int, clock: Callable[[], float] = time.monotonic, unit: str = "cell"
    ) -> None:
        self.finished = finished
        self.unit = unit
        self.clock = clock
        self.began = self.printed = clock()

    def note_output(self) -> None:
        """Note that something was printed."""
        self.printed = self.clock()

    def line(self, done: float, cells: int) -> str | None:
        """Return a line if it is due; `done` of `cells` cells are finished, earlier ones included."""
        now = self.clock()
        elapsed, new = now - self.began, done - self.finished
        if now - self.printed < max(SILENCE, QUIET_SHARE * elapsed):
            return None
        self.printed = now
        known = new > 0 and new >= ESTIMABLE * (cells - self.finished)
        left = f", about {h_m_s(elapsed * (cells - done) / new)} left" if known else ""
        shown = f"{done:.{1 if cells >= 10 else 2}f} of {counted(cells, self.unit)}"
        return f"{shown} after {h_m_s(elapsed)}{left}"


EXIT_OK, EXIT_INCOMPLETE = 0, 5


def progress_bar() -> Progress:
    """Return a bar on standard error with the elapsed and the remaining time; disabled in a log."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )


class RunView:
    """Prints a run: results on standard output, progress on standard error.

    Progress is a bar on a terminal, and a line from time to time elsewhere.
    """

    def __init__(self, suite: Suite, plan: Plan, folder: RunFolder) -> None:
        self.suite = suite
        self.plan = plan
        self.folder = folder
        self.records: dict[str, Record] = {record.key: record for record in plan.finished}
        self.bar = progress_bar()
        self.task = self.bar.add_task("cells", total=len(plan.cells), completed=len(plan.finished))
        self.lines = ProgressLines(len(plan.finished)) if self.bar.disable else None

    def introduce(self) -> None:
        """Print what was asked for and how much of it is finished."""
        cells, families = len(self.plan.cells), len(self.plan.families)
        print_text(
            f"{self.suite.name} version {self.suite.version}: {counted(cells, 'cell')}, in {self.folder.root}"
        )
        if self.plan.finished:
            done = len(self.plan.finished)
            print_text(f"{done} {'is' if done == 1 else 'are'} finished already, {cells - done} to do")
        if families:
            names = dict.fromkeys(family.architecture.label for family in self.plan.families)
            shown = ", ".join(printable(name) for name in reversed(names))
            print_text(f"{counted(families, 'family', 'families')} to train: {shown}")

    def estimate(self, data: Mapping[str, str]) -> None:
        """Print where each set of `data` is, and the suite's stated cost, which is of the whole suite."""
        for name, where in data.items():
            print_text(f"Data: {printable(name)}, {where}")
        if not self.suite.cost:
            print_text("The suite does not state what it costs.")
            return
        whole = counted(len(expand(self.suite)), "cell")
        on_top = "; further measures come on top" if self.plan.measures else ""
        print_text(f"The cost of the whole suite ({whole}) is {printable(self.suite.cost)}{on_top}.")

    def show(self, event: Event) -> None:
        """Print the line of a finished cell; advance the bar, or print a line about the progress."""
        if isinstance(event, Finished):
            self.records[event.record.key] = event.record
            print_text(cell_line(event.record))
            if self.lines is not None:
                self.lines.note_output()
            return
        if isinstance(event, Notice):
            print_text(one_line(event.text), err=True)
            return
        self.bar.advance(self.task, event.cells)
        done = self.bar.tasks[self.task].completed
        if self.lines is not None and (line := self.lines.line(done, len(self.plan.cells))) is not None:
            print_text(line, err=True)

    def interrupted(self) -> str:
        """Return the message for a run that was interrupted."""
        kept, asked = len(self.records), len(self.plan.cells)
        return (
            f"Interrupted. {kept} of {asked} cells are finished and kept in {self.folder.root}; "
            "run the same command again to resume."
        )

    def conclude(self) -> int:
        """Print the tables of the cells asked for, write those of the whole folder, and return the exit code.

        If other records in the folder fit in no table, the stored tables stay as they are, with a warning.
        """
        from lmcbench.report.tables import make_tables

        wanted = [self.records[cell.key] for cell in self.plan.cells if cell.key in self.records]
        print_text("")
        tables = make_tables(wanted, self.suite.floor, self.folder.root)
        print_text(tables.render("simple").rstrip())
        where = f"\nRecords and checkpoints are in {self.folder.root}"
        try:
            held = read_records(self.folder.root)
        except UserError as error:
            print_text(f"{where}.")
            print_text(shorten(f"Warning: {self.folder.table} was not written: {error}"), err=True)
        else:
            if len(held) > len(wanted):
                tables = make_tables(held, self.suite.floor, self.folder.root)
            write_table(self.folder, held, tables)
            which = "this table" if len(held) == len(wanted) else f"the table of all its {len(held)} cells"
            print_text(f"{where}, {which} in {self.folder.table}.")
            print_text(f"'lmcbench report {self.folder.root}' draws all figures.")
        failed = [r for r in wanted if r.status == "failed"]
        if failed or len(wanted) < len(self.plan.cells):
            missing = len(self.plan.cells) - len(wanted)
            print_text(f"{counted(len(failed), 'cell')} failed, {missing} missing.", err=True)
            for reason in dict.fromkeys(r.reason for r in failed):
                print_text(f"  {one_line(str(reason))}", err=True)
            return EXIT_INCOMPLETE
        return EXIT_OK


def write_table(folder: RunFolder, held: Sequence[Record], tables: Tables) -> None:
    """Write the tables of a run folder, in Markdown, and how they were made.

    Args:
        folder: the run folder.
        held: its records.
        tables: of these.
    """
    from lmcbench.report.provenance import provenance_of

    suite = held[0].suite
    made = provenance_of(held, folder.root, command="").markdown()
    title = f"# {escape_markdown(suite.name)} version {suite.version}"
    write_atomic(folder.table, f"{title}\n\n{tables.render('github')}\n{made}")


def cell_line(record: Record) -> str:
    """Return a line about a finished cell, with its numbers on the test set."""
    name = (
        f"{architecture_label(record)} | {shift_label(record)} | fork {record.fork.name} | "
        f"replicate {record.replicate}"
    )
    if record.status != "ok":
        status = "" if record.status == "did-not-learn" else f"{record.status}: "  # its reason says so
        return one_line(f"{name}: {status}{record.reason}")
    name = one_line(name)
    if record.ensemble is None or record.soup is None:
        return f"{name}: one network; accuracy {_percent(1 - record.siblings[0].splits['test'].error)}"
    loss = barrier_value(record, "loss_chord")
    nats = "–" if loss is None else f"{loss:.3f} nats"
    worth = record.ensemble["test"]
    return (
        f"{name}: barrier {_percent(error_barrier(record))} error, {nats}; "
        f"disagreement {_percent(worth['disagreement'])}; "
        f"accuracy: member {_percent(worth['accuracy_mean'])}, "
        f"ensemble {_percent(worth['ensemble_accuracy'])}, soup {_percent(1 - record.soup['test'].error)}"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
