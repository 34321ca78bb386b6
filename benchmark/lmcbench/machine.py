"""Cores, memory and devices of this machine (torch is imported only where it is needed)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

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


def cuda_devices() -> int:
    """Return the number of CUDA devices, without initialising CUDA in this process; see `has_cuda`."""
    if not has_cuda():
        return 0
    import torch

    with environment(**{ASK_NVML: "1"}):
        return torch.cuda.device_count()


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


CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Read when CUDA starts: with a workspace of fixed size, cuBLAS sums in one order (cuBLAS documentation,
"Results reproducibility")."""


def compute_exactly(device: torch.device, *, strict: bool = False) -> None:
    """On CUDA, compute fp32 without TF32 and deterministically, for the whole process.

    By default cuDNN rounds to TF32 in convolutions and uses algorithms whose sums have no fixed order. To be
    called before CUDA starts, and again after a user's code ran, which may set other flags.

    Args:
        device: where to compute; nothing is set for a CPU.
        strict: operators without a deterministic algorithm raise; else they warn and run.
    """
    if device.type != "cuda":
        return
    import torch

    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
    backends: Any = torch.backends
    # torch has two interfaces, and refuses to read the older one where they differ
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    for part in (backends, cudnn, cudnn.conv, cudnn.rnn, matmul):
        part.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def rounds_to_tf32() -> bool:
    """Return whether convolutions or matrix products on CUDA round to TF32 now, however that was set."""
    import torch

    backends: Any = torch.backends
    return any(part.fp32_precision == "tf32" for part in (backends.cudnn.conv, backends.cuda.matmul))


Result = TypeVar("Result")


def strictly(device: torch.device, work: Callable[[], Result]) -> tuple[Result, bool]:
    """Return the result of `work`, and whether all its operators have deterministic algorithms.

    On CUDA it runs in torch's strict deterministic mode. Where that raises, it runs once more with warnings
    instead.
    """
    compute_exactly(device, strict=True)
    try:
        return work(), True
    except RuntimeError as error:
        if device.type != "cuda" or "deterministic" not in str(error):
            raise
    finally:
        compute_exactly(device)
    return work(), False


def device_name(device: torch.device) -> str:
    """Return the device's name in records: the GPU's own name, or `cpu`."""
    if device.type != "cuda":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)
