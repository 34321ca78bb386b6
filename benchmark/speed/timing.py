"""Time jobs in turn, and describe the machine."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lmcbench.results.provenance import source_revision, versions


def interleaved(
    jobs: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, processor: bool = False
) -> dict[str, list[float]]:
    """Return wall seconds of each job, or `processor` seconds, on which a shared machine has less influence.

    All jobs run in turn, `repeats` times after a warm-up.
    """
    clock = time.process_time if processor else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, job in jobs.items():
            synchronize(device)
            began = clock()
            job()
            synchronize(device)
            if repeat > 0:
                seconds[name].append(clock() - began)
    return seconds


def median(times: list[float]) -> float:
    """Return the median."""
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """Return device, versions, load and date."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn_deterministic": torch.backends.cudnn.deterministic if cuda else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions(),
        "git": source_revision(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu_name() -> str:
    """Return the processor's name, or its architecture if the system does not provide a name."""
    with suppress(OSError):
        for entry in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()
