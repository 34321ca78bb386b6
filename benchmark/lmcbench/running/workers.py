"""Worker processes: tasks go in, events come out, in whatever order they happen."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lmcbench.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lmcbench.running.tasks import Event, Task

POLL_S = 0.5
"""Seconds between looks at whether the workers are still alive."""

TIDY_S = 5
"""Seconds that a worker which is told to end has for it."""


class _Idle:
    """A worker has no more tasks."""


def run_in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Event]:
    """Events of `tasks` done by `jobs` single-threaded processes; on leaving early they are ended.

    Raises:
        UserError: bad input that a worker found, or a worker that died.
    """
    context = multiprocessing.get_context("spawn")
    with _unheard():  # the first queue starts the process that keeps account of semaphores
        todo, events = context.Queue(), context.Queue()
    count = min(jobs, len(tasks))
    for task in [*tasks, *[None] * count]:
        todo.put(task)
    workers = [context.Process(target=_work, args=(todo, events), daemon=True) for _ in range(count)]
    try:
        with _unheard(), _one_thread_each():
            for worker in workers:
                worker.start()
        busy = count
        while busy:
            try:
                event = events.get(timeout=POLL_S)
            except queue.Empty:
                _check_alive(workers)
                continue
            if isinstance(event, _Idle):
                busy -= 1
            elif isinstance(event, UserError):
                raise event
            else:
                yield event
    finally:
        todo.cancel_join_thread()  # what is left in it, nobody will read
        started = [worker for worker in workers if worker.pid is not None]
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.join(timeout=TIDY_S)
            worker.kill()


def _work(todo: multiprocessing.Queue[Task | None], events: multiprocessing.Queue[object]) -> None:
    """Body of a worker, which ends with the parent, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from lmcbench.running.family import run_task

    while (task := todo.get()) is not None:
        try:
            for event in run_task(task):
                events.put(event)
        except UserError as error:
            events.put(error)
        except SystemExit as leaving:
            events.cancel_join_thread()  # nobody listens any more
            # a network that ends the process with 0 has not done its task
            raise SystemExit(leaving.code or 1) from None
    # nothing is left to tidy away, and at a process's end an exception would be told where it falls
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    events.put(_Idle())


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(TIDY_S)
    os._exit(1)


def _leave(signum: int, frame: Any) -> None:
    """As an exception, so that a file that is being written is tidied away.

    Once: whoever ends all processes of a run tells a worker, and so does its parent while it is ending.
    """
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def _check_alive(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise UserError(
                f"A worker process died (exit code {worker.exitcode}), perhaps for want of memory. "
                "What was finished is kept; run again with fewer --jobs to go on.",
                exit_code=5,
            )


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Processes started inside do not hear what a terminal tells all of them: the parent answers for them.

    Blocked and not ignored, so that the parent hears what came meanwhile, and from their first moment on.
    """
    told = {signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Numerical libraries read these when they are loaded, so they must be set before a worker starts."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
