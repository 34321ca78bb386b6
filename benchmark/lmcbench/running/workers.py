"""Worker processes: tasks go in, events come out, in whatever order they happen."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lmcbench.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lmcbench.running.tasks import Event, Task

POLL_S = 0.5
"""Seconds between looks at whether the workers are still alive."""


class _Idle:
    """A worker has no more tasks."""


def run_in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Event]:
    """Events of `tasks` done by `jobs` single-threaded processes; on leaving early they are ended.

    Raises:
        UserError: bad input that a worker found, or a worker that died.
    """
    context = multiprocessing.get_context("spawn")
    todo, events = context.Queue(), context.Queue()
    for task in tasks:
        todo.put(task)
    count = min(jobs, len(tasks))
    for _ in range(count):
        todo.put(None)
    with _one_thread_each():
        workers = [context.Process(target=_work, args=(todo, events), daemon=True) for _ in range(count)]
        for worker in workers:
            worker.start()
    try:
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
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(timeout=5)


def _work(todo: multiprocessing.Queue[Task | None], events: multiprocessing.Queue[object]) -> None:
    """Body of a worker. The parent answers an interrupt from the keyboard, for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from lmcbench.running.work import run_task

    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        try:
            task = todo.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if task is None:
            break
        try:
            for event in run_task(task):
                events.put(event)
        except UserError as error:
            events.put(error)
    events.put(_Idle())


def _check_alive(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise UserError(
                f"A worker process died (exit code {worker.exitcode}), perhaps for want of memory. "
                "What was finished is kept; run again with fewer --jobs to go on.",
                exit_code=5,
            )


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
