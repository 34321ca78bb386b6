"""`--on ray` and `--on ray:ADDRESS`: attempts as tasks of Ray, one GPU or a share of one each."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmcbench.data.dataset import Dataset
from lmcbench.errors import UserError, printable
from lmcbench.running.attempt import Attempt, Ended, Executor, Outcome
from lmcbench.running.plan import Task
from lmcbench.running.units import Unit, depends_on_fleet, fill, whole_families
from lmcbench.running.workers import EXIT_S, THREADS

LOOPBACK = "127.0.0.1"

CONNECT_S = 10.0
"""Seconds that the address of a cluster may take to answer."""

INSTALL = "Install it with: pip install 'lmcbench[ray]'"


@dataclass(frozen=True)
class Ray:
    """A place: Ray on this machine, or a cluster.

    Attributes:
        address: of a cluster; None: started on this machine and ended with the run.
        gpus_per_family: GPUs of each attempt, at most 1.
    """

    address: str | None
    gpus_per_family: float = 1.0
    is_remote = True

    def prepare(
        self, tasks: Sequence[Task], dataset: Dataset, device: str, jobs: int | None
    ) -> tuple[Executor, list[Unit]]:
        """Start Ray or connect to it; each attempt gets a share of a GPU, or a core if there is no GPU.

        Raises:
            UserError: if Ray is not installed or reached, or has no GPU for `--device cuda`.
        """
        executor = RayExecutor(self.address)
        try:
            gpus = executor.total.get("GPU", 0.0) if device != "cpu" else 0.0
            if device == "cuda" and gpus < self.gpus_per_family:
                raise UserError(
                    f"Ray has {gpus:g} GPUs, and each family asks for {self.gpus_per_family:g}. Use --device "
                    "cpu or auto, or add a node with a GPU."
                )
            on_gpu = gpus >= self.gpus_per_family
            executor.allocate(self.gpus_per_family if on_gpu else 0.0, jobs)
            # without a GPU, Ray leaves CUDA_VISIBLE_DEVICES as it is: torch would find one
            kind, share = (device, self.gpus_per_family) if on_gpu else ("cpu", 1.0)
            placed = [replace(task, device=kind, memory_share=share) for task in tasks]
            on_fleet = on_gpu and depends_on_fleet(tasks)
            assert executor.slots is not None
            units = whole_families(placed) if on_fleet else fill(placed, executor.slots, len(dataset.train))
        except BaseException:
            executor.close()
            raise
        return executor, units


class RayExecutor(Executor):
    """Attempts as Ray tasks. Retries are ours: Ray's own are switched off."""

    name = "ray"
    is_remote = True

    def __init__(self, address: str | None) -> None:
        if address is None or address.startswith(("127.", "localhost")):
            # read by `import ray`: else Ray replaces loopback by the machine's own address and listens on all
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        self.ray = _import_ray()
        self.slots: int | None = 1
        self._pending: list[Any] = []
        self._options: dict[str, Any] = {}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        # Ray's usage reports are switched off: a benchmark sends nothing anywhere
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            options |= {"include_dashboard": False, "_node_ip_address": LOOPBACK, "address": "local"}
        else:
            options |= {"address": address}
            check_listening(address)
        try:
            self.ray.init(**options)
        except Exception as error:  # Ray raises bare ones, as when a node is too slow to start
            raise _unreachable(address, error) from None
        self.total: Mapping[str, float] = self.ray.cluster_resources()

    def allocate(self, gpus: float, jobs: int | None) -> None:
        """Choose the resources of each attempt and the number at once.

        Raises:
            UserError: if no node has them, for which Ray would wait without end.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        name, each = ("GPU", gpus) if gpus else ("CPU", 1.0)
        per_node = [math.floor(node.get(name, 0) / each + 1e-9) for node in nodes]
        if not sum(per_node):
            raise UserError("Ray has no node with a free core. Start one: ray start --address=ADDRESS.")
        self.slots = min(sum(per_node), jobs or sum(per_node))
        # a task with a GPU needs cores too, and must not need more than there are
        cores = min((node.get("CPU", 0) / n for node, n in zip(nodes, per_node, strict=True) if n), default=1)
        self._options = {
            "num_cpus": 1 if cores >= 1 else 0,
            "num_gpus": gpus,
            "max_retries": 0,
            "retry_exceptions": False,
            "runtime_env": {"env_vars": dict.fromkeys(THREADS, "1")},
        }

    def submit(self, work: Attempt, unit: str) -> _RayHandle:
        """Begin a task."""
        task = self.ray.remote(_attempt).options(**self._options, name=f"lmcbench-{unit}")
        handle = _RayHandle(self, task.remote(work))
        self._pending.append(handle.reference)
        return handle

    def wait(self, timeout: float) -> None:
        """Wait until a task has ended."""
        if self._pending:
            self.ray.wait(self._pending, num_returns=1, timeout=timeout)

    def close(self) -> None:
        """End all tasks and disconnect; Ray on this machine is ended."""
        if self._pending:  # they were told to store their training
            self.ray.wait(self._pending, num_returns=len(self._pending), timeout=EXIT_S)
        self.ray.shutdown()


def check_listening(address: str) -> None:
    """Check that something listens at `HOST:PORT`; Ray itself would try for minutes.

    Raises:
        UserError: if nothing does within `CONNECT_S`.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> UserError:
    where = "on this machine" if address is None else f"at {printable(address)}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(
        f"Ray {where} cannot be reached: {printable(reason, 500)}. Give the address that 'ray start --head' "
        "printed, such as ray:10.0.0.1:6379."
    )


@dataclass
class _RayHandle:
    executor: RayExecutor
    reference: Any
    found: Ended | None = None

    def ended(self) -> Ended | None:
        ray = self.executor.ray
        if self.found is None and ray.wait([self.reference], timeout=0)[0]:
            self.executor._pending.remove(self.reference)
            try:
                self.found = Ended(ray.get(self.reference))
            except ray.exceptions.RayError as error:
                self.found = Ended(None, _reason(error))
        return self.found

    def cancel(self) -> None:
        """Interrupt the task, which stores its training; it is killed if it does not end."""
        self.executor.ray.cancel(self.reference, force=False)


def _reason(error: Exception) -> str:
    """Return one line about a task that died; the first line of Ray's message has its name and addresses."""
    kinds = {
        "OutOfMemoryError": "out of memory on its node",
        "WorkerCrashedError": "its worker process died",
        "NodeDiedError": "its node was lost",
    }
    kind = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return kinds.get(kind, f"{kind}: {printable(lines[-1] if lines else '', 300)}")


def _attempt(work: Attempt) -> Outcome:
    import signal

    from lmcbench.running.attempt import attempt, end_on

    end_on(signal.SIGTERM)
    return attempt(work)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(f"--on ray needs Ray. {INSTALL}") from None
    return ray
