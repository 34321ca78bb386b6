"""SGD and AdamW as functions on the tensors of one network, or of a fleet stacked along the first axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmcbench.spec.recipe import Recipe
from lmcbench.train.train_state import Tensors

Slots = dict[str, list[Tensor]]
"""Slot name -> its tensors in the order of the parameters."""


def slot_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the optimizer's state tensors, each one per parameter; all start at zero."""
    if recipe.optimizer == "adamw":
        return ("first", "second")
    return ("momentum",) if recipe.momentum else ()


def update(
    recipe: Recipe,
    params: Tensors,
    grads: Sequence[Tensor],
    slots: dict[str, Tensors],
    lr: float | Tensor,
    step: int,
) -> None:
    """Take one optimizer step in place; `grads` are in the order of `params`, `step` counts from 0.

    The formulas and their order are torch.optim's: SGD with (Nesterov) momentum and coupled weight decay,
    AdamW with decoupled decay (Loshchilov and Hutter, 2019, arXiv 1711.05101). If `lr` is a tensor `[N]`, one
    rate per network, every tensor has a fleet of N along its first axis.
    """
    weights = list(params.values())
    gradients = list(grads)
    state = {slot: [tensors[name] for name in params] for slot, tensors in slots.items()}
    stacked = isinstance(lr, Tensor)
    if recipe.clip_norm is not None:
        gradients = _clip(gradients, recipe.clip_norm, stacked)
    decayed = [i for i, w in enumerate(weights) if recipe.decay_vectors or w.ndim - stacked >= 2]
    if recipe.optimizer == "adamw":
        _adamw(recipe, weights, gradients, state, lr, step, decayed)
    else:
        _sgd(recipe, weights, gradients, state, lr, decayed)


def _sgd(
    recipe: Recipe,
    weights: list[Tensor],
    gradients: list[Tensor],
    state: Slots,
    lr: float | Tensor,
    decayed: list[int],
) -> None:
    if recipe.weight_decay:
        for i in decayed:
            gradients[i] = gradients[i].add(weights[i], alpha=recipe.weight_decay)
    if recipe.momentum:
        momentum = state["momentum"]
        torch._foreach_mul_(momentum, recipe.momentum)
        torch._foreach_add_(momentum, gradients)
        gradients = (
            list(torch._foreach_add(gradients, momentum, alpha=recipe.momentum))
            if recipe.nesterov
            else momentum
        )
    if isinstance(lr, Tensor):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.addcmul_(gradient, _per_network(lr, weight), value=-1)
    else:
        torch._foreach_add_(weights, gradients, alpha=-lr)


def _adamw(
    recipe: Recipe,
    weights: list[Tensor],
    gradients: list[Tensor],
    state: Slots,
    lr: float | Tensor,
    step: int,
    decayed: list[int],
) -> None:
    first, second = state["first"], state["second"]
    beta1, beta2 = recipe.betas
    if recipe.weight_decay:
        kept = 1 - lr * recipe.weight_decay
        for i in decayed:
            weights[i].mul_(_per_network(kept, weights[i]) if isinstance(kept, Tensor) else kept)
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, (1 - beta2 ** (step + 1)) ** 0.5)
    torch._foreach_add_(scale, recipe.eps)
    rate = lr / (1 - beta1 ** (step + 1))
    if isinstance(rate, Tensor):
        torch._foreach_reciprocal_(scale)
        torch._foreach_mul_(scale, first)
        torch._foreach_sub_(weights, [change * _per_network(rate, change) for change in scale])
    else:
        torch._foreach_addcdiv_(weights, first, scale, -rate)


def _per_network(rates: Tensor, like: Tensor) -> Tensor:
    """Reshape one rate per network, `[N]`, to broadcast over the fleet's tensor."""
    return rates.view(-1, *[1] * (like.ndim - 1))


def _clip(gradients: list[Tensor], limit: float, stacked: bool) -> list[Tensor]:
    """Scale gradients down if their joint norm exceeds `limit`, for each network of a fleet separately."""
    start = 1 if stacked else 0
    squares = [g.flatten(start).square().sum(-1) for g in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    return [g * factor.view(-1, *[1] * (g.ndim - 1)) if stacked else g * factor for g in gradients]
