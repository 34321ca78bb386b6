"""Engines: forks copy everything, and the other members of a fleet do not change a network."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from lmcbench.data.batches import DeviceImages, Feed, make_stream
from lmcbench.data.open_dataset import open_dataset
from lmcbench.spec.architectures import Architecture, parse_architecture
from lmcbench.spec.recipe import Recipe
from lmcbench.train.build import build
from lmcbench.train.choice import STACKED, choose_engine, is_within
from lmcbench.train.engines import advance
from lmcbench.train.optimizer import slot_names
from lmcbench.train.train_state import initial_state, load_state, save_state, state_dict

ROOT = Path(__file__).parents[2]
DIGITS = open_dataset("digits")
CPU = torch.device("cpu")
NETWORKS = {
    "lmc_linear": {},
    "lmc_mlp": {"width": 32},
    "lmc_cnn": {"width": 8},
    "lmc_resnet": {"width": 8},
}
RECIPES = {
    "sgd": Recipe(lr=0.05, batch_size=32, epochs=2, weight_decay=1e-3, augmentation=("shift1",)),
    "nesterov": Recipe(lr=0.05, batch_size=32, epochs=2, nesterov=True, warmup_epochs=1.0, clip_norm=1.0),
    "adamw": Recipe(
        optimizer="adamw", lr=1e-3, batch_size=32, epochs=2, weight_decay=0.05, decay_vectors=False
    ),
}


ENTRIES = tomllib.loads((ROOT / "benchmark/entries/digits.toml").read_text(encoding="utf-8"))["entries"]
TIMM = {network.name: network for network in (parse_architecture(e["arch"], "r") for e in ENTRIES)}
"""timm's networks in the table, as the suite of digits and the leaderboard have them."""


def fleet(name, recipe, members, kwargs=None):
    """A model, states and a feed for members given as (init seed, order seed)."""
    architecture = Architecture(
        name=name,
        recipe="r",
        kwargs=NETWORKS.get(name, {}) if kwargs is None else kwargs,
        adapt=None if name in NETWORKS else TIMM[name].adapt,
    )
    items = torch.arange(len(DIGITS.train)).numpy()
    streams = [make_stream(items, items, "own", order, order + 1, recipe.batch_size) for _, order in members]
    pool = DeviceImages(DIGITS.train.images, DIGITS.train.labels, DIGITS.statistics, CPU)
    states = [
        initial_state(build(architecture, (1, 8, 8), 10, init), slot_names(recipe)) for init, _ in members
    ]
    model = build(architecture, (1, 8, 8), 10, 0)
    return model, states, Feed(pool, streams, recipe.augmentation)


def train(engine, name, recipe, members, start=0, stop=8, states=None, **kwargs):
    model, fresh, feed = fleet(name, recipe, members, **kwargs)
    chosen = fresh if states is None else states
    seeds = [order + 2 for _, order in members]
    lengths = [recipe.length(len(DIGITS.train))] * len(seeds)
    return advance(engine, model, chosen, feed, recipe, lengths, seeds, start, stop)


def tensors(state):
    yield from state.params.items()
    yield from state.buffers.items()
    for slot, values in state.slots.items():
        yield from ((f"{slot}/{name}", value) for name, value in values.items())


def assert_equal(a, b):
    for (name, x), (_, y) in zip(tensors(a), tensors(b), strict=True):
        assert torch.equal(x, y), name


