"""`--on slurm[:key=value,...]`: attempts as batch jobs of Slurm, submitted through submitit.

The state of a job is asked of `squeue`, because `sacct` needs an accounting database that many clusters lack;
submitit alone would wait without end for a job that was killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcbench.data.dataset import Dataset
from lmcbench.errors import UserError, printable
from lmcbench.results.events import AttemptLog, EventLog, EventReader
from lmcbench.running.attempt import Attempt, Ended, Executor, Outcome
from lmcbench.running.plan import Task
from lmcbench.running.units import Unit, depends_on_fleet, fill, whole_families
from lmcbench.running.workers import THREADS
from lmcbench.spec.canonical import digest

INSTALL = "Install it with: pip install 'lmcbench[slurm]'"

ASK_S = 5.0
"""Seconds between two questions to Slurm's controller, for all jobs at once."""

READ_S = 1.0
"""Seconds between two readings of the event files of all jobs."""

SETTLE_S = 10.0
"""Seconds that the last events of an ended job may take to appear in the folder."""

STORE_S = 90
"""Seconds before the time limit at which a job is told to store its training (sbatch --signal)."""

OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States of a job that does not run again."""

ENDING = {"RUNNING", "COMPLETING"}
"""States of a job that has written its result and is about to end."""

RESERVED = {"job-name", "dependency", "signal", "output", "error", "open-mode", "array", "wrap", "requeue"}
"""Options of sbatch that a run sets itself."""


@dataclass(frozen=True)
class Slurm:
    """A place: the Slurm cluster of this machine.

    Attributes:
        options: of sbatch, by their long names; `jobs` (not of sbatch) limits the jobs at once.
    """

    options: Mapping[str, str]
    jobs: int | None = None
    is_remote = True

    @classmethod
    def parse(cls, text: str) -> Slurm:
        """Parse `key=value,...`; a value may contain commas, as in `exclude=a,b`.

        Raises:
            UserError: for text that is not of this form, or an option that a run sets itself.
        """
        options: dict[str, str] = {}
        # a comma begins an option only if a name and an equals sign follow
        for part in re.split(r",(?=[a-z][a-z-]*=)", text) if text else []:
            name, equals, value = part.partition("=")
            if not equals or not value or re.fullmatch(r"[a-z][a-z-]*", name) is None:
                raise UserError(
                    f"--on slurm: {printable(part)!r} is not of the form key=value, as in "
                    "slurm:partition=gpu,time=4:00:00,gres=gpu:1."
                )
            if name in RESERVED:
                raise UserError(f"--on slurm: {name} is set by the run itself. Leave it out.")
            options[name] = value
        jobs = options.pop("jobs", None)
        if jobs is not None and (not jobs.isdecimal() or not 0 < int(jobs) < 10**6):
            raise UserError(f"--on slurm: jobs={printable(jobs)} is not a positive number.")
        return cls(options, None if jobs is None else int(jobs))

    def prepare(
        self, tasks: Sequence[Task], dataset: Dataset, device: str, jobs: int | None
    ) -> tuple[Executor, list[Unit]]:
        """Return the executor. With a limit of jobs, families are split if there are few.

        Raises:
            UserError: if submitit or Slurm's commands are not installed.
        """
        if jobs is not None:
            raise UserError("--jobs applies to this machine. Limit the jobs at once: --on slurm:jobs=N")
        executor = SlurmExecutor(tasks[0].folder.root, tasks[0].folder.logs, self)
        on_fleet = device != "cpu" and depends_on_fleet(tasks)
        if self.jobs is None or on_fleet:
            return executor, whole_families(tasks)
        return executor, fill(tasks, self.jobs, len(dataset.train))


class SlurmExecutor(Executor):
    """One batch job an attempt. Jobs run on when the driver dies; the next driver attaches to them."""

    name = "slurm"
    is_remote = True

    def __init__(self, root: Path, logs: Path, place: Slurm) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(f"--on slurm needs submitit. {INSTALL}") from None
        try:
            self._slurm: Any = submitit.SlurmExecutor(folder=logs)
        except RuntimeError:
            raise UserError(
                "--on slurm: srun was not found. Run on a machine from which jobs of a Slurm cluster are "
                "submitted."
            ) from None
        self.slots = place.jobs
        self._options = dict(place.options)
        self._prefix = f"lmcbench-{digest(str(root.resolve()))[:8]}-"
        self._states: dict[str, str] | None = None
        self._asked = 0.0
        self.log_folder = logs
        self._handles: list[SlurmHandle] = []

    def submit(self, work: Attempt, unit: str) -> SlurmHandle:
        """Submit a job named after the unit; Slurm runs jobs of one name one after another.

        Raises:
            UserError: with the reason if Slurm rejects the job.
        """
        self._slurm.update_parameters(
            job_name=f"{self._prefix}{unit}",
            dependency="singleton",
            signal_delay_s=STORE_S,
            stderr_to_stdout=True,
            time=None,  # in place of submitit's five minutes
            wckey=None,
            setup=[f"export {' '.join(f'{name}=1' for name in THREADS)}"],
            additional_parameters={**self._options, "requeue": True},
        )
        import submitit

        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats what sbatch says
                job = self._slurm.submit(_attempt, work)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
            reason = lines[-1].removeprefix("sbatch: error: ").rstrip(".")
            raise UserError(
                f"Slurm rejected the job: {printable(reason, 500)}. The options are "
                f"{printable(','.join(f'{k}={v}' for k, v in self._options.items()) or 'its defaults')}."
            ) from None
        EventLog(work.log).write("queued", job=job.job_id)
        return self._handle(job.job_id, work.log)

    def attach(self, log: AttemptLog) -> SlurmHandle | None:
        """Return a handle of a job that another driver submitted and Slurm still has."""
        job = _job_of(log)
        if job is None or not self.keeps(log):
            return None
        return self._handle(job, log.path)

    def keeps(self, log: AttemptLog) -> bool:
        """Return whether Slurm still has an attempt's job."""
        job = _job_of(log)
        if job is None:
            return False
        self._ask()
        return self._states is None or self._states.get(job, "COMPLETED") not in OVER

    def wait(self, timeout: float) -> None:
        """Wait; events are read meanwhile, Slurm is asked every `ASK_S`."""
        time.sleep(max(timeout, READ_S))
        if time.monotonic() - self._asked > ASK_S:
            self._ask()

    def close(self) -> None:
        """Remove remaining jobs from the queue, such as requeued copies of finished ones."""
        until = time.monotonic() + SETTLE_S
        while True:
            self._ask()
            left = {h.job: self.state(h.job) for h in self._handles if h.is_done}
            left = {job: state for job, state in left.items() if state not in OVER}
            waiting = [job for job, state in left.items() if state not in ENDING]
            if waiting or (left and time.monotonic() > until):
                _call("scancel", *left)
            if not left or self._states is None or time.monotonic() > until:
                return
            time.sleep(1)

    def state(self, job: str) -> str:
        """Return the last known state of a job: `UNKNOWN` if Slurm does not answer, else as of `squeue`.

        A job that Slurm has forgotten has ended.
        """
        return "UNKNOWN" if self._states is None else self._states.get(job, "COMPLETED")

    def _handle(self, job: str, log: Path) -> SlurmHandle:
        if self._states is not None:
            self._states.setdefault(job, "PENDING")
        handle = SlurmHandle(self, job, log)
        self._handles.append(handle)
        return handle

    def _ask(self) -> None:
        self._asked = time.monotonic()
        found = _call("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i|%T")
        if found is not None:
            lines = (line.strip().split("|") for line in found.splitlines())
            self._states = {parts[0]: parts[1] for parts in lines if len(parts) == 2}


