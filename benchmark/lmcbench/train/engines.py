"""Engines: advance a fleet, one network after another (`reference`, `channels-last`) or at once (`stacked`).

All map training states to training states; they differ in speed and in the last bits. `channels-last` is
`reference` on images in that memory layout: weights, gradients and optimizer state stay contiguous, so that a
state has the same bits from a file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lmcbench.errors import is_out_of_memory, may_be_out_of_memory
from lmcbench.memory_layout import Layout, to_layout, wide_contiguous
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.spec.seeds import random_words
from lmcbench.train.fused import fused
from lmcbench.train.optimizer import update
from lmcbench.train.train_state import Tensors, TrainState, named_tensors


class BatchSource(Protocol):
    """Batches of some members for steps start..stop-1: images `[N, B, c, h, w]`, labels `[N, B]`."""

    def __call__(self, members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one batch per step."""
        ...


@dataclass(frozen=True)
class Advanced:
    """A fleet after some steps.

    Attributes:
        states: one per member.
        losses: mini-batch losses in nats (label smoothing included), `[N, steps]` on the CPU.
        fleet: the largest number of members in one pass.
        limit: the maximum for the next call: as given, or less after running out of memory.
    """

    states: list[TrainState]
    losses: Tensor
    fleet: int
    limit: int | None


def advance(
    engine: EngineName,
    model: nn.Module,
    states: Sequence[TrainState],
    feed: BatchSource,
    recipe: Recipe,
    lengths: Sequence[int],
    layer_seeds: Sequence[int],
    start: int,
    stop: int,
    limit: int | None = None,
    rates: Sequence[float] | None = None,
) -> Advanced:
    """Train each of `states` from step `start` to `stop` of its training.

    A stacked fleet larger than `limit` is advanced in chunks, each over all steps. If memory runs out, the
    chunk is halved and restarted; after an error that memory may have caused, once.

    Args:
        engine: the engine; see `choose_engine` for the committed choice.
        model: the network, on the states' device; its own weights are overwritten.
        states: one per member; not modified.
        feed: batches by member number.
        recipe: optimizer, schedule, precision and so on.
        lengths: length T of each member's schedule, in steps.
        layer_seeds: one per member, for dropout and other random layers; keyed by the step.
        start: first step, counted from the beginning of training.
        stop: one past the last step.
        limit: maximum number of members in one pass; None: all.
        rates: peak learning rate of each member; None: the recipe's.
    """
    recipes = [recipe] * len(states)
    if rates is not None:
        recipes = [recipe.model_copy(update={"lr": lr}) for lr in rates]
    if start == stop:
        return Advanced([state.copy() for state in states], torch.zeros(len(states), 0), 0, limit)
    run = _stacked if engine == "stacked" else partial(_one_by_one, engine)
    device = next(model.parameters()).device
    trained: list[TrainState] = []
    losses: list[Tensor] = []
    fleet, has_guessed = 0, False
    if engine != "stacked":
        limit = 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while len(trained) < len(states):
            chunk = _next_chunk(len(trained), len(states), limit)
            try:
                done = run(model, states, chunk, feed, recipes, lengths, layer_seeds, start, stop)
            except (RuntimeError, MemoryError) as error:
                guess = not has_guessed and may_be_out_of_memory(error)
                if len(chunk) == 1 or not (guess or is_out_of_memory(error)):
                    raise
                has_guessed |= guess
                done = None
            if done is None:  # outside the handler, because the error keeps the pass's tensors alive
                limit = math.ceil(len(chunk) / 2)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            trained += done[0]
            losses.append(done[1])
            fleet = max(fleet, len(chunk))
    return Advanced(trained, torch.cat(losses).float().cpu(), fleet, limit)


def _next_chunk(first: int, count: int, limit: int | None) -> range:
    """Return the next members to advance together: the rest in equal chunks of at most `limit`."""
    left = count - first
    parts = 1 if limit is None else math.ceil(left / limit)
    return range(first, first + math.ceil(left / parts))


# --- one network after another -------------------------------------------------------------------


