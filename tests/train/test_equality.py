"""The stacked engine computes what the reference does, for every kind of network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from fleets import KINDS, RECIPE, distance, fresh, size, train
from lmcbench.spec.recipe import Recipe
from lmcbench.train import fused

SLOW = {"batchnorm resnet", "vit", "layernorm convnext", "norm-free resnet"}
STEPS = [
    *((kind, 10 if kind in SLOW else 50) for kind in KINDS),
    *(pytest.param(kind, 50, marks=pytest.mark.slow_tier) for kind in sorted(SLOW)),
]


@pytest.mark.parametrize(("kind", "steps"), STEPS)
def test_in_double_precision_to_the_tenth_decimal(kind, steps):
    """Each tensor within 1e-10; the same batches; whatever the order in the fleet."""
    model, states, feed = fresh(kind, [1, 2], torch.float64)
    reference = train("reference", model, states, feed, steps)
    seen = dict(feed.given)
    feed.given.clear()
    stacked = train("stacked", model, states, feed, steps)
    assert seen == feed.given
    assert len(seen) == 2 * steps
    _, swapped, others = fresh(kind, [2, 1], torch.float64)
    swapped = train("stacked", model, swapped, others, steps)
    for i in range(2):
        for found in (stacked.states[i], swapped.states[1 - i]):
            for name, value in (reference.states[i].params | reference.states[i].buffers).items():
                other = (found.params | found.buffers)[name]
                assert (value - other).abs().max() <= 1e-10, name
    assert (reference.losses - stacked.losses).abs().max() < 1e-6  # losses are kept in fp32
    assert (reference.losses[:, 0] - reference.losses[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_single_precision(kind):
    """Within 1e-5 relative at a common state: after one step from rest the momentum is the gradient."""
    plain = Recipe(lr=0.1, batch_size=8, epochs=1)
    model, states, feed = fresh(kind, [1, 2])
    one_by_one = train("reference", model, states, feed, 1, plain)
    together = train("stacked", model, states, feed, 1, plain)
    for a, b in zip(one_by_one.states, together.states, strict=True):
        gradient = a.slots["momentum"]
        assert distance(a, b, lambda s: s.slots["momentum"]) <= 1e-5 * size(gradient)


@pytest.mark.parametrize(("kind", "steps"), STEPS)
def test_in_single_precision_as_close_as_rounding_allows(kind, steps):
    """The difference is at most ten times that caused by 1e-7 in the initial weights."""
    model, states, feed = fresh(kind, [1, 2])
    generator = torch.Generator().manual_seed(0)

    def nudged(t):
        if not t.is_floating_point():
            return t
        return t * (1 + 1e-7 * torch.randn(t.shape, generator=generator).sign())

    reference = train("reference", model, states, feed, steps).states
    moved = train("reference", model, [s.map(nudged) for s in states], feed, steps).states
    stacked = train("stacked", model, states, feed, steps).states
    for a, b, c in zip(reference, moved, stacked, strict=True):
        assert distance(a, c) <= 10 * distance(a, b)
        assert distance(a, b) > 0


@pytest.mark.parametrize("engine", ["reference", "stacked"])
@pytest.mark.parametrize("kind", ["mlp", "batchnorm resnet", "norm-free cnn", "vit"])
def test_bf16_keeps_weights_in_fp32_and_stays_close(kind, engine):
    """Autocast in the forward pass only: losses near fp32's and not equal to them."""
    low = RECIPE.model_copy(update={"precision": "bf16"})
    model, states, feed = fresh(kind, [1, 2])
    exact = train(engine, model, states, feed, 10)
    found = train(engine, model, states, feed, 10, low)
    assert torch.allclose(exact.losses, found.losses, atol=0.1)
    assert not torch.equal(exact.losses, found.losses)
    for state in found.states:
        assert state.finite
        tensors = {**state.params, **state.slots["momentum"]}
        assert {t.dtype for t in tensors.values()} == {torch.float32}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_fleet_has_the_bits_of_torchs_own(smoothing, monkeypatch):
    recipe = RECIPE.model_copy(update={"label_smoothing": smoothing})
    model, states, feed = fresh("norm-free cnn", [1, 2, 3], recipe=recipe)
    ours = train("stacked", model, states, feed, 5, recipe)
    monkeypatch.delitem(fused.TABLE, F.cross_entropy)
    theirs = train("stacked", model, states, feed, 5, recipe)
    assert torch.equal(ours.losses, theirs.losses)
    for a, b in zip(ours.states, theirs.states, strict=True):
        assert all(torch.equal(t, b.params[name]) for name, t in a.params.items())


def test_bf16_in_both_engines_alike():
    low = RECIPE.model_copy(update={"precision": "bf16"})
    model, states, feed = fresh("batchnorm resnet", [1, 2])
    a = train("reference", model, states, feed, 1, low).states[0].slots["momentum"]
    b = train("stacked", model, states, feed, 1, low).states[0].slots["momentum"]
    apart = size({name: a[name] - b[name] for name in a})
    assert apart <= 0.15 * size(a)  # bf16 keeps 8 bits
