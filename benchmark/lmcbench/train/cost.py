"""What training costs: floating point operations and device memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lmcbench.spec.recipe import Recipe
from lmcbench.train.engines import BatchSource, advance
from lmcbench.train.train_state import TrainState, named_tensors


class _FlopCounter(TorchDispatchMode):
    """Sum torch's own FLOP formulas over the operators that run.

    `FlopCounterMode` does the same, but imports the compiler on its way (torch._dynamo, one to two seconds).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports torch._dynamo

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, or the operators that it consists of, and add its FLOPs."""
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        self.total += int(formula(*args, **kwargs, out_val=out))
        return out


def step_flop(model: nn.Module, shape: tuple[int, int, int], batch_size: int) -> int:
    """Return the FLOPs of one training step of one network (matrix products, convolutions, attention).

    They are counted on a copy; `model` and the global generators are not modified.
    """
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, *shape, device=device)
    copied = copy.deepcopy(model).train()
    counter = _FlopCounter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), counter:
        copied(images).logsumexp(-1).sum().backward()
    return counter.total


MEMORY_SHARE = 0.8
"""Share of a device's total memory that all processes may fill; libraries and fragmentation take the rest. It
is a share of the total, not of the free memory, so that a kind of device always gets the same chunks."""


def device_budget(device: torch.device, resident: int, share: float) -> int:
    """Return the bytes that a fleet may take on a CUDA device, whatever this process did before.

    Args:
        device: where to train.
        resident: bytes that training needs beside the fleet: images and network.
        share: share of the device that this process may use, more than 0 and at most 1.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    return int(MEMORY_SHARE * total * share) - resident


def resident_bytes(model: nn.Module, images: Iterable[object]) -> int:
    """Return the bytes of a network and of the tensors that are attributes of `images`, once each."""
    parts = [part for each in images for part in vars(each).values()]
    tensors = [*parts, *named_tensors(model).values()]
    return sum({id(t): t.nbytes for t in tensors if isinstance(t, Tensor)}.values())


@dataclass(frozen=True)
class FleetMemory:
    """Bytes of a stacked pass.

    Attributes:
        fixed: whatever the number of members.
        member: for each member of the pass: activations, gradients, a copy of its state.
        state: for each member of the fleet, also of those in other passes: weights, buffers, optimizer state.
    """

    fixed: int
    member: int
    state: int

    def limit(self, budget: int, members: int) -> int:
        """Return how many of `members` fit into one pass within `budget` bytes, at least one.

        All members are on the device, with their states before and after.
        """
        return max((budget - self.fixed - 2 * members * self.state) // self.member, 1)


def fleet_memory(model: nn.Module, state: TrainState, feed: BatchSource, recipe: Recipe) -> FleetMemory:
    """Measure the memory of stacked steps: fleets of two and four give the slope."""
    device = next(model.parameters()).device

    def repeat_first(members: Sequence[int], start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        return feed([0] * len(members), start, stop)

    def used(members: int) -> int:
        def step() -> None:
            same = [state] * members
            advance("stacked", model, same, repeat_first, recipe, [2] * members, [0] * members, 0, 1)

        return peak_bytes(device, step)

    used(2)  # warm-up: libraries allocate at first use
    two, four = used(2), used(4)
    own = sum(t.nbytes for t in [*state.params.values(), *state.buffers.values()])
    own += sum(t.nbytes for slot in state.slots.values() for t in slot.values())
    slope = max((four - two) // 2, 1)
    return FleetMemory(max(two - 2 * slope, 0), slope, own)


_earlier_peaks: dict[int, int] = {}


def peak_allocated(device: torch.device) -> int:
    """Return the most bytes that this process had allocated on a CUDA device, also before `peak_bytes`."""
    return max(torch.cuda.max_memory_allocated(device), _earlier_peaks.get(device.index or 0, 0))


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
    """Return the peak of bytes that `work` allocates, as reported by the device's or the CPU's allocator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        _earlier_peaks[device.index or 0] = peak_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None
    events = watched.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak
