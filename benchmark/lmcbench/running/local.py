"""`--on local`: attempts run in this process, or in worker processes on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from lmcbench.data.dataset import Dataset
from lmcbench.running.attempt import Attempt, Ended, Executor, Outcome, attempt, perform
from lmcbench.running.workers import Job, WorkerPool


class InProcess(Executor):
    """One attempt at a time in this process, which advances while `wait` is called.

    Args:
        dataset: the suite's data.
    """

    name = "local"
    slots: int | None = 1
    is_remote = False

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._current: _Steps | None = None

    def submit(self, work: Attempt, unit: str) -> _Steps:
        """Begin an attempt; the first `wait` does its first step."""
        self._current = _Steps(perform(work, self.dataset, raise_errors=True))
        return self._current

    def wait(self, timeout: float) -> None:
        """Advance the attempt until its next event."""
        if self._current is not None:
            self._current.advance()

    def close(self) -> None:
        """End the attempt."""
        if self._current is not None:
            self._current.cancel()


@dataclass
class _Steps:
    steps: Generator[None, None, Outcome]
    outcome: Outcome | None = None

    def advance(self) -> None:
        if self.outcome is None:
            try:
                next(self.steps)
            except StopIteration as end:
                self.outcome = end.value

    def ended(self) -> Ended | None:
        return None if self.outcome is None else Ended(self.outcome)

    def cancel(self) -> None:
        self.steps.close()


class Processes(Executor):
    """Attempts in single-threaded worker processes, `slots` at once."""

    name = "local"
    is_remote = False

    def __init__(self, jobs: int) -> None:
        self.slots: int | None = jobs
        self.pool = WorkerPool(jobs)

    def submit(self, work: Attempt, unit: str) -> _InWorker:
        """Begin an attempt in a free worker."""
        return _InWorker(self.pool.submit(_attempt, work))

    def wait(self, timeout: float) -> None:
        """Wait until a worker has ended its attempt, or died."""
        self.pool.wait(timeout)

    def close(self) -> None:
        """Stop the workers. They store their training state first."""
        self.pool.close()


@dataclass
class _InWorker:
    job: Job

    def ended(self) -> Ended | None:
        job = self.job
        if not job.is_over:
            return None
        if job.error is not None:
            return Ended(Outcome("refused", str(job.error), job.error.exit_code))
        outcome = job.result if isinstance(job.result, Outcome) else None
        return Ended(outcome, f"a worker process died (exit code {job.exit_code}), perhaps out of memory")

    def cancel(self) -> None:
        """Nothing to do: `Processes.close` ends the worker."""


def _attempt(work: Attempt, send: Callable[[object], None]) -> Outcome:
    def describe(done: float, signum: int | None) -> dict[str, Any]:
        parent = multiprocessing.parent_process()
        return {} if parent is None or parent.is_alive() else {"orphaned": True}

    return attempt(work, describe)