def _one_by_one(
    engine: EngineName,
    model: nn.Module,
    states: Sequence[TrainState],
    chunk: range,
    feed: BatchSource,
    recipes: Sequence[Recipe],
    lengths: Sequence[int],
    layer_seeds: Sequence[int],
    start: int,
    stop: int,
) -> tuple[list[TrainState], Tensor]:
    """Train the only member of `chunk`, with the model itself."""
    (member,) = chunk
    recipe = recipes[member]
    layout: Layout = "channels-last" if engine == "channels-last" else "contiguous"
    context = wide_contiguous(model) if layout == "channels-last" else nullcontext()
    model.train()
    own = named_tensors(model)
    slots = states[member].copy().slots
    with torch.no_grad():
        for name, value in (states[member].params | states[member].buffers).items():
            own[name].copy_(value)
    params = {name: own[name] for name in states[member].params}
    history = []
    for step, (images, labels) in zip(range(start, stop), feed([member], start, stop), strict=True):
        _rekey(layer_seeds[member], step, images.device)
        with context:
            loss = _loss(recipe, model, to_layout(images[0], layout), labels[0])
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            update(recipe, params, grads, slots, recipe.lr_at(step, lengths[member]), step)
        history.append(loss.detach())
    own = named_tensors(model)  # again, because a layer may have replaced its buffers
    buffers = {name: own[name] for name in states[member].buffers}
    trained = TrainState(params, buffers, slots).map(lambda t: t.detach().clone())
    return [trained], torch.stack(history)[None]


def _rekey(seed: int, step: int, device: torch.device) -> None:
    """Seed the global generators, which random layers use, with a word of (seed, step)."""
    word = int(random_words(seed, step, 1)[0]) >> 1
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.manual_seed(word)


# --- stacked: all networks at once ---------------------------------------------------------------


def _stacked(
    model: nn.Module,
    states: Sequence[TrainState],
    chunk: range,
    feed: BatchSource,
    recipes: Sequence[Recipe],
    lengths: Sequence[int],
    layer_seeds: Sequence[int],
    start: int,
    stop: int,
) -> tuple[list[TrainState], Tensor]:
    """Train the members of `chunk` by one vmapped forward and backward pass per step.

    On a CPU a single member is run as two copies. In fleets of two or more, a member's bits depend neither on
    the number of members nor on its position (tested for the networks in `STACKED`), so that a run made
    in pieces equals a run made at once. A fleet of one would use other kernels. On CUDA the kernels, and with
    them the last bits, may depend on the number of members.
    """
    model.train()
    recipe = recipes[chunk[0]]  # they differ in the learning rate only
    device = next(model.parameters()).device
    twice = len(chunk) == 1 and device.type == "cpu"
    members = [*chunk, *chunk] if twice else list(chunk)
    stacked = _stack([states[m] for m in members], model.state_dict().keys())
    # non-persistent buffers are shared constants; `reason_not_stackable` excludes networks that change them
    unsaved = {n: t.clone() for n, t in states[chunk[0]].buffers.items() if n not in stacked.buffers}

    def loss_of(params: Tensors, buffers: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        def network(batch: Tensor) -> Any:
            return functional_call(model, (params, {**buffers, **unsaved}), (batch,))

        return _loss(recipe, network, images, labels)

    losses_of = vmap(loss_of)
    schedules = [[recipes[m].lr_at(step, lengths[m]) for m in members] for step in range(start, stop)]
    rates = torch.tensor(schedules, dtype=next(iter(stacked.params.values())).dtype, device=device)
    weights = [w.requires_grad_() for w in stacked.params.values()]
    history = []
    for step, (images, labels) in zip(range(start, stop), feed(members, start, stop), strict=True):
        with warnings.catch_warnings(), fused():
            # an operator without a batching rule runs once per member: slower, same result
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # augmented images have their channels last
            loss = losses_of(stacked.params, stacked.buffers, images.contiguous(), labels)
        # one backward pass over all members, whose losses are independent; torch imports sympy where it is
        # given gradients of the losses
        grads = torch.autograd.grad(loss.sum(), weights, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            update(recipe, stacked.params, grads, stacked.slots, rates[step - start], step)
        history.append(loss.detach())
    trained = [_member(stacked, unsaved, m) for m in range(len(chunk))]
    return trained, torch.stack(history, dim=1)[: len(chunk)]


def _stack(states: Sequence[TrainState], saved: Collection[str]) -> TrainState:
    """Stack states along a new first axis, without the buffers that are not in `saved`."""

    def join(parts: Sequence[Tensors]) -> Tensors:
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    buffers = [{n: t for n, t in s.buffers.items() if n in saved} for s in states]
    slots = {slot: join([s.slots[slot] for s in states]) for slot in states[0].slots}
    return TrainState(join([s.params for s in states]), join(buffers), slots)


def _member(stacked: TrainState, unsaved: Tensors, index: int) -> TrainState:
    own = stacked.map(lambda t: t[index].detach().clone())
    kept = {name: t.clone() for name, t in unsaved.items()}
    return TrainState(own.params, own.buffers | kept, own.slots)


# --- shared --------------------------------------------------------------------------------------


def _loss(recipe: Recipe, network: Callable[[Tensor], Any], images: Tensor, labels: Tensor) -> Tensor:
    """Return the mini-batch loss in nats; bf16 precision autocasts the forward pass, weights stay fp32."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        return F.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
