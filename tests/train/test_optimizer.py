"""Our optimizers take torch.optim's steps."""

from __future__ import annotations

import pytest
import torch

from lmcbench.spec.recipe import Recipe
from lmcbench.train.optimizer import slot_names, update

CASES = {
    "plain": (Recipe(lr=0.1, momentum=0.0, batch_size=1, epochs=1), torch.optim.SGD, {"lr": 0.1}),
    "momentum": (
        Recipe(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=1, epochs=1),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    ),
    "nesterov": (
        Recipe(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=1, epochs=1),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "adamw": (
        Recipe(optimizer="adamw", lr=0.01, weight_decay=0.1, batch_size=1, epochs=1),
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stacked", [False, True])
def test_equals_torch(case, stacked):
    recipe, optimizer, settings = CASES[case]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shapes = {"weight": (3, 4, 5) if stacked else (4, 5), "bias": (3, 4) if stacked else (4,)}
    ours = {name: draw(*shape) for name, shape in shapes.items()}
    theirs = [p.clone().requires_grad_() for p in ours.values()]
    reference = optimizer(theirs, **settings)
    slots = {slot: {n: torch.zeros_like(p) for n, p in ours.items()} for slot in slot_names(recipe)}
    for step in range(20):
        grads = [draw(*p.shape) for p in ours.values()]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        reference.step()
        lr = torch.full((3,), recipe.lr, dtype=torch.float64) if stacked else recipe.lr
        update(recipe, ours, grads, slots, lr, step)
    for a, b in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-14)


def test_decay_can_spare_vectors_also_when_stacked():
    recipe = Recipe(lr=0.1, momentum=0.0, weight_decay=0.5, decay_vectors=False, batch_size=1, epochs=1)
    for stacked, shapes in ((False, [(2, 2), (2,)]), (True, [(3, 2, 2), (3, 2)])):
        lr = torch.full((3,), 0.1) if stacked else 0.1
        params = {str(i): torch.ones(shape) for i, shape in enumerate(shapes)}
        update(recipe, params, [torch.zeros(s) for s in shapes], {}, lr, 0)
        assert params["0"].unique().item() == pytest.approx(0.95)
        assert params["1"].unique().item() == 1.0


def test_clipping_is_each_networks_own():
    recipe = Recipe(lr=1.0, momentum=0.0, clip_norm=1.0, batch_size=1, epochs=1)
    weights, bias = torch.zeros(2, 3), torch.zeros(2, 1)
    params = {"weight": weights, "bias": bias}
    # network 0 has a gradient of norm 5, network 1 of norm 0.5
    grads = [torch.tensor([[3.0, 0, 0], [0.3, 0, 0]]), torch.tensor([[4.0], [0.4]])]
    update(recipe, params, grads, {}, torch.ones(2), 0)
    torch.testing.assert_close(
        torch.cat([weights, bias], 1).norm(dim=1), torch.tensor([1.0, 0.5]), rtol=1e-5, atol=0
    )
