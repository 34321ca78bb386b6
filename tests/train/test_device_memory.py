"""Fleets fit memory: linear in members, split to a budget, halved where it runs out."""

from __future__ import annotations

import pytest
import torch

from fleets import RECIPE, fresh, train
from lmcbench.errors import is_out_of_memory
from lmcbench.spec.recipe import Recipe
from lmcbench.train.cost import fleet_limit, peak_bytes

CPU = torch.device("cpu")


class Cramped:
    """Batches from a device without room for more than `room` members at once."""

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
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_fleet_and_goes_on(error):
    model, states, feed = fresh("batchnorm resnet", list(range(8)))
    whole = train("stacked", model, states, feed, 5)
    cramped = Cramped(feed, 3, error)
    survived = train("stacked", model, states, cramped, 5)
    assert cramped.asked == [8, 4, 2, 2, 2, 2]
    assert (survived.fleet, survived.limit) == (2, 2)
    assert_same(whole, survived)


def test_other_errors_and_no_room_for_one_are_errors():
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
    model, states, feed = fresh("batchnorm resnet", list(range(8)))
    assert fleet_limit(model, states[0], feed, RECIPE, None) is None
    assert fleet_limit(model, states[0], feed, RECIPE, 1) == 1
    eight = peak_bytes(CPU, lambda: train("stacked", model, states, feed, 2) and None)
    own = sum(t.nbytes for t in [*states[0].params.values(), *states[0].slots["momentum"].values()])
    limit = fleet_limit(model, states[0], feed, RECIPE, eight + 8 * own)
    assert 6 <= limit <= 9  # on a CPU, padding of small fleets is no part of the slope
    assert fleet_limit(model, states[0], feed, RECIPE, 4 * (eight + 8 * own)) == pytest.approx(
        4 * limit, abs=4
    )
