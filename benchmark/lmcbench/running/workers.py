"""Worker processes: each takes one family at a time; their events come back in the order they happen."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from lmcbench.errors import UserError
from lmcbench.machine import environment

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lmcbench.running.plan import Task
    from lmcbench.running.tune_training import TuningTask

POLL_S = 0.5
"""Seconds between checks that the workers are alive."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that numerical libraries read when a worker loads them: one thread each."""

EXIT_S = 5
"""Seconds that a terminated worker has to end before it is killed."""


class _State(Enum):
    """What a worker reports of itself: it is ready for a task, or it got the last one and ends."""

    READY = 1
    DONE = 2


def run_in_processes(tasks: Sequence[Task] | Sequence[TuningTask], jobs: int) -> Iterator[Any]:
    """Yield the events of `tasks`, done by `jobs` single-threaded processes; they end with this generator.

    Raises:
        UserError: for bad input that a worker found, or a worker that died.
    """
    context = multiprocessing.get_context("spawn")
    with _signals_blocked():  # the first queue starts multiprocessing's resource tracker
        todo, events = context.Queue(), context.Queue()
    running = min(jobs, len(tasks))
    workers = [context.Process(target=_work, args=(todo, events), daemon=True) for _ in range(running)]
    remaining = iter(tasks)
    try:
        with _signals_blocked(), environment(**dict.fromkeys(THREADS, "1")):
            for worker in workers:
                worker.start()
        while running:
            try:
                event = events.get(timeout=POLL_S)
            except queue.Empty:
                _check_alive(workers)
                continue
            if event is _State.READY:
                todo.put(next(remaining, None))
            elif event is _State.DONE:
                running -= 1
            elif isinstance(event, UserError):
                raise event
            else:
                yield event
    finally:
        todo.cancel_join_thread()  # do not wait until workers have read what is left
        started = [worker for worker in workers if worker.pid is not None]
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.join(timeout=EXIT_S)
            worker.kill()


def _work(
    todo: multiprocessing.Queue[Task | TuningTask | None], events: multiprocessing.Queue[object]
) -> None:
    """Run a worker: do tasks until there are none, or until the parent ends in any way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_once)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from lmcbench.running.family import reopen_data, run_family
    from lmcbench.running.plan import Task

    dataset = None
    events.put(_State.READY)
    while (task := todo.get()) is not None:
        try:
            if isinstance(task, Task):
                dataset = dataset or reopen_data(task)
                work: Iterator[object] = run_family(task, dataset)
            else:
                from lmcbench.running.tune_training import reopen_tuning_data, train_settings

                dataset = dataset or reopen_tuning_data(task)
                work = train_settings(task, dataset)
            for event in work:
                events.put(event)
        except UserError as error:
            events.put(error)
        except OSError as error:  # as the command line reports it
            events.put(UserError(f"{error.filename or 'The system'}: {error.strerror or error}."))
        except SystemExit as leaving:
            events.cancel_join_thread()  # the parent no longer reads
            # a network that exits with code 0 has not done its task
            raise SystemExit(leaving.code or 1) from None
        events.put(_State.READY)
    # there is nothing to clean up, and an exception during interpreter exit would print a traceback
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    events.put(_State.DONE)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(EXIT_S)
    os._exit(1)


def _exit_once(signum: int, frame: Any) -> None:
    """Raise `SystemExit`, so that a file being written is cleaned up; ignore further signals.

    A worker gets several: one from the service manager or terminal, and one from the ending parent.
    """
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def _check_alive(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise UserError(
                f"A worker process died (exit code {worker.exitcode}), perhaps out of memory. Finished cells "
                "are kept; resume with fewer --jobs.",
                exit_code=5,
            )


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
