"""Worker processes. Each runs one function at a time and returns its messages in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from lmcbench.errors import UserError
from lmcbench.machine import environment
from lmcbench.running.attempt import interrupt_once

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lmcbench.running.tune_training import TuningTask

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that numerical libraries read when a worker loads them: one thread each."""

EXIT_S = 20.0
"""Seconds that terminated workers have to store their training and end before they are killed."""

Work = Callable[[Any, Callable[[object], None]], object]
"""What a worker runs: a function at the top of a module, of an argument and of a function that sends."""


@dataclass
class Job:
    """A function that a worker runs.

    Attributes:
        sent: what it sent and nobody took yet.
        is_over: whether it has returned or its worker has died.
        result: what it returned.
        error: what it raised, of bad input.
        exit_code: of the worker, if that died.
    """

    sent: list[object] = field(default_factory=list)
    is_over: bool = False
    result: object = None
    error: UserError | None = None
    exit_code: int | None = None


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


class WorkerPool:
    """Up to `size` single-threaded processes, started when needed; one that dies is replaced."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")

    def submit(self, function: Work, argument: object) -> Job:
        """Run `function(argument, send)` in a worker that is free; there must be one."""
        worker = next((w for w in self._workers if w.job is None), None)
        if worker is None:
            assert len(self._workers) < self.size
            worker = self._start()
        job = worker.job = Job()
        with contextlib.suppress(OSError):  # it died; `wait` will see it
            worker.pipe.send((function, argument))
        return job

    def wait(self, timeout: float) -> None:
        """Receive what workers sent, and note which ended; wait at most `timeout` seconds for the first."""
        sources: list[Any] = [w.pipe for w in self._workers] + [w.process.sentinel for w in self._workers]
        ready = wait(sources, timeout)
        for worker in [w for w in self._workers if w.pipe in ready or w.process.sentinel in ready]:
            self._receive(worker)

    def close(self) -> None:
        """End all workers; one that does not end in time is killed."""
        try:
            for worker in self._workers:
                worker.process.terminate()
            until = time.monotonic() + EXIT_S
            for worker in self._workers:
                worker.process.join(timeout=max(until - time.monotonic(), 0))
        finally:  # also if a user is impatient
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
            self._workers = []

    def _start(self) -> _Worker:
        with _signals_blocked():  # the first process starts multiprocessing's resource tracker
            ours, theirs = self._context.Pipe()
            try:
                process = self._context.Process(target=_work, args=(theirs,), daemon=True)
                with _script_hidden(), environment(**dict.fromkeys(THREADS, "1")):
                    process.start()
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _receive(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                kind, value = worker.pipe.recv()
                job = worker.job
                assert job is not None
                if kind == "sent":
                    job.sent.append(value)
                    continue
                job.is_over, worker.job = True, None
                if kind == "error":
                    job.error = value
                else:
                    job.result = value
        except (EOFError, OSError, pickle.UnpicklingError):
            worker.process.join(timeout=EXIT_S)
        if worker.process.exitcode is not None:
            if worker.job is not None:
                worker.job.is_over, worker.job.exit_code = True, worker.process.exitcode
            worker.pipe.close()
            self._workers.remove(worker)


def run_in_processes(tasks: Sequence[TuningTask], jobs: int) -> Iterator[Any]:
    """Yield the events of tuning `tasks`, done by `jobs` processes; they end with this generator.

    Raises:
        UserError: for bad input that a worker found, or a worker that died.
    """
    pool = WorkerPool(min(jobs, len(tasks)))
    remaining, running = iter(tasks), list[Job]()
    try:
        while True:
            while len(running) < pool.size and (task := next(remaining, None)) is not None:
                running.append(pool.submit(_tune, task))
            if not running:
                return
            pool.wait(60)
            for job in list(running):
                while job.sent:
                    yield job.sent.pop(0)
                if job.error is not None:
                    raise job.error
                if job.exit_code is not None:
                    raise UserError(
                        f"A worker process died (exit code {job.exit_code}), perhaps out of memory. Finished "
                        "trainings are kept; resume with fewer --jobs.",
                        exit_code=5,
                    )
                if job.is_over:
                    running.remove(job)
    finally:
        pool.close()


def _tune(task: TuningTask, send: Callable[[object], None]) -> None:
    from lmcbench.running.tune_training import reopen_tuning_data, train_settings

    for event in train_settings(task, reopen_tuning_data(task)):
        send(event)


def _work(pipe: Connection) -> None:
    """Run a worker: call the functions it receives until the parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt_once)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def send(value: object) -> None:
        pipe.send(("sent", value))

    while True:
        try:
            function, argument = pipe.recv()
        except (EOFError, OSError):  # the parent has ended
            break
        try:
            answer: tuple[str, object] = "result", function(argument, send)
        except UserError as error:
            answer = "error", error
        except OSError as error:  # as the command line reports it
            answer = "error", UserError(f"{error.filename or 'The system'}: {error.strerror or error}.")
        except SystemExit as leaving:
            # a network that exits with code 0 has not done its task
            raise SystemExit(leaving.code or 1) from None
        try:
            pipe.send(answer)
        except OSError:
            break
    # there is nothing to clean up, and an exception during interpreter exit would print a traceback
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(EXIT_S)
    os._exit(1)


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Start processes that do not execute the user's script again; tasks need nothing of it.

    Otherwise each worker of a script that calls `lmcbench.run` without `if __name__ == "__main__"` would
    start the run itself.
    """
    main = sys.modules["__main__"]
    names = [name for name in ("__file__", "__spec__") if name in vars(main)]
    before: dict[str, Any] = {name: vars(main)[name] for name in names}
    main.__spec__ = None
    vars(main).pop("__file__", None)
    try:
        yield
    finally:
        vars(main).update(before)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes that ignore what a terminal sends to its whole process group; the parent ends them.

    The signals are blocked rather than ignored: the parent receives afterwards what came meanwhile, and
    children inherit the mask from their first moment on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
