"""Forward passes of stacks and recalibration (oracle 9)."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lmcbench
from lmcbench.connect.interpolation import alpha_grid, states_on_line
from lmcbench.connect.loaders import JoinedImages
from lmcbench.connect.network import Network
from lmcbench.errors import UserError


@pytest.mark.parametrize("stacked", [False, True])
def test_one_full_batch_is_exact_at_every_layer(nets, stacked) -> None:
    model, (x, _) = nets.build("resnet"), nets.images(50)
    seen: dict[str, torch.Tensor] = {}
    probe = copy.deepcopy(model).train()
    for name, module in probe.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, i, name=name: seen.__setitem__(name, i[0].detach()))
    probe(x)
    network = Network(model, stacked=stacked)
    fresh = network.recalibrate(network.prepare(model.state_dict()), x)
    for name, value in seen.items():
        flat = value.transpose(0, 1).flatten(1)
        torch.testing.assert_close(fresh[f"{name}.running_mean"][0], flat.mean(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(fresh[f"{name}.running_var"][0], flat.var(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("batches", [2, 3, 7])
def test_batches_pool_exactly_at_the_first_layer(nets, stacked, batches) -> None:
    """The law of total variance, for several states, unequal batches and fp64 buffers."""
    x, _ = nets.images(50)
    states = [nets.build("resnet", seed).state_dict() for seed in (0, 1, 2)]
    network = Network(nets.build("resnet"), stacked=stacked)
    fresh = network.recalibrate(network.prepare(states), x, batches)
    for i, state in enumerate(states):
        first = nn.functional.conv2d(x, state["stem.weight"], padding=1).transpose(0, 1).flatten(1)
        torch.testing.assert_close(fresh["norm.running_mean"][i], first.mean(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(fresh["norm.running_var"][i], first.var(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batches", [1, 3])
def test_twice_gives_equal_bits_and_touches_nothing_else(nets, batches) -> None:
    x, _ = nets.images(30, dtype=torch.float32)
    network = Network(nets.build("resnet", dtype=torch.float32))
    states = network.prepare(nets.train("resnet", 0, 3, torch.float32))
    before = {k: v.clone() for k, v in states.items()}
    once = network.recalibrate(states, x, batches)
    twice = network.recalibrate(once, x, batches)
    assert all(torch.equal(once[k], twice[k]) for k in once)
    assert all(torch.equal(before[k], states[k]) for k in states)
    moved = {k.rpartition(".")[2] for k in once if not torch.equal(once[k], states[k])}
    assert moved == {"running_mean", "running_var"}


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_stacked_equals_looped(nets, name) -> None:
    a, b = nets.train(name, 0), nets.train(name, 1)
    x, _ = nets.images(30)
    grid = alpha_grid(5)
    out = []
    for stacked in (False, True):
        network = Network(nets.build(name), stacked=stacked, batch_size=7)
        path = network.recalibrate(states_on_line(network, a, b, grid), x, 2)
        out.append(network.logits(path, x))
    assert out[0].shape == (5, 30, 4)
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-10)


def test_the_size_of_batches_does_not_matter(nets) -> None:
    x, _ = nets.images(23)
    state = nets.train("resnet", 0)
    one, many = (Network(nets.build("resnet"), batch_size=size) for size in (100, 5))
    torch.testing.assert_close(
        one.logits(one.prepare(state), x), many.logits(many.prepare(state), x), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("limit", [None, 30])
def test_splits_evaluated_together_have_the_logits_of_separate_passes(nets, name, stacked, limit) -> None:
    """With batches that hold images of two or three splits, which end anywhere in them."""
    x, _ = nets.images(97)
    splits = dict(zip("abcd", x.split([40, 3, 27, 27]), strict=True))
    network = Network(nets.build(name), batch_size=limit, stacked=stacked)
    states = network.prepare([nets.build(name, seed).state_dict() for seed in range(3)])
    sizes = []
    network.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    parts = list(network.batches_of(states, splits))
    # two images check that the network uses the weights
    assert set(sizes) - {2} == ({97} if limit is None else {30, 7})
    starts = {which: [start for at, start, _ in parts if at == which] for which in splits}
    cut = {"a": [0, 30], "b": [0], "c": [0, 17], "d": [0, 20]}
    assert starts == ({which: [0] for which in "abcd"} if limit is None else cut)
    for which, images in splits.items():
        found = torch.cat([logits for at, _, logits in parts if at == which], 1)
        torch.testing.assert_close(found, network.logits(states, images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_splits_of_a_suite_of_small_images_have_the_bits_of_separate_passes(nets, name) -> None:
    x, _ = nets.images(1080, dtype=torch.float32)
    network = Network(nets.build(name, dtype=torch.float32))
    states = network.prepare([nets.build(name, seed, torch.float32).state_dict() for seed in range(2)])
    splits = dict(zip("abc", x.split(360), strict=True))
    parts = list(network.batches_of(states, splits))
    assert [(which, start) for which, start, _ in parts] == [("a", 0), ("b", 0), ("b", 180), ("c", 0)]
    for which, images in splits.items():
        found = torch.cat([logits for at, _, logits in parts if at == which], 1)
        assert torch.equal(found, network.logits(states, images))


@pytest.mark.parametrize(
    ("n", "pixels", "sizes"),
    [(1080, 8, [540, 540]), (601, 8, [301, 300]), (600, 8, [600]), (500, 28, [125] * 4), (126, 32, [63, 63])],
)
def test_passes_are_of_equal_sizes(n, pixels, sizes) -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, pixels, pixels))
    network = Network(model)
    images = JoinedImages([torch.zeros(count, 1, pixels, pixels) for count in (n - 9, 9)])
    seen = [logits.shape[1] for logits in network.batches(network.prepare(model.state_dict()), images)]
    assert seen == sizes


def test_dropout_is_off_and_other_norms_unaffected() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), nn.LayerNorm(6), nn.Dropout(0.5), nn.Linear(6, 2)
    ).train()
    network = Network(model)
    states = network.prepare(model.state_dict())
    x = torch.randn(8, 1, 2, 2)
    assert network.recalibrate(states, x) is states
    assert torch.equal(network.logits(states, x), network.logits(states, x))
    assert model.training


def test_tied_weights_pass() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x.flatten(1)))

    model = Tied()
    network = Network(model)
    x = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(network.logits(network.prepare(model.state_dict()), x)[0], model(x).detach())


def test_refusals(nets) -> None:
    network = Network(nets.build("resnet"))
    state = nets.train("resnet", 0)
    with pytest.raises(UserError, match="at least two images per batch, found 3 images for 2 batches"):
        network.recalibrate(network.prepare(state), torch.zeros(3, 1, 8, 8), 2)
    with pytest.raises(UserError, match=r"'stem.weight' is missing"):
        network.prepare({k: v for k, v in state.items() if k != "stem.weight"})
    with pytest.raises(UserError, match=r"which has no 'extra'"):
        network.prepare({**state, "extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"'head.bias' is torch.float32, the network's is torch.float64"):
        network.prepare({**state, "head.bias": state["head.bias"].float()})
    with pytest.raises(UserError, match="no parameters"):
        Network(nn.ReLU())
    bad = Network(nn.Conv2d(1, 2, 1))
    with pytest.raises(UserError, match=r"must return logits \[n, classes\], found \(3, 2, 4, 4\)"):
        bad.logits(bad.prepare(bad.model.state_dict()), torch.zeros(3, 1, 4, 4))


@pytest.mark.parametrize("room", [1, 2, 3])
def test_out_of_memory_halves_the_stack_and_changes_nothing(nets, room, monkeypatch) -> None:
    """Passes of all states, then of half of them, until they fit; statistics as if nothing had happened."""
    x, _ = nets.images(40)
    states = [nets.build("resnet", seed).state_dict() for seed in range(5)]
    network = Network(nets.build("resnet"), stacked=True)
    stack = network.prepare(states)
    calibrated = network.recalibrate(stack, x, 2)
    logits = network.logits(calibrated, x)
    real, asked = torch.func.vmap, []

    def cramped(function):
        def run(part):
            asked.append(len(part["head.bias"]))
            if asked[-1] > room:
                real(function)(part)  # the statistics of a pass that fails are overwritten
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(function)(part)

        return run

    monkeypatch.setattr("lmcbench.connect.network.vmap", cramped)
    again = network.recalibrate(stack, x, 2)
    assert asked[0] == 5
    assert network.limit is not None
    assert network.limit <= room
    torch.testing.assert_close(again, calibrated, rtol=0, atol=1e-12)
    torch.testing.assert_close(network.logits(again, x), logits, rtol=0, atol=1e-10)


class Branching(nn.Module):
    """Branches on its values, which vmap does not allow; with `broken` it also fails alone."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.broken = broken

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.body(x.flatten(1)))
        if self.broken and len(x) > 2:
            raise RuntimeError("shapes")
        return self.head(x.relu() if x.abs().max() > 0 else x)


