"""Drive a run: hand units of work to an executor, read their progress, retry what fails."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lmcbench.errors import UserError, counted
from lmcbench.results.atomic_files import WriteError
from lmcbench.results.events import (
    ALIVE_S,
    AttemptLog,
    EventLog,
    EventReader,
    attempts,
    create_attempt,
    driver_path,
    drivers,
    failures,
    is_alive,
    make_events_folder,
    process_identity,
)
from lmcbench.results.record import Record
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.attempt import Attempt, Ended, Executor, Handle, Outcome
from lmcbench.running.other_machines import VISIBLE_S, Expected, portable_environment
from lmcbench.running.plan import Event, Finished, Notice, Progress
from lmcbench.running.units import Unit

POLL_S = 0.5
"""Seconds between two readings of the event files."""

BEFORE_WORK = {"submitted", "started", "alive", "refused", "cancelled"}
"""Events of attempts that stored nothing."""


class FamiliesLostError(UserError):
    """Families that were lost after their retries, while the others finished; exit code 5."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=5)


@dataclass
class _Running:
    """An attempt that waits or runs; `done` is its progress in cells, `over` when it was first seen ended."""

    unit: Unit
    path: Path
    handle: Handle
    reader: EventReader
    is_ours: bool = True
    done: float = 0.0
    over: float | None = None
    cells: set[str] = field(default_factory=set)


