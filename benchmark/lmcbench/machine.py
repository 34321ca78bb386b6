"""What this machine can work with: cores, and whether a GPU is to be reckoned with (torch-free at import)."""

from __future__ import annotations

import ctypes
import os

MANAGEMENT = ("libnvidia-ml.so.1", "nvml.dll")
"""The driver's management library, on Linux (WSL2 too) and on Windows."""

ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, where the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_cuda() -> bool:
    """Whether torch will find a CUDA device, without initialising CUDA in this process.

    torch takes seconds to import and is asked only where an NVIDIA driver is installed; it may be built for
    CPUs only all the same. It asks the driver's management library then, so that processes can be started.
    """
    if not any(map(_can_load, MANAGEMENT)):
        return False
    import torch

    before = os.environ.get(ASK_NVML)
    os.environ[ASK_NVML] = "1"
    try:
        return torch.cuda.is_available()
    finally:
        if before is None:
            del os.environ[ASK_NVML]
        else:
            os.environ[ASK_NVML] = before


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
