"""Run cifar10-shift with sleeping families on pretended GPUs and compare with the ideal.

The driver, the split into units, the event files and the order are those of a run. Only the work is replaced:
each unit sleeps as long as its floating point operations take, scaled so that the ideal takes a minute.

    python benchmark/cluster/simulate.py > benchmark/cluster/simulated.md
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from unittest import mock

from lmcbench.results.events import EventLog
from lmcbench.results.run_folder import RunFolder
from lmcbench.running import units as units_module
from lmcbench.running.attempt import Attempt, Ended, Executor, Outcome
from lmcbench.running.drive import Driver
from lmcbench.running.plan import Progress, Task
from lmcbench.running.units import Unit, fill, whole_families
from lmcbench.spec.architectures import Architecture
from lmcbench.spec.cells import Cell, expand, families
from lmcbench.spec.suite_files import load_suite
from lmcbench.train.build import build
from lmcbench.train.cost import step_flop

SHAPE, CLASSES, TRAIN, TEST = (3, 32, 32), 10, 50_000, 10_000
"""Of CIFAR-10."""

Unit.keys = property(lambda unit: [])  # type: ignore[assignment,method-assign] # no records are written


FLOP: dict[str, float] = {}


def image_flop(architecture: Architecture) -> float:
    """Return the FLOPs of training on one image, by torch's counter."""
    label = architecture.label
    if label not in FLOP:
        FLOP[label] = step_flop(build(architecture, SHAPE, CLASSES, 0), SHAPE, 2) / 2
    return FLOP[label]


def unit_flop(task: Task) -> float:
    """Return the FLOPs of a unit: trunk, siblings and evaluation. A shared sibling counts once per cell."""
    cells = task.family.cells
    architecture = task.family.architecture
    flop = image_flop(architecture)
    batch = task.family.recipe.batch_size
    has_trunk = not _trunk_is_apart(task)
    trunk = max((cell.fork_step(TRAIN) for cell in cells if cell.fork.has_trunk), default=0) * has_trunk
    steps = trunk if task.trunk_only else trunk + sum(_steps(cell) for cell in cells)
    evaluated = 0 if task.trunk_only else sum(_evaluated(cell) for cell in cells)
    return flop * (batch * steps + evaluated / 3)


TRUNKS: set[str] = set()
"""Families whose trunk is a unit of its own."""


def _trunk_is_apart(task: Task) -> bool:
    """Return whether another unit trains the trunk of this one."""
    return task.family.key in TRUNKS and not task.trunk_only


def _steps(cell: Cell) -> int:
    return cell.networks * (cell.length(TRAIN) - cell.fork_step(TRAIN))


def _evaluated(cell: Cell) -> int:
    """Return the images that evaluating a cell passes through a network."""
    protocol, k = cell.suite.protocol, cell.networks
    points = k + comb(k, 2) * (protocol.alphas - 2) + 1
    plain = min(protocol.train_eval or TRAIN, TRAIN) + TEST
    return points * (2 * plain + TEST * len(cell.suite.evaluations))


class Sleeping(Executor):
    """An executor of `slots` pretended GPUs; a unit takes `seconds` per FLOP."""

    name, is_remote = "sleeping", False

    def __init__(self, slots: int, seconds: float) -> None:
        self.slots: int | None = slots
        self.seconds = seconds
        self.changed = threading.Event()

    def submit(self, work: Attempt, unit: str) -> Sleeper:
        """Begin to sleep."""
        sleeper = Sleeper(self, work)
        sleeper.start()
        return sleeper

    def wait(self, timeout: float) -> None:
        """Wait until a unit ended."""
        self.changed.wait(timeout)
        self.changed.clear()

    def close(self) -> None:
        """Nothing to do."""


