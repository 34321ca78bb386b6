"""Device memory of fleets: linear in members, limited by a budget, halved when exhausted."""

from __future__ import annotations

import pytest
import torch

from fleets import RECIPE, fresh, train
from lmcbench.errors import is_out_of_memory
from lmcbench.spec.recipe import Recipe
from lmcbench.train import cost
from lmcbench.train.cost import device_budget, fleet_memory, peak_allocated, peak_bytes
from pretended import pretended_cuda

CPU = torch.device("cpu")


class Cramped:
    """Batches of a device with memory for at most `room` members."""

    def __init__(self, feed, room, error):
        self.feed, self.room, self.error, self.asked = feed, room, error, []

    def __call__(self, members, start, stop):
        self.asked.append(len(members))
        for step, batch in enumerate(self.feed(members, start, stop)):
            if step == 2 and len(members) > self.room:
                raise self.error
            yield batch


def assert_same(a, b):
    for x, y in zip(a.states, b.states, strict=True):
        for part in ("params", "buffers"):
            for name, value in getattr(x, part).items():
                assert torch.equal(value, getattr(y, part)[name]), name
    assert torch.equal(a.losses, b.losses)


@pytest.mark.parametrize("kind", ["mlp", "batchnorm resnet", "norm-free cnn"])
def test_bits_do_not_depend_on_chunks(kind):
    model, states, feed = fresh(kind, list(range(7)))
    whole = train("stacked", model, states, feed, 5)
    assert (whole.fleet, whole.limit) == (7, None)
    for limit, largest in ((3, 3), (4, 4), (1, 1), (50, 7)):
        parts = train("stacked", model, states, feed, 5, limit=limit)
        assert (parts.fleet, parts.limit) == (largest, limit)
        assert_same(whole, parts)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_fleet_and_training_continues(error):
    model, states, feed = fresh("batchnorm resnet", list(range(8)))
    whole = train("stacked", model, states, feed, 5)
    cramped = Cramped(feed, 3, error)
    survived = train("stacked", model, states, cramped, 5)
    assert cramped.asked == [8, 4, 2, 2, 2, 2]
    assert (survived.fleet, survived.limit) == (2, 2)
    assert_same(whole, survived)


GUESSED = [
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", GUESSED)
def test_an_error_that_may_be_lack_of_memory_halves_the_fleet_once(error):
    model, states, feed = fresh("mlp", list(range(8)))
    whole = train("stacked", model, states, feed, 5)
    cramped = Cramped(feed, 4, error)
    survived = train("stacked", model, states, cramped, 5)
    assert cramped.asked == [8, 4, 4]
    assert_same(whole, survived)
    cramped = Cramped(feed, 3, error)
    with pytest.raises(RuntimeError, match=str(error)[:20]):
        train("stacked", model, states, cramped, 5)
    assert cramped.asked == [8, 4]
    assert not is_out_of_memory(error)


def test_other_errors_and_too_little_memory_for_one_network_are_raised():
    model, states, feed = fresh("mlp", [0, 1])
    with pytest.raises(RuntimeError, match="shapes"):
        train("stacked", model, states, Cramped(feed, 1, RuntimeError("shapes do not match")), 5)
    with pytest.raises(torch.OutOfMemoryError):
        train("stacked", model, states, Cramped(feed, 0, torch.OutOfMemoryError("out of memory")), 5)
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("kind", ["mlp", "batchnorm resnet", "norm-free cnn", "vit"])
def test_memory_is_linear_with_nearly_the_slope_of_one_network(kind):
    """By the CPU's allocator; the batch large enough that activations are what counts.

    From 16 members on: first convolutions of smaller fleets are padded to 16 input channels.
    """
    recipe = Recipe(lr=0.1, batch_size=64, epochs=1)
    model, states, feed = fresh(kind, list(range(32)), recipe=recipe)

    def peak(engine, members):
        return peak_bytes(CPU, lambda: train(engine, model, states[:members], feed, 2, recipe) and None)

    peak("stacked", 2)
    one = peak("reference", 1)
    few, some, many = (peak("stacked", n) for n in (16, 20, 32))
    assert (many - some) / 12 == pytest.approx((some - few) / 4, rel=0.05)
    assert (many - some) / 12 <= 1.3 * one


def test_limit_from_a_budget():
    model, states, feed = fresh("mlp", list(range(8)))
    memory = fleet_memory(model, states[0], feed, RECIPE)
    eight = peak_bytes(CPU, lambda: train("stacked", model, states, feed, 1) and None)
    own = sum(t.nbytes for t in [*states[0].params.values(), *states[0].slots["momentum"].values()])
    assert memory.state == own
    assert memory.limit(1, 8) == 1
    needed = eight + 16 * own  # states before and after
    assert memory.limit(needed, 8) == pytest.approx(8, abs=1)
    # states of the members in other passes are on the device too
    assert memory.limit(needed + 80 * own, 48) == memory.limit(needed, 8)
    assert memory.limit(needed, 48) < memory.limit(needed, 8)


def test_the_budget_is_independent_of_what_is_allocated_and_shared_among_jobs():
    cuda = torch.device("cuda", 0)
    with pretended_cuda(total_memory=10**9) as labels:
        alone = device_budget(cuda, 10**8, 1)
        labels.allocated = 5 * 10**8
        assert device_budget(cuda, 10**8, 1) == alone == 7 * 10**8
        assert device_budget(cuda, 10**8, 1 / 4) == 10**8


def test_the_peak_that_records_report_survives_a_measurement(monkeypatch):
    monkeypatch.setattr(cost, "_earlier_peaks", {})
    cuda = torch.device("cuda", 0)
    with pretended_cuda() as labels:
        labels.peak = 2**40
        peak_bytes(cuda, lambda: None)
        assert labels.peak < 2**30
        assert peak_allocated(cuda) >= 2**40
