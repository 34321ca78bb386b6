"""Computing apart from the caller: precision and random numbers are nobody else's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


def own_precision(device: torch.device) -> torch.autocast:
    """Compute in the tensors' own dtype, whatever autocast the caller is in."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Compute apart from the caller: global generators stay as they were, and on CUDA fp32 means fp32."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), _no_tf32() if cuda else nullcontext():
        yield


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Have products and convolutions not round to TF32, as the latter do by default (design 3.2).

    Not where the caller set `fp32_precision` of a backend: torch refuses to have both interfaces used.
    """
    cudnn = torch.backends.cudnn
    try:
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        yield
        return
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]
