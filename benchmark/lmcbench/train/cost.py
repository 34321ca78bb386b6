"""What training costs, in floating point operations."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def step_flop(model: nn.Module, shape: tuple[int, int, int], batch_size: int) -> int:
    """Floating point operations of one training step of one network (matrix products and convolutions)."""
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, *shape, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        scratch = {n: t.clone() for n, t in model.state_dict().items()}
        with FlopCounterMode(display=False) as counter:
            model.train()(images).logsumexp(-1).sum().backward()
        model.zero_grad(set_to_none=True)
        model.load_state_dict(scratch)
    return int(counter.get_total_flops())
