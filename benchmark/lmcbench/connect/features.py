"""What layers compute: outputs inside a network, and penultimate features, the input of its last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from lmcbench.connect.blending import Stack, unstack
from lmcbench.connect.isolation import isolated
from lmcbench.connect.loaders import Images
from lmcbench.connect.network import MAX_IMAGES, Network
from lmcbench.errors import UserError


@torch.no_grad()
def penultimate(network: Network, states: Stack, images: Images) -> Tensor:
    """Return the features of all states on all images, `[S, n, d]` in the model's dtype, eval mode.

    Features are the flattened input of the last called module that owns parameters, usually the linear
    classifier; for timm's networks they equal `forward_head(..., pre_logits=True)`.

    Raises:
        UserError: if no module with parameters is called with one row per image, or the output of the last
            one is not the logits.
    """
    parts: list[list[Tensor]] = [[] for _ in unstack(states)]
    with isolated(network.device):
        for batch in images.split(network.batch_size or MAX_IMAGES):
            for rows, state in zip(parts, unstack(states), strict=True):
                with _last_call(network.model) as seen:
                    logits = network.forward(state, batch)
                if not seen or len(seen[0]) != len(batch):
                    raise UserError(
                        "No features: the network calls no layer with its own weights on one row per image."
                    )
                if len(seen) < 2 or not _is_logits(seen[1], logits):
                    raise UserError(
                        "No features: the last called layer with its own weights does not return the logits. "
                        "Make the classifier a layer."
                    )
                rows.append(seen[0].detach().flatten(1))
    return torch.stack([torch.cat(rows) for rows in parts])


def _is_logits(output: Tensor, logits: Tensor) -> bool:
    """Return whether a layer's output is the logits, or logits per position that are averaged later."""
    return output.numel() == logits.numel() or output.shape[:2] == logits.shape


@contextmanager
def _last_call(model: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that a pass fills with input and output of the last called module that owns parameters.

    A parametrized layer (weight norm) counts as a layer, its parametrization does not.
    """
    seen: list[Tensor] = []
    last: list[nn.Module] = []

    def record_input(module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> None:
        given = next((v for v in (*inputs, *named.values()) if isinstance(v, Tensor)), None)
        if given is not None:
            last[:], seen[:] = [module], [given]

    def record_output(module: nn.Module, _: object, output: object) -> None:
        if last and last[0] is module and isinstance(output, Tensor):
            seen[1:] = [output]

    owners = [
        module
        for module in model.modules()
        if not isinstance(module, parametrize.ParametrizationList)
        and (any(True for _ in module.parameters(recurse=False)) or parametrize.is_parametrized(module))
    ]
    handles = [module.register_forward_pre_hook(record_input, with_kwargs=True) for module in owners]
    handles += [module.register_forward_hook(record_output) for module in owners]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def output_hooks(model: nn.Module, call: Callable[[str, nn.Module, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `call` with name, module and output of every linear and convolutional layer that runs inside.

    What it returns, if it is not None, replaces the output.
    """
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd):

            def hook(module: nn.Module, _: object, output: Tensor, name: str = name) -> Tensor | None:
                return call(name, module, output)

            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def units_last(module: nn.Module, output: Tensor) -> Tensor:
    """Return the output of a linear or convolutional layer with its units as the last axis."""
    return output if isinstance(module, nn.Linear) else output.movedim(1, -1)
