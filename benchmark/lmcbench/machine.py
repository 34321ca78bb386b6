"""Cores, memory and devices of this machine (torch is imported only where it is needed)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lmcbench.errors import UserError

if TYPE_CHECKING:
    import torch

NVML = "libnvidia-ml.so.1"
"""The management library of the NVIDIA driver."""

ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"

RELEASE_BYTES = 2**26
"""Freed bytes below which returning them to the system costs more than it is worth."""


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


def usable_cores() -> int:
    """Return how many cores this process may use: those it is bound to, if the system has such a notion."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables inside, and restore them afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def has_cuda() -> bool:
    """Return whether torch finds a CUDA device, without initialising CUDA in this process.

    Importing torch takes seconds, so it is asked only if an NVIDIA driver is installed. It asks the driver's
    management library, because processes cannot be started once CUDA is initialised.
    """
    if not _can_load(NVML):
        return False
    import torch

    with environment(**{ASK_NVML: "1"}):
        return torch.cuda.is_available()


def release_memory() -> bool:
    """Return freed memory that glibc keeps to the system; the result says whether that was done.

    After training, glibc keeps the memory of activations: 290 MB for a ResNet-8 of width 16 on batches of 128
    images of 32 x 32, on top of what evaluation needs.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Mallinfo2
        if library.mallinfo2().fordblks < RELEASE_BYTES:
            return False
        return bool(library.malloc_trim(0))
    except (OSError, AttributeError, TypeError):  # another C library
        return False


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def choose_device(name: str) -> torch.device:
    """Return the device `cpu` or `cuda`; `auto` is CUDA if there is a device.

    Raises:
        UserError: if there is no CUDA device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device was found. Use --device cpu or --device auto.")
    return torch.device(name)


def compute_exactly(device: torch.device) -> None:
    """On CUDA, compute fp32 without TF32 and deterministically, for the whole process.

    By default cuDNN rounds to TF32 in convolutions and uses algorithms whose sums have no fixed order.
    """
    if device.type == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def device_name(device: torch.device) -> str:
    """Return the device's name in records: the GPU's own name, or `cpu`."""
    if device.type != "cuda":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)
