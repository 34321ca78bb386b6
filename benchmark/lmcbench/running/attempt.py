"""One attempt at a unit of work, and the interface of what runs attempts.

An attempt writes its events to the run folder and returns its outcome. Executors call `attempt` in a separate
process, on any machine that can access the run folder.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lmcbench.errors import UserError, describe
from lmcbench.results.atomic_files import WriteError
from lmcbench.results.events import ALIVE_S, AttemptLog, EventLog, process_identity
from lmcbench.running.plan import Finished, Progress, Task

if TYPE_CHECKING:
    from lmcbench.data.dataset import Dataset
    from lmcbench.running.other_machines import Expected


@dataclass(frozen=True)
class Attempt:
    """An attempt at a task.

    Attributes:
        log: its event file, which exists.
        expected: what the machine must have in common with the driver's; None in processes that the driver
            starts itself.
        environ: environment variables to set first.
        cwd: working folder, for relative paths in a suite; ignored where it does not exist.
    """

    task: Task
    log: Path
    expected: Expected | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        kind: `finished`; `refused` for bad input, which ends the run; `failed`, which is retried.
        reason: one line; empty if it finished.
        exit_code: of a refusal.
        unwritable: whether a file could not be written, which ends the run too.
    """

    kind: Literal["finished", "refused", "failed"]
    reason: str = ""
    exit_code: int = 2
    unwritable: bool = False


AfterInterruption = Callable[[float, int | None], Mapping[str, Any]]
"""Called with the progress of an interrupted attempt (cells) and the signal; returns fields of its event."""


class Interrupted(SystemExit):
    """The process was told to end by a signal, `signum`; training is stored on its way out."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


def end_on(*signals: int) -> None:
    """Raise `Interrupted` on the first of `signals` that comes, so that unfinished work is stored."""
    for signum in signals:
        signal.signal(signum, interrupt_once)


def interrupt_once(signum: int, frame: Any) -> None:
    """Raise `Interrupted`, so that what was begun is stored or cleaned up; ignore further signals.

    A worker gets several: one from the service manager or terminal, and one from the ending parent.
    """
    for other in (signum, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signum)


def attempt(work: Attempt, after_interruption: AfterInterruption | None = None) -> Outcome:
    """Run a task to its end and return the outcome; a signal that ends the process raises `Interrupted`."""
    steps = perform(work, after_interruption=after_interruption)
    over = threading.Event()
    threading.Thread(target=_show_life, args=(EventLog(work.log), over), daemon=True).start()
    try:
        while True:
            next(steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    finally:
        over.set()


def _show_life(log: EventLog, over: threading.Event) -> None:
    while not over.wait(ALIVE_S):
        log.write("alive")


def perform(
    work: Attempt,
    dataset: Dataset | None = None,
    *,
    raise_errors: bool = False,
    after_interruption: AfterInterruption | None = None,
) -> Generator[None, None, Outcome]:
    """Run a task step by step: yields after each event and returns the outcome.

    Args:
        work: the attempt.
        dataset: the suite's data, if it is open already.
        raise_errors: raise unexpected errors instead of returning them as a failure.
        after_interruption: called when training is stored after an interruption.
    """
    log, done = EventLog(work.log), 0.0
    place = "" if work.expected is None else f"Node {socket.gethostname()}: "
    where = {"job": os.environ.get("SLURM_JOB_ID"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    log.write("started", **process_identity(), **{name: value for name, value in where.items() if value})
    try:
        os.environ.update(work.environ)
        if work.cwd is not None and work.cwd.is_dir():
            os.chdir(work.cwd)
        if work.expected is not None:
            from lmcbench.running.other_machines import check_node

            check_node(work.expected, work.log)
        # before torch is loaded, whose first CUDA call fixes them
        from lmcbench.running.family import run_family

        for event in run_family(work.task, dataset if dataset is not None else _open_data(work.task)):
            if isinstance(event, Finished):
                log.write("cell", key=event.record.key, status=event.record.status, done=done)
            elif isinstance(event, Progress):
                done += event.cells
                log.write("progress", done=done)
            yield
        outcome = Outcome("finished")
    except UserError as error:
        unwritable = isinstance(error, WriteError)
        lasting = error.exit_code != 5 or unwritable
        kind: Literal["refused", "failed"] = "refused" if lasting else "failed"
        outcome = Outcome(kind, f"{place}{error}", error.exit_code, unwritable)
    except OSError as error:  # as the command line reports it
        outcome = Outcome("refused", f"{place}{error.filename or 'The system'}: {error.strerror or error}.")
    except (Interrupted, KeyboardInterrupt, GeneratorExit) as error:
        signum = getattr(error, "signum", None)
        fields = after_interruption(done, signum) if after_interruption is not None else {}
        log.write("interrupted", done=done, signal=signum, **fields)
        raise
    except SystemExit as leaving:  # a network that ends its process
        outcome = Outcome("failed", f"the network's code ended its process (exit code {leaving.code})")
    except Exception as error:
        outcome = Outcome("failed", describe(error))
        log.write("traceback", text=traceback.format_exc()[-20_000:])
        if raise_errors:
            log.write("failed", reason=outcome.reason)
            raise
        traceback.print_exc(file=sys.stderr)
    said: dict[str, Any] = {} if outcome.kind == "finished" else {"reason": outcome.reason}
    if outcome.kind == "refused":
        said |= {"exit_code": outcome.exit_code, "unwritable": outcome.unwritable}
    log.write(outcome.kind, **said)
    return outcome


_opened: dict[tuple[str, str], Dataset] = {}


def _open_data(task: Task) -> Dataset:
    """Return the suite's data, opened once a process."""
    from lmcbench.running.family import reopen_data

    key = task.family.suite.digest, str(task.data_dir)
    if key not in _opened:
        _opened.clear()
        _opened[key] = reopen_data(task)
    return _opened[key]


# --- what runs attempts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended.

    Attributes:
        outcome: what it returned; None if it died, or if the executor passes on no values: then the event
            file has the outcome.
        reason: why it may have died, such as an exit code; one line.
    """

    outcome: Outcome | None
    reason: str = "it ended without an outcome"


class Handle(Protocol):
    """A submitted attempt."""

    def ended(self) -> Ended | None:
        """Return how it ended; None while it waits or runs."""

    def cancel(self) -> None:
        """End it, and wait for nothing."""


class Executor(Protocol):
    """What runs attempts.

    Attributes:
        name: as in `--on`, without options.
        slots: attempts that run at once; None: the executor has a queue of its own.
        is_remote: whether attempts may run on other machines.
    """

    name: str
    slots: int | None
    is_remote: bool

    def submit(self, work: Attempt, unit: str) -> Handle:
        """Begin an attempt, or put it into the executor's queue; `unit` names the unit of work.

        Raises:
            UserError: if the executor cannot run it.
        """

    def attach(self, log: AttemptLog) -> Handle | None:
        """Return a handle of an attempt that another driver submitted and this executor still has.

        By default, attempts end with their driver.
        """
        return None

    def keeps(self, log: AttemptLog) -> bool:
        """Return whether an attempt may run on although its driver has ended."""
        return False

    def wait(self, timeout: float) -> None:
        """Wait until an attempt may have ended or made progress, at most `timeout` seconds."""

    def close(self) -> None:
        """Cancel all running and waiting attempts and release their resources."""
