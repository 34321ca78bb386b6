"""How far a run has come, said now and then where no bar shows it: in a log, in CI."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

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
from lmcbench.results.cell_values import architecture_label, barrier_value, error_barrier, shift_label
from lmcbench.results.record import Record, read_record
from lmcbench.results.run_folder import RunFolder, read_records, write_atomic
from lmcbench.running.run import Plan
from lmcbench.running.tasks import Event, Finished
from lmcbench.spec.cells import expand
from lmcbench.spec.suite import Suite

SILENCE = 60.0
"""Seconds without a word after which a run says how far it is."""

PATIENCE = 0.05
"""Share of a run's time so far that a silence may last at least: a day's log has no line for every minute."""


class Pulse:
    """Says how far a run is when it has been silent for a while.

    Args:
        finished: cells that were there before.
        clock: seconds that only grow.
    """

    def __init__(self, finished: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.finished = finished
        self.clock = clock
        self.began = self.spoke = clock()

    def speak(self) -> None:
        """Note that something was said."""
        self.spoke = self.clock()

    def line(self, done: float, cells: int) -> str | None:
        """What to say when `done` of `cells` cells are finished, earlier ones among them; mostly None."""
        now = self.clock()
        gone, share = now - self.began, done - self.finished
        if now - self.spoke < max(SILENCE, PATIENCE * gone):
            return None
        self.spoke = now
        left = f", about {_clock(gone * (cells - done) / share)} left" if share > 0 else ""
        return f"{done:.{1 if cells >= 10 else 2}f} of {counted(cells, 'cell')} after {_clock(gone)}{left}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


EXIT_OK, EXIT_INCOMPLETE = 0, 5


class RunView:
    """Prints one run. Results go to standard output; how far it is to standard error.

    There it is a bar on a terminal, and a line now and then elsewhere.
    """

    def __init__(self, suite: Suite, plan: Plan, folder: RunFolder) -> None:
        self.suite = suite
        self.plan = plan
        self.folder = folder
        self.records: dict[str, Record] = {record.key: record for record in plan.finished}
        console = Console(stderr=True)
        self.bar = Progress(
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
        self.task = self.bar.add_task("cells", total=len(plan.cells), completed=len(plan.finished))
        self.pulse = Pulse(len(plan.finished)) if self.bar.disable else None

    def introduce(self) -> None:
        """Say what is asked for and what of it is there."""
        cells, families = len(self.plan.cells), len(self.plan.families)
        _say(
            f"{self.suite.name} version {self.suite.version}: {counted(cells, 'cell')}, in {self.folder.root}"
        )
        if self.plan.finished:
            done = len(self.plan.finished)
            _say(f"{done} {'is' if done == 1 else 'are'} finished already, {cells - done} to do")
        if families:
            names = dict.fromkeys(family.architecture.label for family in self.plan.families)
            _say(f"{counted(families, 'family', 'families')} to train: {', '.join(reversed(names))}")

    def expect(self, data: Mapping[str, str]) -> None:
        """Say where each set of `data` is, and what the suite states as its cost.

        That is of all of it, since parts of it were not timed.
        """
        for name, where in data.items():
            _say(f"Data: {name}, {where}")
        if not self.suite.cost:
            _say("The suite does not state what it costs.")
            return
        whole = counted(len(expand(self.suite)), "cell")
        on_top = "; further measures come on top" if self.plan.measures else ""
        _say(f"The cost of the whole suite ({whole}) is {self.suite.cost}{on_top}.")

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show the bar while inside, on a terminal."""
        with self.bar:
            yield

    def show(self, event: Event) -> None:
        """Print the line of a finished cell; move the bar, or say how far it is where there is none."""
        if isinstance(event, Finished):
            record = read_record(self.folder.record(event.key))
            self.records[event.key] = record
            _say(cell_line(record))
            if self.pulse is not None:
                self.pulse.speak()
            return
        self.bar.advance(self.task, event.cells)
        done = self.bar.tasks[self.task].completed
        if self.pulse is not None and (line := self.pulse.line(done, len(self.plan.cells))) is not None:
            print(line, file=sys.stderr, flush=True)

    def interrupted(self) -> str:
        """What to say to somebody who stopped the run."""
        kept, asked = len(self.records), len(self.plan.cells)
        return (
            f"Interrupted. {kept} of {asked} cells are finished and kept in {self.folder.root}; "
            "the same command goes on from there."
        )

    def conclude(self) -> int:
        """Print the tables of what was asked for, store those of all that the folder holds; the exit code.

        What was asked for is done, whatever else the folder holds: a record of another cell that no table
        can hold keeps the stored tables as they are, with a warning.
        """
        from lmcbench.report.tables import make_tables

        wanted = [self.records[cell.key] for cell in self.plan.cells if cell.key in self.records]
        _say("")
        _say(make_tables(wanted, self.suite.floor).render("simple").rstrip())
        where = f"\nRecords and checkpoints are in {self.folder.root}"
        try:
            held = read_records(self.folder.root)
        except UserError as error:
            _say(f"{where}.")
            print(f"Warning: {self.folder.table} was not written: {error}", file=sys.stderr)
        else:
            text = make_tables(held, self.suite.floor).render("github")
            write_atomic(self.folder.table, f"# {self.suite.name} version {self.suite.version}\n\n{text}")
            tables = "this table" if len(held) == len(wanted) else f"the table of all its {len(held)} cells"
            _say(f"{where}, {tables} in {self.folder.table}.")
        failed = [r for r in wanted if r.status == "failed"]
        if failed or len(wanted) < len(self.plan.cells):
            missing = len(self.plan.cells) - len(wanted)
            print(f"{counted(len(failed), 'cell')} failed, {missing} missing.", file=sys.stderr)
            for reason in dict.fromkeys(r.reason for r in failed):
                print(f"  {reason}", file=sys.stderr)
            return EXIT_INCOMPLETE
        return EXIT_OK


def cell_line(record: Record) -> str:
    """A finished cell in one line, with its numbers on the test set."""
    name = (
        f"{architecture_label(record)} | {shift_label(record)} | fork {record.fork.name} | "
        f"replicate {record.replicate}"
    )
    if record.status != "ok":
        return f"{name}: {record.status}: {record.reason}"
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


def _say(text: str) -> None:
    print(text, flush=True)