def distance(a, b):
    return max((x - y).abs().max().item() for (_, x), (_, y) in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("engine", ["reference", "channels-last", "stacked"])
@pytest.mark.parametrize("name", NETWORKS)
def test_trunk_then_sibling_equals_one_run(name, engine, recipe, tmp_path):
    """A fork copies everything, also through a file."""
    whole = train(engine, name, RECIPES[recipe], [(1, 2), (3, 4)])
    trunk = train(engine, name, RECIPES[recipe], [(1, 2), (3, 4)], stop=3)
    save_state(trunk.states[0], tmp_path / "trunk")
    rest = train(
        engine,
        name,
        RECIPES[recipe],
        [(1, 2), (3, 4)],
        start=3,
        states=[load_state(tmp_path / "trunk"), trunk.states[1]],
    )
    for a, b in zip(whole.states, rest.states, strict=True):
        assert_equal(a, b)
    assert torch.equal(whole.losses, torch.cat([trunk.losses, rest.losses], 1))


@pytest.mark.parametrize("engine", ["reference", "channels-last"])
def test_the_layout_of_augmented_images_changes_no_bit(engine):
    """Augmentation returns images with their channels last, and a layer of one channel has both layouts."""
    shape, recipe = (3, 8, 8), Recipe(lr=0.05, batch_size=8, epochs=1, augmentation=("shift1",))
    pixels = torch.randint(0, 256, (64, *shape), generator=torch.Generator().manual_seed(0)).byte().numpy()
    items = torch.arange(64).numpy()
    pool = DeviceImages(pixels, items % 10, ([0.5] * 3, [0.2] * 3), CPU)
    streams = [make_stream(items, items, "own", 1, 2, recipe.batch_size)]
    feed = Feed(pool, streams, recipe.augmentation)
    images = next(feed([0], 0, 1))[0][0]
    assert not images.is_contiguous()
    assert images.is_contiguous(memory_format=torch.channels_last)
    architecture = Architecture(name="lmc_resnet", recipe="r", kwargs={"width": 4})
    state = initial_state(build(architecture, shape, 10, 0), slot_names(recipe))

    def contiguous(*steps):
        yield from ((images.contiguous(), labels) for images, labels in feed(*steps))

    found, expected = (
        advance(engine, build(architecture, shape, 10, 0), [state], batches, recipe, [8], [0], 0, 4)
        for batches in (feed, contiguous)
    )
    assert_equal(found.states[0], expected.states[0])
    assert torch.equal(found.losses, expected.losses)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_seeds_same_data_same_bits(name):
    """Oracle 1: two siblings with equal seeds and data are identical."""
    a, b, other = train("stacked", name, RECIPES["sgd"], [(1, 2), (1, 2), (1, 3)]).states
    assert_equal(a, b)
    assert distance(a, other) > 0


@pytest.mark.parametrize("name", ["lmc_cnn", "lmc_resnet"])
def test_bits_do_not_depend_on_the_kernel_that_a_fleet_size_selects(name):
    """oneDNN takes the kernel of a first layer (one input channel, with and without bias) by the fleet.

    A bias that is added within a convolution is where bits were seen to depend on it.
    """
    members = [(i, 10 + i) for i in range(41)]
    whole = train("stacked", name, RECIPES["sgd"], members, stop=1).states
    for count in (1, 2, 7, 8, 9, 15, 16, 17, 24, 40):
        fewer = train("stacked", name, RECIPES["sgd"], members[:count], stop=1).states
        assert_equal(whole[count - 1], fewer[-1])


STACKED_HERE = {name: limits for (name, device), limits in sorted(STACKED.items()) if device == "cpu"}


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [
        *((name, 32) for name in STACKED_HERE),
        *(
            pytest.param(name, most, marks=pytest.mark.slow_tier)
            for name, (_, most) in STACKED_HERE.items()
            if most > 32
        ),
    ],
)
def test_bits_do_not_depend_on_the_fleet(name, batch_size):
    """Neither the size of the fleet nor the place in it changes a network, at the largest batch too."""
    how = {"kwargs": {} if name in NETWORKS else TIMM[name].kwargs, "stop": 2}
    recipe = RECIPES["sgd"].model_copy(update={"batch_size": batch_size})
    members = [(i, 10 + i) for i in range(5)]
    together = train("stacked", name, recipe, members, **how).states
    alone = train("stacked", name, recipe, members[:1], **how).states
    pair = train("stacked", name, recipe, [members[3], members[0]], **how).states
    many = train("stacked", name, recipe, [*members[::-1], *members], **how).states
    assert_equal(together[0], alone[0])
    assert_equal(together[0], pair[1])
    assert_equal(together[3], pair[0])
    assert_equal(together[0], many[4])
    assert_equal(together[2], many[7])


@pytest.mark.parametrize(
    ("name", "kwargs", "pixels", "engine"),
    [
        ("lmc_mlp", {}, 8, "stacked"),
        ("lmc_mlp", {}, 28, "stacked"),
        ("lmc_mlp", {"width": 512}, 28, "reference"),
        ("lmc_cnn", {}, 8, "stacked"),
        ("lmc_cnn", {"width": 32}, 28, "channels-last"),
        ("lmc_resnet", {"stem_stride": 2}, 8, "stacked"),
        ("lmc_resnet", {"width": 4}, 28, "stacked"),
        ("lmc_resnet", {"width": 16, "blocks": 3}, 32, "channels-last"),
        ("lmc_lenet", {}, 28, "channels-last"),
    ],
)
def test_large_networks_are_not_stacked_on_a_cpu(name, kwargs, pixels, engine):
    """Where fleets leave the caches the reference was measured to be faster (benchmark/speed/NOTES.md)."""
    architecture = Architecture(name=name, recipe="r", kwargs=kwargs)
    shape = (1, pixels, pixels)
    model = build(architecture, shape, 10, 0)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    assert choose_engine(architecture, model, shape, "cpu") == engine
    assert choose_engine(architecture, model, shape, "cpu", batch_size=256) != "stacked"
    assert choose_engine(architecture, model, shape, "cpu", "stacked") == "stacked"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


