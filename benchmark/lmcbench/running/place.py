"""Where a run's families are run, by `--on`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lmcbench.data.dataset import Dataset
from lmcbench.errors import UserError, printable
from lmcbench.machine import cuda_devices, usable_cores
from lmcbench.output import print_text
from lmcbench.running.attempt import Executor
from lmcbench.running.plan import Task
from lmcbench.running.units import Unit, whole_families

LOCAL = "local"

RETRIES = 2
"""Default of `--retries`."""

PLACES = "local, ray, ray:ADDRESS, slurm or slurm:key=value,..."


class Place(Protocol):
    """A parsed `--on`."""

    @property
    def is_remote(self) -> bool:
        """Whether families may run on other machines."""

    def prepare(
        self, tasks: Sequence[Task], dataset: Dataset, device: str, jobs: int | None
    ) -> tuple[Executor, list[Unit]]:
        """Return the executor, ready, and the units of work for it.

        Raises:
            UserError: if it is not installed or cannot run the tasks.
        """


def parse_place(on: str, gpus_per_family: float = 1.0) -> Place:
    """Parse `--on`; nothing is started.

    Raises:
        UserError: for an unknown place or option.
    """
    kind, _, options = on.partition(":")
    if not 0 < gpus_per_family <= 1:
        raise UserError(
            f"--gpus-per-family {gpus_per_family:g} is not more than 0 and at most 1: a family uses one "
            "GPU or a share of one."
        )
    if kind != "ray" and gpus_per_family != 1:
        raise UserError(f"--gpus-per-family applies to --on ray, not to --on {printable(kind)}.")
    if kind == LOCAL and not options:
        return Local()
    if kind == "ray":
        from lmcbench.running.ray_executor import Ray

        if options.startswith("//"):
            raise UserError(f"--on {printable(on)}: Ray's client is not supported. Give HOST:PORT.")
        return Ray(options or None, gpus_per_family)
    if kind == "slurm":
        from lmcbench.running.slurm_executor import Slurm

        return Slurm.parse(options)
    raise UserError(f"Unknown place {printable(on)!r}. Allowed for --on: {PLACES}.")


@dataclass(frozen=True)
class Local:
    """This machine, without further software."""

    is_remote = False

    def prepare(
        self, tasks: Sequence[Task], dataset: Dataset, device: str, jobs: int | None
    ) -> tuple[Executor, list[Unit]]:
        """Return worker processes that share a GPU, or this process if one family runs at a time."""
        from lmcbench.running.local import InProcess, Processes

        devices = cuda_devices() if device != "cpu" else 0
        if devices > 1 and len(tasks) > 1:
            print_text(
                f"{devices} CUDA devices were found; one is used. To use all: "
                "pip install 'lmcbench[ray]' and add --on ray",
                err=True,
            )
        if jobs is None:
            jobs = 1 if devices else usable_cores()
        jobs = min(jobs, len(tasks))
        shared = [replace(task, memory_share=1 / jobs) for task in tasks]
        executor: Executor = InProcess(dataset) if jobs == 1 else Processes(jobs)
        return executor, whole_families(shared)
