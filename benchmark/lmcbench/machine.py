"""What this machine can work with: cores, memory, and whether a GPU is there (torch-free at import)."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from lmcbench.errors import UserError

if TYPE_CHECKING:
    import torch

NVML = "libnvidia-ml.so.1"
"""The management library of the NVIDIA driver."""

ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"

HOARD = 2**26
"""Freed bytes that the C library may keep for the next use: giving back less costs more than it is worth."""


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


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
    if not _can_load(NVML):
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


def give_back_memory() -> bool:
    """Return to the system what was freed and the C library hoards, where it is glibc; whether it was done.

    After training it keeps the activations' memory for good: 290 MB of a ResNet-8 of width 16 on batches of
    128 images of 32 x 32, which would come on top of what measuring needs.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Mallinfo2
        if library.mallinfo2().fordblks < HOARD:
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
    """`cpu`, `cuda`, or what is there for `auto`.

    Raises:
        UserError: for CUDA where there is none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device was found. Use --device cpu, or --device auto to take what is there.")
    return torch.device(name)


def compute_exactly(device: torch.device) -> None:
    """On CUDA, for the whole process: fp32 means fp32 (design 3.2), and reruns give the same bits (3.11).

    Left to itself cuDNN rounds to TF32 in convolutions, and takes algorithms whose sums have no fixed order.
    """
    if device.type == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def device_name(device: torch.device) -> str:
    """What records call it: the GPU's own name, or `cpu`."""
    if device.type != "cuda":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)
