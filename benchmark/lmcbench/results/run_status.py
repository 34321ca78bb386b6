"""The state of a run, from its folder alone: what is finished, running, waiting or lost, and where."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lmcbench.errors import UserError
from lmcbench.results.events import AttemptLog, DriverLog, attempts, drivers, failures, is_alive
from lmcbench.results.run_folder import RunFolder, read_header

State = Literal["finished", "running", "queued", "waiting", "stopped", "lost"]


@dataclass(frozen=True)
class UnitStatus:
    """A family, or a part of one.

    Attributes:
        label: network, replicate and part.
        state: `running`: an attempt works on it. `queued`: it is in the queue of Slurm or Ray. `waiting`: its
            driver runs and has not handed it over. `stopped`: no driver runs, so it needs another run.
            `lost`: every attempt failed.
        cells: number of its cells; 0 for a trunk.
        finished: cells that have a record.
        done: progress of the running attempt, in cells.
        attempts: attempts that were begun.
        failed: those that count towards `--retries`.
        where: host of the last attempt, and the job.
        silent: seconds since the last event of a running attempt.
        reason: of the last failure.
    """

    label: str
    state: State
    cells: int
    finished: int
    done: float
    attempts: int
    failed: int
    where: str
    silent: float | None
    reason: str


@dataclass(frozen=True)
class RunStatus:
    """A run folder.

    Attributes:
        suite: name and version.
        cells: cells that any driver asked for.
        finished: those with a record.
        failed: those whose record states a failure, as their attempts reported.
        drivers: `lmcbench run` processes that may still run, as `on HOST (process ID), --on ENGINE`.
        ended: how the last driver ended: `complete`, `incomplete` (families were lost), `interrupted`, or
            `killed`; None while one runs.
        remaining_s: estimated seconds to the end at the pace so far; None if it is not known.
        units: in the order in which they were asked for.
    """

    suite: str
    cells: int
    finished: int
    failed: int
    drivers: list[str]
    ended: str | None
    remaining_s: float | None
    units: list[UnitStatus]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def run_status(root: Path) -> RunStatus:
    """Read the state of the run in `root`; nothing is written.

    Raises:
        UserError: if it is no run folder.
    """
    folder = RunFolder(root)
    if not folder.header.exists():
        raise UserError(f"{root} is no run folder: it has no run.json. Give the --out of 'lmcbench run'.")
    suite = read_header(folder.header)["suite"]
    records = folder.recorded()
    logs: dict[str, list[AttemptLog]] = {}
    for log in attempts(folder):
        logs.setdefault(log.unit, []).append(log)
    known = list(drivers(folder))
    alive = [driver for driver in known if _is_alive(driver, logs)]
    units: dict[str, tuple[dict[str, Any], bool]] = {}
    asked: set[str] = set()
    for driver in known:
        for unit in _units_of(driver):
            asked.update(unit["cells"])
            units[unit["unit"]] = unit, driver in alive
    found = [_unit_status(unit, logs.get(name, []), records, has) for name, (unit, has) in units.items()]
    statuses = {
        event.get("key"): event.get("status")
        for of_unit in logs.values()
        for log in of_unit
        for event in log.events
        if event["event"] == "cell"
    }
    cells = asked | records
    last = known[-1] if known else None
    ended = None if alive or last is None else str(last.ended.get("how")) if last.ended else "killed"
    return RunStatus(
        suite=f"{suite['name']} version {suite['version']}",
        cells=len(cells),
        finished=len(records),
        failed=sum(statuses.get(key) == "failed" for key in records),
        drivers=[_place_of(driver) for driver in alive],
        ended=ended,
        remaining_s=_remaining(alive, logs, found, asked - records),
        units=found,
    )


def _place_of(driver: DriverLog) -> str:
    asked = driver.asked
    return f"on {asked.get('host')} (process {asked.get('pid')}), --on {asked.get('on')}"


def _units_of(driver: DriverLog) -> list[dict[str, Any]]:
    listed = driver.asked.get("units")
    units = [unit for unit in listed if isinstance(unit, dict)] if isinstance(listed, list) else []
    return [unit for unit in units if isinstance(unit.get("cells"), list) and unit.get("unit")]


def _is_alive(driver: DriverLog, logs: dict[str, list[AttemptLog]]) -> bool:
    """Return whether a driver may still run; its own process trains between two signs of life."""
    if driver.ended is not None:
        return False
    mine = [
        log for of_unit in logs.values() for log in of_unit if log.submitted.get("driver") == driver.path.name
    ]
    last = max([driver.last, *(float(log.events[-1]["time"]) for log in mine)])
    return is_alive(driver.asked, last)


def _unit_status(
    unit: dict[str, Any], logs: list[AttemptLog], records: set[str], has_driver: bool
) -> UnitStatus:
    cells = [str(key) for key in unit["cells"]]
    finished = sum(key in records for key in cells)
    last = logs[-1] if logs else None
    end = last.end if last is not None else None
    silent = where = None
    state: State = "waiting" if has_driver else "stopped"
    if last is not None:
        start = last.started
        job = next((e.get("job") for e in reversed(last.events) if e.get("job")), None)
        host, gpus = (None, None) if start is None else (start.get("host"), start.get("gpus"))
        parts = [host, gpus and f"GPU {gpus}", job and f"job {job}"]
        where = ", ".join(str(part) for part in parts if part)
        if end is None:
            latest = float(last.events[-1]["time"])
            silent = max(time.time() - latest, 0.0)
            on_queue = job is not None or has_driver
            if start is None or _is_requeued(last):
                state = "queued" if on_queue else state
            elif has_driver or is_alive(start, latest):
                state = "running"
        elif last.given_up:
            state = "lost"
    is_complete = finished == len(cells) if cells else end is not None and end["event"] == "finished"
    if is_complete and state != "running":
        state = "finished"
    reasons = [str(log.end.get("reason")) for log in logs if log.end is not None and log.end.get("reason")]
    return UnitStatus(
        label=str(unit.get("label")),
        state=state,
        cells=len(cells),
        finished=finished,
        done=last.done if last is not None and state == "running" else 0.0,
        attempts=len(logs),
        failed=failures(logs),
        where=where or "",
        silent=silent if state == "running" else None,
        reason=reasons[-1] if reasons and state != "finished" else "",
    )


def _is_requeued(log: AttemptLog) -> bool:
    """Return whether the job was put back into its queue and has not started again."""
    for event in reversed(log.events):
        if event.get("requeued") or event["event"] == "started":
            return bool(event.get("requeued"))
    return False


def _remaining(
    alive: Sequence[DriverLog], logs: dict[str, list[AttemptLog]], units: list[UnitStatus], missing: set[str]
) -> float | None:
    """Return the seconds that the missing cells take at the pace of the drivers that run."""
    if not alive or not missing:
        return None
    began = min(float(driver.asked["time"]) for driver in alive)
    finished = {
        str(event.get("key"))
        for of_unit in logs.values()
        for log in of_unit
        for event in log.events
        if event["event"] == "cell" and float(event["time"]) >= began
    }
    running = sum(min(max(unit.done - unit.finished, 0.0), unit.cells) for unit in units)
    done = len(finished) + running
    elapsed = time.time() - began
    return None if done <= 0 or elapsed <= 0 else max(len(missing) - running, 0.0) * elapsed / done
