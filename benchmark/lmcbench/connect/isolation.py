"""Compute without side effects on the caller: precision, random generators, copies of models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def without_autocast(device: torch.device) -> torch.autocast:
    """Compute in the tensors' own dtype, even inside the caller's autocast."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Restore the global generators afterwards, and on CUDA compute fp32 without TF32."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), _no_tf32() if cuda else nullcontext():
        yield


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Switch off rounding to TF32, which cuDNN's convolutions do by default.

    Has no effect if the caller set `fp32_precision` of a backend: torch refuses to mix both interfaces.
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


def copy_model(model: nn.Module, shares_weights: bool = False) -> nn.Module:
    """Return a deep copy of `model`.

    Torch does not copy non-leaf tensors, which some networks keep as attributes (features of the last pass,
    normalised weights). The copy has their detached values.

    Args:
        model: not modified.
        shares_weights: let the copy's parameters use the memory of the model's, for passes that do not write
            into parameters. Buffers are copied. A network with its own `train` or `eval`, which may merge
            weights, is copied completely.
    """
    known = {id(t): t.detach() for module in model.modules() for t in _tensors(vars(module)) if not t.is_leaf}
    if shares_weights and not any(has_own_mode(module) for module in model.modules()):
        known |= {
            id(p): nn.Parameter(p.detach(), p.requires_grad)
            for p in model.parameters()
            if type(p) is nn.Parameter
        }
    return copy.deepcopy(model, known)


def has_own_mode(module: nn.Module) -> bool:
    """Return whether a module does more than torch's when it is put into training or eval mode."""
    return type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
