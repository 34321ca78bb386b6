"""Fleets of small networks of every kind on synthetic images, for tests of the engines."""

from __future__ import annotations

import hashlib
import math

import torch

from lmcbench.spec.architectures import Architecture
from lmcbench.spec.recipe import Recipe
from lmcbench.train.build import build
from lmcbench.train.engines import advance
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import initial_state

LENGTH = 100
RECIPE = Recipe(lr=0.02, batch_size=8, epochs=1, weight_decay=1e-3)
KINDS = {
    "mlp": ("lmc_mlp", {"width": 32}, (1, 8, 8)),
    "batchnorm resnet": ("lmc_resnet", {"width": 4}, (1, 8, 8)),
    "norm-free cnn": ("lmc_cnn", {}, (1, 8, 8)),
    "vit": ("test_vit", {"patch_size": 8, "embed_dim": 32, "depth": 2}, (3, 16, 16)),
    "layernorm convnext": ("test_convnext", {"dims": (8, 8, 16, 16)}, (3, 32, 32)),
    "norm-free resnet": ("test_nfnet", {}, (3, 16, 16)),
}


class Batches:
    """Random batches by (member's seed, step); keeps a hash of what each member was given."""

    def __init__(self, seeds, shape, batch_size=RECIPE.batch_size, dtype=torch.float32):
        self.seeds, self.shape, self.batch_size, self.dtype = seeds, shape, batch_size, dtype
        self.given = {}

    def __call__(self, members, start, stop):
        for step in range(start, stop):
            batches = [self.batch(member, step) for member in members]
            yield torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])

    def batch(self, member, step):
        generator = torch.Generator().manual_seed(1000 * self.seeds[member] + step)
        images = torch.randn(self.batch_size, *self.shape, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 10, (self.batch_size,), generator=generator)
        self.given[member, step] = hashlib.sha256(
            images.numpy().tobytes() + labels.numpy().tobytes()
        ).digest()
        return images.to(self.dtype), labels


def fresh(kind, seeds, dtype=torch.float32, recipe=RECIPE):
    """A model, states and batches; members are what their seeds say."""
    name, kwargs, shape = KINDS[kind]
    architecture = Architecture(name=name, recipe="r", kwargs=kwargs)

    def network(seed):
        return build(architecture, shape, 10, seed).to(dtype)

    states = [initial_state(network(seed), slot_names(recipe)) for seed in seeds]
    return network(99), states, Batches(seeds, shape, recipe.batch_size, dtype)


def train(engine, model, states, feed, steps, recipe=RECIPE, **kwargs):
    n = len(states)
    return advance(engine, model, states, feed, recipe, [LENGTH] * n, [0] * n, 0, steps, **kwargs)


def distance(a, b, part=None):
    """Euclidean distance of two states over weights and statistics, or over the `part` picked."""

    def pick(state):
        return state.params | state.buffers if part is None else part(state)

    x, y = pick(a), pick(b)
    return math.sqrt(sum(float((x[n].double() - y[n].double()).square().sum()) for n in x))


def size(tensors):
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors.values()))