class Driver:
    """One run of `units` on an executor.

    Args:
        units: every unit comes after those that it names in `after`.
        folder: the run folder, which is claimed.
        executor: what runs them; it is closed at the end.
        retries: attempts after the first that failed.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        folder: RunFolder,
        executor: Executor,
        retries: int,
    ) -> None:
        self.folder = folder
        self.executor = executor
        self.retries = retries
        self.environ = portable_environment() if executor.is_remote else {}
        self.waiting = list(units)
        self.running: list[_Running] = []
        self.completed: set[str] = set()
        self.lost: dict[str, str] = {}
        self.shown: set[str] = set()
        self.log = EventLog(driver_path(folder))
        self.files = [self.log.path]
        self._asked = [
            {
                "unit": unit.name,
                "label": unit.label,
                "architecture": unit.task.family.architecture.label,
                "replicate": unit.task.family.replicate,
                "cells": unit.keys,
            }
            for unit in units
        ]

    def run(self) -> Iterator[Event]:
        """Run all units and yield events.

        Raises:
            FamiliesLostError: at the end, if units failed more often than `retries` allows.
            UserError: for bad input that an attempt found; all others are cancelled.
        """
        ended = "interrupted"
        try:
            self._announce()
            self._note_dead_attempts()
            while self.waiting or self.running:
                self._submit()
                self.executor.wait(POLL_S)
                for one in list(self.running):
                    yield from self._observe(one)
                if time.monotonic() - self.log.last > ALIVE_S:
                    self.log.write("alive")
            ended = "incomplete" if self.lost else "complete"
        finally:
            self._end(ended)
        if self.lost:
            reasons = "; ".join(dict.fromkeys(f"{label}: {reason}" for label, reason in self.lost.items()))
            raise FamiliesLostError(
                f"{counted(len(self.lost), 'family was', 'families were')} lost, each after "
                f"{counted(self.retries + 1, 'attempt')}: {reasons}. Finished cells are kept; run the same "
                f"command again to try again. All attempts are in {self.folder.events}."
            )

    def was_refused_at_once(self) -> bool:
        """Return whether an attempt refused the input and none trained or was queued."""
        kinds = {event["event"] for path in self.files[1:] for event in EventReader(path).new()}
        return "refused" in kinds and kinds <= BEFORE_WORK

    def discard(self) -> None:
        """Remove the event files of this driver: nothing was run."""
        for path in self.files:
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            self.folder.events.rmdir()  # if it is empty

    # --- begin and end ---------------------------------------------------------------------------

    def _announce(self) -> None:
        path = self.log.path
        make_events_folder(self.folder)
        try:
            path.open("xb").close()
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {error.strerror}.") from None
        self.log.write(
            "asked",
            **process_identity(),
            on=self.executor.name,
            retries=self.retries,
            units=self._asked,
        )

    def _note_dead_attempts(self) -> None:
        """Note the end of attempts that a dead driver left without one."""
        alive = {log.path.name for log in drivers(self.folder) if log.is_alive}
        for log in attempts(self.folder):
            is_left = log.end is None and log.submitted.get("driver") not in alive
            if is_left and not self.executor.keeps(log):
                last = float(log.events[-1]["time"]) if log.events else 0.0
                if log.started is None or not is_alive(log.started, last):
                    EventLog(log.path).write("died", reason="its run was ended", orphaned=True)

    def _end(self, how: str) -> None:
        """Cancel what still runs."""
        alive = {log.path.name for log in drivers(self.folder) if log.is_alive} - {self.log.path.name}
        try:
            for one in self.running:
                first = next(iter(EventReader(one.path).new()), {})
                if one.is_ours or first.get("driver") not in alive:
                    one.handle.cancel()
                    EventLog(one.path).write("cancelled")
        finally:
            self.executor.close()
            self.log.write("ended", how=how)

    # --- attempts --------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Hand over the units that are ready, in order, while the executor has room."""
        for unit in list(self.waiting):
            if self.executor.slots is not None and len(self.running) >= self.executor.slots:
                return
            if not self.completed.issuperset(unit.after):
                continue
            self.waiting.remove(unit)
            logs = attempts(self.folder, unit.name)
            last = logs[-1] if logs else None
            handle = self.executor.attach(last) if last is not None and last.end is None else None
            if handle is not None and last is not None:
                self.running.append(_Running(unit, last.path, handle, EventReader(last.path), is_ours=False))
                continue
            token = secrets.token_hex(8)
            path = create_attempt(
                self.folder, unit.name, token=token, on=self.executor.name, driver=self.log.path.name
            )
            self.files.append(path)
            expected = Expected.here(token) if self.executor.is_remote else None
            cwd = Path.cwd() if self.executor.is_remote else None
            work = Attempt(unit.task, path, expected, self.environ, cwd)
            self.running.append(
                _Running(unit, path, self.executor.submit(work, unit.name), EventReader(path))
            )

    def _observe(self, one: _Running) -> Iterator[Event]:
        """Yield what an attempt did, and act if it has ended."""
        ended = one.handle.ended()
        for event in one.reader.new():
            if event["event"] == "cell":
                one.cells.add(str(event.get("key")))
            if event["event"] == "started" or isinstance(event.get("done"), int | float):
                done = float(event.get("done", 0.0))
                if done != one.done or event["event"] == "progress":
                    yield Progress(done - one.done)
                one.done = done
        yield from self._show(one, one.cells)
        if ended is None:
            return
        log = AttemptLog(one.unit.name, 0, one.path, EventReader(one.path).new())
        outcome = ended.outcome or _stored_outcome(log)
        if outcome is not None and outcome.kind == "finished":
            yield from self._show(one, one.unit.keys)
            missing = [key for key in one.unit.keys if key not in self.shown]
            one.over = one.over or time.monotonic()
            if missing and time.monotonic() - one.over < VISIBLE_S:
                return  # a network file system may show them later
            if missing:
                outcome = Outcome("failed", f"{counted(len(missing), 'record')} did not appear in the folder")
                EventLog(one.path).write("failed", reason=outcome.reason)
        self.running.remove(one)
        yield from self._conclude(one, log, outcome, ended)

    def _show(self, one: _Running, keys: Sequence[str] | set[str]) -> Iterator[Event]:
        """Yield the cells among `keys` that finished since the last call."""
        mine = set(one.unit.keys)
        for key in sorted(mine.intersection(keys) - self.shown, key=one.unit.keys.index):
            record = _stored_record(self.folder, key)
            if record is not None:
                self.shown.add(key)
                yield Finished(record)

    def _conclude(
        self, one: _Running, log: AttemptLog, outcome: Outcome | None, ended: Ended
    ) -> Iterator[Event]:
        """Note that a unit is finished, retry it, or give it up."""
        unit = one.unit
        if outcome is not None and outcome.kind == "finished":
            self.completed.add(unit.name)
            return
        if outcome is not None and outcome.kind == "refused":
            if outcome.unwritable:
                raise WriteError(outcome.reason)
            raise UserError(outcome.reason, exit_code=outcome.exit_code)
        if outcome is None and log.end is None:
            EventLog(one.path).write("died", reason=ended.reason)
        yield Progress(-one.done)
        logs = attempts(self.folder, unit.name)
        end = logs[-1].end or {}
        reason = outcome.reason if outcome is not None else str(end.get("reason") or ended.reason)
        count = failures(logs)
        if count > self.retries:
            EventLog(one.path).write("given-up")
            self.lost[unit.label] = reason
            for other in [u for u in self.waiting if unit.name in u.after]:
                self.waiting.remove(other)
                self.lost[other.label] = f"its trunk was lost: {reason}"
            yield Notice(f"{unit.label} is lost after {counted(count, 'attempt')}: {reason}")
            return
        self.waiting.insert(0, unit)
        if logs[-1].counts:
            yield Notice(
                f"{unit.label}: attempt {count} of {self.retries + 1} failed and is retried: {reason}"
            )
        else:
            yield Notice(f"{unit.label}: interrupted, and resumed.")


def _stored_outcome(log: AttemptLog) -> Outcome | None:
    """Return the outcome that an attempt wrote to its event file."""
    end = log.end
    if end is None:
        return None
    kind, reason = end["event"], str(end.get("reason", ""))
    if kind == "refused":
        return Outcome("refused", reason, int(end.get("exit_code", 2)), bool(end.get("unwritable")))
    if kind == "failed":
        return Outcome("failed", reason)
    return Outcome("finished") if kind == "finished" else None


def _stored_record(folder: RunFolder, key: str) -> Record | None:
    path = folder.record(key)
    return read_record(path) if path.exists() else None
