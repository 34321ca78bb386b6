"""Operators that a training step launches, and its compilation as one graph."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from fleets import KINDS, RECIPE, fresh, train
from lmcbench.spec.architectures import Architecture
from lmcbench.train import stackability
from lmcbench.train.choice import choose_engine
from lmcbench.train.engines import _loss, advance


class Counter(TorchDispatchMode):
    """Count the operators that run, except views, which launch no kernel."""

    def __init__(self):
        super().__init__()
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls):
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operators(engine, kind):
    """Operators of one further step."""
    counts = []
    for steps in (2, 3):
        model, states, feed = fresh(kind, [0, 1])
        members = states if engine == "stacked" else states[:1]
        batches = {(n, s): next(iter(feed(range(n), s, s + 1))) for n in (1, 2) for s in range(steps)}

        def stored(chosen, start, stop, batches=batches):
            return (batches[len(chosen), step] for step in range(start, stop))

        with Counter() as counter:
            train(engine, model, members, stored, steps)
        counts.append(counter.count)
    return counts[1] - counts[0]


MOST = {
    ("reference", "mlp"): 37,
    ("stacked", "mlp"): 68,
    ("reference", "batchnorm resnet"): 117,
    ("stacked", "batchnorm resnet"): 163,
    ("reference", "vit"): 123,
    ("stacked", "vit"): 242,
}
"""Operators a step, measured with torch 2.15 (2026-11-29): each is a launch on a GPU."""


@pytest.mark.parametrize(("engine", "kind"), MOST)
def test_a_step_launches_no_more_operators_than_measured(engine, kind):
    found = operators(engine, kind)
    assert 0 < found <= 1.05 * MOST[engine, kind]


def stacked_loss(kind):
    """The loss of a fleet of two as a function of its weights, with a batch."""
    model, states, feed = fresh(kind, [0, 1])
    model.train()

    def joined(part):
        return {name: torch.stack([part(s)[name] for s in states]) for name in part(states[0])}

    def loss(params, buffers, images, labels):
        return _loss(RECIPE, lambda x: functional_call(model, (params, buffers), (x,)), images, labels)

    images, labels = next(iter(feed([0, 1], 0, 1)))
    return vmap(loss), (joined(lambda s: s.params), joined(lambda s: s.buffers), images, labels)


def copied(tree):
    return torch.utils._pytree.tree_map(lambda t: t.clone(), tree)


@pytest.mark.slow_tier
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_fleet_compiles_whole_and_stays_the_same(kind):
    loss, given = stacked_loss(kind)
    expected = loss(*copied(given))
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="inductor")
    torch.testing.assert_close(compiled(*copied(given)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_trial_of_the_stacked_engine_uses_the_recipes_precision(precision, monkeypatch):
    asked = []

    def watched(engine, model, states, feed, recipe, *rest):
        asked.append((engine, recipe.precision))
        return advance(engine, model, states, feed, recipe, *rest)

    monkeypatch.setattr(stackability, "advance", watched)
    kind = "batchnorm resnet"
    architecture = Architecture(name="lmc_resnet", recipe="r")
    model, shape = fresh(kind, [0])[0], KINDS[kind][2]
    found = choose_engine(architecture, model, shape, "cpu", "stacked", precision)
    assert found == "stacked"
    assert asked == [("reference", precision), ("stacked", precision)]
