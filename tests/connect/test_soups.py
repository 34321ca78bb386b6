"""Soups and recalibration against direct computations."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import lmcbench
from lmcbench import UserError
from lmcbench.connect.soups import greedy_soup


def test_a_soup_is_the_weighted_mean_of_every_floating_tensor(nets):
    a, b = (nets.build("resnet", 1).state_dict(), nets.build("resnet", 2).state_dict())
    mixed = lmcbench.soup([a, b, b], weights=[2, 1, 1])
    for name, value in a.items():
        if value.is_floating_point():
            torch.testing.assert_close(mixed[name], (value + b[name]) / 2)
        else:
            assert torch.equal(mixed[name], b[name])
    half = lmcbench.interpolate(a, b, 0.5)
    uniform = lmcbench.soup([a, b])
    assert all(torch.equal(uniform[name], half[name]) for name in half)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_equal_weights_are_no_weights_for_every_type(dtype, n):
    generator = torch.Generator().manual_seed(n)
    states = [
        {
            "w": torch.randn(7, generator=generator, dtype=torch.float64).to(dtype),
            "n.num_batches_tracked": torch.tensor(i),
        }
        for i in range(n)
    ]
    plain, weighted = lmcbench.soup(states), lmcbench.soup(states, weights=[0.1] * n)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    mean = sum(state["w"].to(wide) for state in states) / n
    for found in (plain, weighted):
        assert found["w"].dtype == dtype
        assert found["n.num_batches_tracked"] == n - 1
        torch.testing.assert_close(found["w"].to(wide), mean, rtol=0, atol=8 * torch.finfo(dtype).eps)
        found["w"].zero_()  # shares no memory
    assert torch.equal(plain["w"], weighted["w"])
    assert all(state["w"].abs().sum() > 0 for state in states)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")], "ab", [None, {}]])
def test_other_weights_are_refused(nets, weights):
    with pytest.raises(UserError, match="weights must be one finite number"):
        lmcbench.soup((nets.build("mlp", 1).state_dict(), nets.build("mlp", 2).state_dict()), weights)


def test_recalibration_takes_the_statistics_of_the_images(nets):
    """As training mode computes them in one pass, with momentum 1."""
    model, (x, _) = nets.build("resnet"), nets.images(30)
    state = nets.build("resnet", 1).state_dict()
    found = lmcbench.recalibrate(model, state, x)
    model.load_state_dict(state)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(x)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        elif not name.endswith("tracked"):
            assert torch.equal(found[name], value)
    with pytest.raises(UserError, match="at least two images"):
        lmcbench.recalibrate(nets.build("resnet"), state, x[:1])


def naive_greedy(accuracies, accuracy_of):
    """Recipe 1 of Wortsman et al. (2022), as it is written there."""
    ranked = sorted(range(len(accuracies)), key=lambda i: accuracies[i], reverse=True)
    ingredients = []
    for i in ranked:
        before = accuracy_of(frozenset(ingredients)) if ingredients else -1.0
        if accuracy_of(frozenset([*ingredients, i])) >= before:
            ingredients.append(i)
    return ingredients


def test_the_greedy_soup_equals_a_naive_implementation():
    draw = random.Random(0)
    for _ in range(50):
        sets = [frozenset(s) for r in range(1, 6) for s in itertools.combinations(range(5), r)]
        table = {s: draw.randrange(6) / 5 for s in sets}
        alone = [table[frozenset([i])] for i in range(5)]
        members = greedy_soup(alone, lambda members, table=table: table[frozenset(members)])
        assert members == naive_greedy(alone, table.__getitem__)
