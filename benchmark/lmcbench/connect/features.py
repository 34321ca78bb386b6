"""Penultimate features of any classifier: what its last layer with weights is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lmcbench.connect.blending import Stack, unstack
from lmcbench.connect.isolation import isolated
from lmcbench.connect.network import MAX_IMAGES, Images, Network
from lmcbench.errors import UserError


@torch.no_grad()
def penultimate(network: Network, states: Stack, images: Images) -> Tensor:
    """Features of all states on all images, `[S, n, d]` in the model's dtype, eval mode.

    They are the input of the module that owns parameters and is called last: the classifier's linear
    layer in all usual networks, so that in timm's they are `forward_head(..., pre_logits=True)`. What
    is not `[n, d]` is flattened.

    Raises:
        UserError: where no module that owns parameters is called on one row an image, or the last one gives
            no logits.
    """
    parts: list[list[Tensor]] = [[] for _ in unstack(states)]
    with isolated(network.device):
        for batch in images.split(network.batch_size or MAX_IMAGES):
            for rows, state in zip(parts, unstack(states), strict=True):
                with _last_call(network.model) as seen:
                    logits = network.forward(state, batch)
                if not seen or len(seen[0]) != len(batch):
                    raise UserError(
                        "No features: the network calls no layer with weights of its own on one row an image."
                    )
                if len(seen) < 2 or not _gives(seen[1], logits):
                    raise UserError(
                        "No features: the last layer with weights of its own that the network calls gives no "
                        "logits, so that the classifier is not among its layers."
                    )
                rows.append(seen[0].detach().flatten(1))
    return torch.stack([torch.cat(rows) for rows in parts])


def _gives(output: Tensor, logits: Tensor) -> bool:
    """Whether a layer's output is the logits in some form: at each position too, which are averaged then."""
    return output.numel() == logits.numel() or output.shape[:2] == logits.shape


@contextmanager
def _last_call(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that holds, after a pass, input and output of the last module called that owns parameters.

    A layer whose weights are worked out from others (weight norm) owns those; what works them out is none.
    """
    seen: list[Tensor] = []
    last: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> None:
        given = next((v for v in (*inputs, *named.values()) if isinstance(v, Tensor)), None)
        if given is not None:
            last[:], seen[:] = [module], [given]

    def note_output(module: nn.Module, _: object, output: object) -> None:
        if last and last[0] is module and isinstance(output, Tensor):
            seen[1:] = [output]

    owners = [
        module
        for module in model.modules()
        if not isinstance(module, parametrize.ParametrizationList)
        and (any(True for _ in module.parameters(recurse=False)) or parametrize.is_parametrized(module))
    ]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in owners]
    handles += [module.register_forward_hook(note_output) for module in owners]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