class Sleeper(threading.Thread):
    """A unit that sleeps."""

    def __init__(self, executor: Sleeping, work: Attempt) -> None:
        super().__init__(daemon=True)
        self.executor, self.work, self.is_over = executor, work, False

    def run(self) -> None:
        """Sleep, with the events of an attempt."""
        log = EventLog(self.work.log)
        log.write("started")
        time.sleep(unit_flop(self.work.task) * self.executor.seconds)
        log.write("finished")
        self.is_over = True
        self.executor.changed.set()

    def ended(self) -> Ended | None:
        """Return whether it slept to the end."""
        return Ended(Outcome("finished")) if self.is_over else None

    def cancel(self) -> None:
        """Nothing to do."""


def simulate(tasks: Sequence[Task], units: list[Unit], slots: int, seconds: float) -> float:
    """Return the seconds that a run takes."""
    TRUNKS.clear()
    TRUNKS.update(unit.task.family.key for unit in units if unit.task.trunk_only)
    with tempfile.TemporaryDirectory() as scratch:
        driver = Driver(units, RunFolder(Path(scratch)), Sleeping(slots, seconds), 0)
        began = time.perf_counter()
        for event in driver.run():
            assert isinstance(event, Progress)
        return time.perf_counter() - began


def scheduled(units: Sequence[Unit], slots: int, seconds: float) -> float:
    """Return the seconds of the same order without any overhead."""
    TRUNKS.clear()
    TRUNKS.update(unit.task.family.key for unit in units if unit.task.trunk_only)
    waiting, running, done, now = list(units), list[tuple[float, str]](), set[str](), 0.0
    while waiting or running:
        for unit in [unit for unit in waiting if done.issuperset(unit.after)]:
            if len(running) < slots:
                waiting.remove(unit)
                heapq.heappush(running, (now + unit_flop(unit.task) * seconds, unit.name))
        now, name = heapq.heappop(running)
        done.add(name)
    return now


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="cifar10-shift")
    parser.add_argument("--seconds", type=float, default=40.0, help="ideal seconds on 8 GPUs (40)")
    options = parser.parse_args()
    suite = load_suite(options.suite)
    groups = families(expand(suite))
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        tasks = [Task(family, folder, {}, "cpu") for family in groups]
        TRUNKS.clear()
        rank = {architecture.label: i for i, architecture in enumerate(suite.architectures)}
        tasks.sort(key=lambda t: (-rank[t.family.architecture.label], t.family.replicate))
        total = sum(unit_flop(task) for task in tasks)
        seconds = options.seconds * 8 / total
        cells = sum(len(family.cells) for family in groups)
        print(
            f"`python benchmark/cluster/simulate.py`: {suite.name}, {len(tasks)} families, {cells:,} cells, "
            f"{total / 1e18:.1f} EFLOP. Units sleep; one GPU would take {8 * options.seconds:.0f} s. "
            "Speed-up is that time over the measured one, driver and event files included; without overhead: "
            "the same order computed. Overhead is per unit, on 2 cores that were busy with other work.\n"
        )
        print("| GPUs | units | number | seconds | speed-up | without overhead | overhead, s | ideal |")
        print("|---|---|---|---|---|---|---|---|")
        for slots in (8, 16):
            as_run = fill(tasks, slots, TRAIN)
            cases = {"families": whole_families(tasks)}
            if len(as_run) > len(tasks):
                cases["parts (as run)"] = as_run
            else:
                cases = {"families (as run)": as_run}
                with mock.patch.object(units_module, "FULL", 10**6):
                    cases["parts"] = fill(tasks, slots, TRAIN)
            for name, units in cases.items():
                took = simulate(tasks, [replace(unit) for unit in units], slots, seconds)
                speed = 8 * options.seconds / took
                plain = scheduled(units, slots, seconds)
                each = (took - plain) * slots / len(units)
                row = [slots, name, len(units), f"{took:.1f}", f"{speed:.1f}x"]
                row += [f"{8 * options.seconds / plain:.1f}x", f"{each:.2f}", f"{slots}x"]
                print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
