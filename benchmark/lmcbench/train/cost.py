"""What training costs, in floating point operations."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def step_flop(model: nn.Module, shape: tuple[int, int, int], batch_size: int) -> int:
    """Floating point operations of one training step of one network (matrix products and convolutions).

    Counted on a copy: mode, weights and statistics of `model` stay, as do the global generators.
    """
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, *shape, device=device)
    twin = copy.deepcopy(model).train()
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        FlopCounterMode(display=False) as counter,
    ):
        twin(images).logsumexp(-1).sum().backward()
    return int(counter.get_total_flops())
