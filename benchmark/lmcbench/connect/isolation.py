"""Computing apart from the caller: precision and random numbers are nobody else's business."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def without_autocast(device: torch.device) -> torch.autocast:
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


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy that shares no weight with `model`.

    Torch copies no tensor that a gradient flows through, and networks keep some as attributes: features
    of their last pass, weights that are normalised in it. The copy has their values.
    """
    left = {id(t): t.detach() for module in model.modules() for t in _tensors(vars(module)) if not t.is_leaf}
    return copy.deepcopy(model, left)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
