"""What training costs, in floating point operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lmcbench.spec.recipe import Recipe
from lmcbench.train.engines import BatchSource, advance
from lmcbench.train.train_state import TrainState


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


SHARE = 0.8
"""Of a device's whole memory, for a fleet: the rest is the libraries' and fragmentation's. Not of what
happens to be free, so that one kind of device always gets the same chunks. Unmeasured."""


def device_budget(device: torch.device) -> int | None:
    """Bytes a fleet may fill besides what is there already; None on a CPU, where nothing is set."""
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return int(SHARE * total) - torch.cuda.memory_allocated(device)


def fleet_limit(
    model: nn.Module, state: TrainState, feed: BatchSource, recipe: Recipe, budget: int | None
) -> int | None:
    """The most members whose stacked steps stay within `budget` bytes, at least one; None without a budget.

    Memory grows linearly with members, so that two small fleets tell the slope.
    """
    if budget is None:
        return None
    device = next(model.parameters()).device

    def first(members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        return feed([0] * len(members), start, stop)

    def used(members: int) -> int:
        def step() -> None:
            same = [state] * members
            advance("stacked", model, same, first, recipe, [2] * members, [0] * members, 0, 1)

        return peak_bytes(device, step)

    used(2)  # what is allocated once, at first use
    two, four = used(2), used(4)
    own = sum(t.nbytes for t in [*state.params.values(), *state.buffers.values()])
    own += sum(t.nbytes for slot in state.slots.values() for t in slot.values())
    slope = max((four - two) // 2, 1) + own  # each member's state is also kept outside of the pass
    fixed = max(two - 2 * slope, 0)
    return max((budget - fixed) // slope, 1)


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
    """The most bytes that `work` holds at once, by the device's or the CPU's own allocator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None
    events = watched.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