class SlurmHandle:
    """A job, by its events and by its state in Slurm's queue."""

    def __init__(self, executor: SlurmExecutor, job: str, path: Path) -> None:
        self.executor = executor
        self.job = job
        self.is_done = False
        self._reader = EventReader(path)
        self._log = AttemptLog("", 0, path)
        self._over_since: float | None = None

    def ended(self) -> Ended | None:
        """Return how it ended: by its events, or by Slurm if there are none."""
        self._log.events += self._reader.new()
        end = self._log.end
        # an interrupted job may be requeued by Slurm
        if end is not None and end["event"] != "interrupted":
            self.is_done = True
            return Ended(None)
        state = self.executor.state(self.job)
        if state not in OVER:
            self._over_since = None
            return None
        self._over_since = self._over_since or time.monotonic()
        if time.monotonic() - self._over_since < SETTLE_S:
            return None
        self.is_done = True
        log = f"{self.executor.log_folder.name}/{self.job}_0_log.out"
        return Ended(None, f"Slurm job {self.job} ended without a result ({state}); see {log}")

    def cancel(self) -> None:
        """Cancel the job, which stores its training."""
        _call("scancel", self.job)


def _job_of(log: AttemptLog) -> str | None:
    found = [event.get("job") for event in log.events if event["event"] == "queued"]
    return str(found[-1]) if found else None


def _call(*command: str) -> str | None:
    """Return the standard output of one of Slurm's commands; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _attempt(work: Attempt) -> Outcome:
    """Run a job: a signal before its time limit or a preemption stores the training.

    Slurm puts a preempted job back into its queue; a job at its time limit does so itself, so that it goes on
    when the driver is gone. Without progress it does not, and counts as failed.
    """
    from lmcbench.running.attempt import attempt, end_on

    # in place of submitit's handlers, which ignore SIGTERM: a requeued job would run beside its first copy
    end_on(signal.SIGTERM, signal.SIGUSR2)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def requeue(done: float, signum: int | None) -> Mapping[str, Any]:
        if signum != signal.SIGUSR2 or not done:
            return {}
        job = os.environ.get("SLURM_JOB_ID", "")
        return {"requeued": True} if _call("scontrol", "requeue", job) is not None else {}

    outcome = attempt(work, requeue)
    sys.stdout.flush()
    return outcome
