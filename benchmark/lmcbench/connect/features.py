"""Penultimate features of any classifier: what its last layer with weights is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmcbench.connect.network import MOST_IMAGES, Images, Network, isolated
from lmcbench.connect.state import Stack, unstack
from lmcbench.errors import UserError


@torch.no_grad()
def penultimate(network: Network, states: Stack, images: Images) -> Tensor:
    """Features of all states on all images, `[S, n, d]` in the model's dtype, eval mode.

    They are the input of the module that owns parameters and is called last: the classifier's linear
    layer in all usual networks, so that in timm's they are `forward_head(..., pre_logits=True)`. What
    is not `[n, d]` is flattened.

    Raises:
        UserError: where no module that owns parameters is called with images first.
    """
    parts: list[list[Tensor]] = [[] for _ in unstack(states)]
    with isolated(network.device):
        for batch in images.split(network.batch_size or MOST_IMAGES):
            for rows, state in zip(parts, unstack(states), strict=True):
                with _last_input(network.model) as seen:
                    network.forward(state, batch)
                if not seen or len(seen[0]) != len(batch):
                    raise UserError(
                        "No features: the network calls no layer with weights of its own on one row an image."
                    )
                rows.append(seen[0].detach().flatten(1))
    return torch.stack([torch.cat(rows) for rows in parts])


@contextmanager
def _last_input(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that holds, after a pass, the input of the last module called that owns parameters."""
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen[:] = [inputs[0]]

    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    handles = [module.register_forward_pre_hook(note) for module in owners]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