RESULTS = sorted((ROOT / "benchmark/speed/results").glob("engines-*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_table_is_what_was_measured(path):
    """The stacked engine is not chosen where it was slower by 5 %, for any fleet of 8 or more."""
    device = "cpu" if path.stem.startswith("engines-cpu") else "cuda"
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        most = STACKED.get((row["name"], device))
        if row["why_not_stacked"] is not None or most is None:
            continue
        ratios = [
            seconds["one by one"] / seconds["stacked"]
            for members, seconds in row["fleets"].items()
            if int(members) >= 8
        ]
        if is_within(most, row["mflop"], row["batch_size"]):
            assert min(ratios) > 0.95, (row["name"], row["kwargs"], row["shape"], ratios)


def test_a_result_of_every_device_of_the_table_is_committed():
    assert {device for _, device in STACKED} <= {
        "cpu" if path.stem.startswith("engines-cpu") else "cuda" for path in RESULTS
    }


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_stacked_follows_reference(name, recipe):
    """To the last bits of fp32 over few steps; the same batches and schedule."""
    stacked = train("stacked", name, RECIPES[recipe], [(1, 2), (3, 4)], stop=6)
    reference = train("reference", name, RECIPES[recipe], [(1, 2), (3, 4)], stop=6)
    assert torch.allclose(stacked.losses, reference.losses, rtol=1e-3)
    for a, b in zip(stacked.states, reference.states, strict=True):
        assert distance(a, b) < 2e-3


class Dropped(nn.Module):
    """A network that draws random numbers in training."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 32)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.drop(self.body(x.flatten(1)).relu()))


def test_dropout_is_keyed_by_layer_seed_and_step():
    recipe = RECIPES["sgd"]
    torch.manual_seed(0)
    model = Dropped()
    assert choose_engine(Architecture(name="lmc_mlp", recipe="r"), model, (1, 8, 8), "cpu") == "reference"
    state = initial_state(model, slot_names(recipe))
    _, _, feed = fleet("lmc_mlp", recipe, [(0, 1), (0, 1)])

    def run(seeds, states, start, stop):
        return advance("reference", model, states, feed, recipe, [90] * len(seeds), seeds, start, stop).states

    before = torch.get_rng_state()
    a, b = run([7, 8], [state, state], 0, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert distance(a, b) > 0
    half = run([7], [state], 0, 3)
    assert_equal(run([7], half, 3, 6)[0], a)


def test_training_on_a_cpu_does_not_use_a_gpu(monkeypatch):
    """A GPU that is present is not queried at every step, and its generator is not seeded."""

    def touched(*_):
        raise AssertionError("CUDA was touched")

    model, states, feed = fleet("lmc_cnn", RECIPES["sgd"], [(1, 2)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed", touched)
    for engine in ("reference", "channels-last", "stacked"):
        advance(engine, model, states, feed, RECIPES["sgd"], [90], [0], 0, 2)


def test_a_diverged_member_does_not_change_the_others():
    recipe = RECIPES["sgd"]
    model, states, feed = fleet("lmc_cnn", recipe, [(1, 2), (3, 4), (5, 6)])
    broken = states[1].copy()
    next(iter(broken.params.values())).fill_(float("nan"))
    seeds = [0, 0, 0]
    lengths = [90] * len(seeds)
    good = advance("stacked", model, states, feed, recipe, lengths, seeds, 0, 5)
    mixed = advance("stacked", model, [states[0], broken, states[2]], feed, recipe, lengths, seeds, 0, 5)
    assert_equal(good.states[0], mixed.states[0])
    assert_equal(good.states[2], mixed.states[2])
    assert not mixed.states[1].finite
    assert torch.isnan(mixed.losses[1]).all()


def test_arguments_are_not_changed():
    model, states, feed = fleet("lmc_resnet", RECIPES["sgd"], [(1, 2), (3, 4)])
    kept = [state.copy() for state in states]
    for engine in ("stacked", "reference", "channels-last"):
        advance(engine, model, states, feed, RECIPES["sgd"], [90, 90], [0, 0], 0, 3)
        for a, b in zip(states, kept, strict=True):
            assert_equal(a, b)


def test_tied_and_frozen_weights_survive(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)
            self.b.weight = self.a.weight
            self.frozen = nn.Linear(64, 64)
            self.frozen.requires_grad_(False)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.frozen(self.b(self.a(x.flatten(1)).relu()).relu()))

    recipe = RECIPES["sgd"]
    model = Tied()
    state = initial_state(model, slot_names(recipe))
    assert "b.weight" not in state.params
    assert "frozen.weight" in state.buffers
    _, _, feed = fleet("lmc_mlp", recipe, [(0, 1)])
    trained = advance("reference", model, [state], feed, recipe, [90], [0], 0, 3).states[0]
    assert torch.equal(trained.buffers["frozen.weight"], state.buffers["frozen.weight"])
    assert not torch.equal(trained.params["a.weight"], state.params["a.weight"])
    exported = state_dict(model, trained)
    assert exported.keys() == model.state_dict().keys()
    assert torch.equal(exported["b.weight"], exported["a.weight"])


@pytest.mark.parametrize("engine", ["reference", "channels-last", "stacked"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trainings_of_several_lengths_advance_together(engine, optimizer):
    recipe = RECIPES[optimizer]
    model, states, feed = fleet("lmc_mlp", recipe, [(0, 1), (2, 3), (4, 5)])
    together = advance(engine, model, states, feed, recipe, [40, 90, 40], [0, 0, 0], 0, 12)
    for length, members in ((40, (0, 2)), (90, (1,))):
        apart = advance(engine, model, states, feed, recipe, [length] * 3, [0, 0, 0], 0, 12)
        for m in members:
            assert_equal(together.states[m], apart.states[m])
    assert not torch.equal(together.states[1].params["head.bias"], apart.states[0].params["head.bias"])
