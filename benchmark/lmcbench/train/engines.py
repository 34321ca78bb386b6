"""Engines: advance a fleet of networks in lock step, one after another or stacked.

Both take and return whole training states; they differ in speed and in the last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from lmcbench.spec.recipe import Recipe
from lmcbench.spec.seeds import random_words
from lmcbench.train.optimizer import update
from lmcbench.train.state import TrainState

EngineName = Literal["reference", "stacked"]


class BatchSource(Protocol):
    """Batches of some members for steps start..stop-1: images `[N, B, c, h, w]`, labels `[N, B]`."""

    def __call__(self, members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches, one a step."""
        ...


@dataclass(frozen=True)
class Advanced:
    """A fleet after some steps.

    Attributes:
        states: one per member.
        losses: mini-batch losses in nats (label smoothing included), `[N, steps]` on the CPU.
    """

    states: list[TrainState]
    losses: Tensor


def advance(
    engine: EngineName,
    model: nn.Module,
    states: Sequence[TrainState],
    feed: BatchSource,
    recipe: Recipe,
    length: int,
    layer_seeds: Sequence[int],
    start: int,
    stop: int,
) -> Advanced:
    """Train each of `states` from step `start` to `stop` of a training of `length` steps.

    Args:
        engine: which engine; `choose_engine` knows the committed choice.
        model: the network, on the states' device; its own weights are scratch.
        states: one per member; not changed.
        feed: batches by member number.
        recipe: everything else that changes weights.
        length: T in steps, which the schedule is stretched over.
        layer_seeds: one per member, for dropout and its kin; re-keyed every step.
        start: first step, counted from the beginning of training.
        stop: one past the last.
    """
    if start == stop:
        return Advanced([state.copy() for state in states], torch.zeros(len(states), 0))
    run = _stacked if engine == "stacked" else _reference
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return run(model, states, feed, recipe, length, layer_seeds, start, stop)


def takes_stacking(model: nn.Module) -> bool:
    """Whether no layer of `model` draws random numbers in training, so that it can run stacked."""

    def draws(module: nn.Module) -> bool:
        dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        return dropout or bool(getattr(module, "drop_prob", 0))

    return not any(draws(module) for module in model.modules())


# --- the reference: one network after another ----------------------------------------------------


def _reference(
    model: nn.Module,
    states: Sequence[TrainState],
    feed: BatchSource,
    recipe: Recipe,
    length: int,
    layer_seeds: Sequence[int],
    start: int,
    stop: int,
) -> Advanced:
    model.train()
    tensors = model.state_dict(keep_vars=True)
    params = {name: tensors[name] for name in states[0].params}
    buffers = {name: tensors[name] for name in states[0].buffers}
    trained, losses = [], []
    for member, state in enumerate(states):
        slots = state.copy().slots
        with torch.no_grad():
            for name, value in state.params.items():
                params[name].copy_(value)
            for name, value in state.buffers.items():
                buffers[name].copy_(value)
        history = []
        batches = feed([member], start, stop)
        for step, (images, labels) in zip(range(start, stop), batches, strict=True):
            _rekey(layer_seeds[member], step)
            with _precision(recipe, images):
                loss = _loss(recipe, model(images[0]), labels[0])
            grads = torch.autograd.grad(
                loss, list(params.values()), allow_unused=True, materialize_grads=True
            )
            with torch.no_grad():
                update(recipe, params, grads, slots, recipe.lr_at(step, length), step)
            history.append(loss.detach())
        result = TrainState(params, buffers, slots)
        trained.append(result.map(lambda t: t.detach().clone()))
        losses.append(torch.stack(history))
    return Advanced(trained, torch.stack(losses).float().cpu())


def _rekey(seed: int, step: int) -> None:
    """Seed the global generators, for layers that know no other, with a word of (seed, step)."""
    word = int(random_words(seed, step, 1)[0]) >> 1
    torch.default_generator.manual_seed(word)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(word)


# --- stacked: all networks at once ---------------------------------------------------------------


def _stacked(
    model: nn.Module,
    states: Sequence[TrainState],
    feed: BatchSource,
    recipe: Recipe,
    length: int,
    layer_seeds: Sequence[int],
    start: int,
    stop: int,
) -> Advanced:
    """All members through one vmapped forward and backward pass, the optimizer on stacked tensors.

    A lone member is run twice over: from two on, a member's bits do not depend on how many others
    there are nor on its place among them (tests hold this for the networks of the table), so that a
    run extended later equals one made at once. With one, other kernels are chosen.
    """
    model.train()
    members = list(range(len(states))) if len(states) > 1 else [0, 0]
    stacked = _stack([states[m] for m in members])

    def loss_of(params: Any, buffers: Any, images: Tensor, labels: Tensor) -> Tensor:
        return _loss(recipe, functional_call(model, (params, buffers), (images,)), labels)

    step_all = vmap(grad_and_value(loss_of))
    history = []
    for step, (images, labels) in zip(range(start, stop), feed(members, start, stop), strict=True):
        with _precision(recipe, images):
            grads, loss = step_all(stacked.params, stacked.buffers, images, labels)
        with torch.no_grad():
            lr = recipe.lr_at(step, length)
            update(recipe, stacked.params, list(grads.values()), stacked.slots, lr, step, stacked=True)
        history.append(loss.detach())
    losses = torch.stack(history, dim=1).float().cpu()
    return Advanced([_member(stacked, m) for m in range(len(states))], losses[: len(states)])


def _stack(states: Sequence[TrainState]) -> TrainState:
    def join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    slots = {slot: join([s.slots[slot] for s in states]) for slot in states[0].slots}
    return TrainState(join([s.params for s in states]), join([s.buffers for s in states]), slots)


def _member(stacked: TrainState, index: int) -> TrainState:
    return stacked.map(lambda t: t[index].clone())


# --- shared --------------------------------------------------------------------------------------


def _loss(recipe: Recipe, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)


def _precision(recipe: Recipe, images: Tensor) -> torch.autocast:
    return torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
