"""Progress of a run, in `events/` of its folder: append-only JSON lines of every driver and every attempt.

A driver is one `lmcbench run`. An attempt is one try to run a unit of work, a family or part of one, in any
process on any machine. Records say what is finished; these files say what is running, where, and what failed.
An event may be missing, as on a full disk, and is never needed to resume.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmcbench.results.atomic_files import WriteError, host_id, is_running, process_token
from lmcbench.results.run_folder import RunFolder
from lmcbench.untrusted import is_regular

LINE_BYTES = 2**20
"""Maximum length of a line in bytes; longer lines are ignored."""

SILENT_S = 180.0
"""Seconds without an event after which the writer on another host is assumed to have ended."""

ALIVE_S = 60.0
"""Seconds between two signs of life of a driver."""

ENDS = ("finished", "failed", "refused", "interrupted", "died", "cancelled")
"""Events that end an attempt. `died` and `cancelled` are written by a driver, the others by the attempt."""

FAILURES = ("failed", "died")
"""Ends that count towards `--retries`, as do interruptions without progress."""

_NAME = re.compile(r"(?P<unit>[0-9a-f]{16}(?:\.[a-z0-9]+)?)-(?P<number>[0-9]{1,6})\.jsonl")

Event = dict[str, Any]


class EventLog:
    """An event file that this process appends to; a line that cannot be written is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = time.monotonic()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the time, in seconds since 1970."""
        self.last = time.monotonic()
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}) + "\n"
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, line.encode())  # one call: lines of several writers do not mix
            finally:
                os.close(descriptor)


class EventReader:
    """Reads the events that were appended to a file since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def new(self) -> list[Event]:
        """Return the events of new complete lines. Damaged lines and special files are skipped."""
        if not is_regular(self.path):
            return []
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse(line)) is not None]


def _parse(line: bytes) -> Event | None:
    if len(line) > LINE_BYTES:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_event = isinstance(found, dict) and isinstance(found.get("event"), str)
    return found if is_event and isinstance(found.get("time"), int | float) else None


def process_identity() -> Event:
    """Return what identifies this process: host name, id of the host, process id and token."""
    return {
        "host": socket.gethostname(),
        "host_id": host_id(),
        "pid": os.getpid(),
        "token": process_token(),
    }


def is_alive(identity: Event, last: float) -> bool:
    """Return whether the writer of an event file may still run.

    Args:
        identity: of the writer (`process_identity`).
        last: time of its last event, which decides on another host.
    """
    pid = identity.get("pid")
    if identity.get("host_id") == host_id() and isinstance(pid, int):
        return is_running(pid, str(identity.get("token")))
    return time.time() - last < SILENT_S


# --- attempts ------------------------------------------------------------------------------------


@dataclass
class AttemptLog:
    """The events of one attempt.

    Attributes:
        unit: name of the unit of work.
        number: of the attempt, from 1.
        events: all of them, oldest first.
    """

    unit: str
    number: int
    path: Path
    events: list[Event] = field(default_factory=list)

    @property
    def submitted(self) -> Event:
        """The first event, which the driver writes; empty if it is damaged."""
        return self.events[0] if self.events else {}

    @property
    def started(self) -> Event | None:
        """The last start: a requeued job starts again."""
        return next((e for e in reversed(self.events) if e["event"] == "started"), None)

    @property
    def end(self) -> Event | None:
        """The event that ended the attempt; None while it waits or runs, also again after a requeue."""
        for event in reversed(self.events):
            if event["event"] in ENDS:
                return None if event.get("requeued") else event
            if event["event"] == "started":
                return None
        return None

    @property
    def counts(self) -> bool:
        """Whether it counts towards `--retries`."""
        end = self.end
        if end is None or end.get("orphaned"):
            return False
        return end["event"] in FAILURES or (end["event"] == "interrupted" and not end.get("done"))

    @property
    def given_up(self) -> bool:
        """Whether a driver declared the unit lost after this attempt."""
        return any(event["event"] == "given-up" for event in self.events)

    @property
    def done(self) -> float:
        """Progress of the last start, in cells."""
        for event in reversed(self.events):
            if isinstance(done := event.get("done"), int | float):
                return float(done)
            if event["event"] == "started":
                break
        return 0.0


def create_attempt(folder: RunFolder, unit: str, **fields: Any) -> Path:
    """Create the event file of a unit's next attempt, which no other process has.

    Raises:
        WriteError: if it cannot be written.
    """
    number = 1 + max((log.number for log in attempts(folder, unit)), default=0)
    make_events_folder(folder)
    while True:
        path = folder.attempt(unit, number)
        try:
            path.open("xb").close()
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {error.strerror}.") from None
        EventLog(path).write("submitted", **fields)
        return path


def make_events_folder(folder: RunFolder) -> None:
    """Create the folder of the event files; raises `WriteError`."""
    try:
        folder.events.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder.events} cannot be written: {error.strerror}.") from None


def attempts(folder: RunFolder, unit: str | None = None) -> list[AttemptLog]:
    """Return the attempts of a unit, or of all units, by unit and number."""
    found = []
    for path in folder.events.glob("*.jsonl" if unit is None else f"{unit}-*.jsonl"):
        match = _NAME.fullmatch(path.name)
        if match is not None and unit in (None, match["unit"]):
            found.append((match["unit"], int(match["number"]), path))
    return [AttemptLog(*key, EventReader(key[2]).new()) for key in sorted(found)]


def failures(logs: list[AttemptLog]) -> int:
    """Return how many attempts of a unit count towards `--retries`, since it was last given up."""
    recent = logs
    for i, log in enumerate(logs):
        if log.given_up:
            recent = logs[i + 1 :]
    return sum(log.counts for log in recent)


# --- drivers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriverLog:
    """The events of one `lmcbench run`."""

    path: Path
    events: list[Event]

    @property
    def asked(self) -> Event:
        """The first event: what was asked for, by which process."""
        return self.events[0]

    @property
    def ended(self) -> Event | None:
        """The last event if the driver ended in order."""
        return self.events[-1] if self.events[-1]["event"] == "ended" else None

    @property
    def last(self) -> float:
        """Time of the last sign of life."""
        return float(self.events[-1]["time"])

    @property
    def is_alive(self) -> bool:
        """Whether it may still run."""
        return self.ended is None and is_alive(self.asked, self.last)


def driver_path(folder: RunFolder) -> Path:
    """Return the event file of this process as a driver."""
    return folder.events / f"driver-{host_id()}-{os.getpid()}-{process_token()}-{time.time_ns()}.jsonl"


def drivers(folder: RunFolder) -> Iterator[DriverLog]:
    """Yield the drivers that worked on a folder, oldest first."""
    logs = [
        DriverLog(path, events)
        for path in folder.events.glob("driver-*.jsonl")
        if (events := EventReader(path).new()) and events[0]["event"] == "asked"
    ]
    yield from sorted(logs, key=lambda log: (float(log.asked["time"]), log.path.name))
