"""Decide whether a network can be trained by the stacked engine."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmcbench.errors import describe
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.train.engines import Advanced, advance
from lmcbench.train.train_state import TrainState, initial_state

BATCH = 4
"""Batch size of the trial step; BatchNorm needs more than one value per channel."""

TOLERANCE = {"fp32": 1e-2, "bf16": 0.2}
"""Relative distance allowed between the engines after the trial step: far above rounding, far below
the effect of a missing update or another random draw."""

STEP = Recipe(lr=0.1, momentum=0.9, batch_size=BATCH, epochs=1)

PROBABILITIES = ("p", "drop_prob", "prob", "dropout")
"""Attribute names for the rate of random draws: dropout, drop path, patch dropout, attention."""


def reason_not_stackable(
    model: nn.Module, shape: tuple[int, int, int], precision: str = "fp32"
) -> str | None:
    """Return why `model` cannot be trained by the stacked engine; None if it can.

    Layers that draw random numbers are found by inspection. Other networks take one step in both engines, as
    two members with different weights, which must agree in gradients and statistics. The model and the
    global generators are not modified; the answer depends on the model alone.

    Args:
        model: the network, on its training device.
        shape: image shape (c, h, w).
        precision: of the recipe.
    """
    for name, module in model.named_modules():
        if (rate := _rate(module)) is not None:
            return (
                f"layer {name or 'root'} ({type(module).__name__}, {rate}) draws random numbers in training"
            )
    copied = copy.deepcopy(model)
    first = initial_state(copied, ("momentum",))
    states = [first, TrainState({n: 0.9 * t for n, t in first.params.items()}, first.buffers, first.slots)]
    one_by_one = _step("reference", copied, states, shape, precision)
    try:
        together = _step("stacked", copied, states, shape, precision)
    except Exception as error:  # vmap may raise anything in a network's code
        return f"it does not run stacked: {describe(error)}"
    for expected, found in zip(one_by_one.states, together.states, strict=True):
        # after one step from rest the momentum is the gradient
        if _distance(found.slots["momentum"], expected.slots["momentum"]) > TOLERANCE[precision]:
            return "its gradients differ when it runs stacked"
        for name, value in expected.buffers.items():
            if _distance({name: found.buffers[name]}, {name: value}) > TOLERANCE[precision]:
                return f"buffer {name} is not updated alike when it runs stacked"
    return None


def try_step(
    engine: EngineName, model: nn.Module, shape: tuple[int, int, int], precision: str = "fp32"
) -> None:
    """Take a training step of two members on a copy of `model`, which is not modified."""
    copied = copy.deepcopy(model)
    _step(engine, copied, [initial_state(copied, ("momentum",))] * 2, shape, precision)


def _rate(module: nn.Module) -> str | None:
    """Return a layer's rate of random draws as text; None if it draws nothing."""
    if isinstance(module, nn.RReLU | nn.FractionalMaxPool2d):
        return "always"
    for name in PROBABILITIES:
        value = getattr(module, name, None)
        named_so = name != "p" or "drop" in type(module).__name__.lower()
        if named_so and isinstance(value, float | int) and value > 0:
            return f"{name}={value}"
    return None


def _step(
    engine: Any,
    model: nn.Module,
    states: Sequence[TrainState],
    shape: tuple[int, int, int],
    precision: str = "fp32",
) -> Advanced:
    some = next(iter(states[0].params.values()))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *shape, generator=generator).to(some)
    labels = torch.arange(BATCH, device=some.device) % 2

    def feed(members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(start, stop):
            yield images.expand(len(members), *images.shape), labels.expand(len(members), BATCH)

    recipe = STEP.model_copy(update={"precision": precision})
    return advance(engine, model, states, feed, recipe, [1, 1], [0, 0], 0, 1)


def _distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference relative to the expected norm, over all tensors."""
    apart = sum(float((found[n].double() - t.double()).square().sum()) for n, t in expected.items())
    size = sum(float(t.double().square().sum()) for t in expected.values())
    return math.sqrt(apart / max(size, 1e-30))