def test_a_network_that_cannot_be_stacked_is_passed_state_by_state(nets) -> None:
    """As on CUDA, where stacks are passed at once; statistics half written by a failed pass do no harm."""
    x, _ = nets.images(40)
    x = x.float()
    states = [Branching().state_dict() for _ in range(3)]
    stacked, plain = Network(Branching(), stacked=True), Network(Branching())
    found = [n.logits(n.recalibrate(n.prepare(states), x, 2), x) for n in (stacked, plain)]
    assert torch.equal(*found)
    assert stacked.not_stacked is not None
    assert "control flow" in stacked.not_stacked
    assert plain.not_stacked is None
    broken = Network(Branching(broken=True), stacked=True)
    with pytest.raises(RuntimeError, match="shapes"):
        broken.logits(broken.prepare(states), x)


class Shared(nn.Module):
    """A BatchNorm layer that runs `calls` times in a pass, under one name or two."""

    def __init__(self, calls: int, alias: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4, momentum=None)
        self.same = self.norm if alias else nn.Identity()
        self.unused = nn.BatchNorm1d(4)
        self.calls = calls

    def forward(self, x):
        x = self.norm(x.flatten(1))
        for _ in range(self.calls - 1):
            again = self.norm if isinstance(self.same, nn.Identity) else self.same
            x = again(3 * self.inner(x) + 1)
        return x


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_layer_that_runs_several_times_has_the_mean_over_its_calls(calls, alias, stacked) -> None:
    """The reference is torch's own cumulative average over one pass."""
    torch.manual_seed(3)
    model = Shared(calls, alias).double()
    x = 5 * torch.randn(40, 4, dtype=torch.float64) + 2
    states = [copy.deepcopy(model.state_dict()) for _ in range(2)]
    states[1]["inner.weight"] *= 2
    network = Network(model, stacked=stacked)
    fresh = network.recalibrate(network.prepare(states), x)
    for i, state in enumerate(states):
        own = copy.deepcopy(model)
        own.load_state_dict(state)
        own.train()(x)
        for part in ("running_mean", "running_var"):
            for name in ("norm", "same") if alias else ("norm",):
                expected = getattr(own.norm, part)
                torch.testing.assert_close(fresh[f"{name}.{part}"][i], expected, rtol=0, atol=1e-12)
    assert torch.equal(fresh["unused.running_var"][0], torch.ones(4, dtype=torch.float64))
    assert network.model.norm.momentum is None
    assert not network.model._forward_pre_hooks


@pytest.mark.parametrize(
    "form", [lambda y: (y, y), lambda y: {"logits": y}, lambda y: SimpleNamespace(logits=y)]
)
def test_logits_are_found_in_the_models_output(form):
    class Wrapped(torch.nn.Linear):
        def forward(self, x):
            return form(super().forward(x.flatten(1)))

    torch.manual_seed(0)
    plain, wrapped = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), Wrapped(4, 3)
    a, b = wrapped.state_dict(), {n: -v for n, v in wrapped.state_dict().items()}
    split = {"test": (torch.randn(9, 1, 2, 2), torch.arange(9) % 3)}
    found = lmcbench.trace_path(wrapped, a, b, split, 3)["test"]
    a, b = ({f"1.{n}": v for n, v in state.items()} for state in (a, b))
    assert found.loss.tolist() == lmcbench.trace_path(plain, a, b, split, 3)["test"].loss.tolist()
