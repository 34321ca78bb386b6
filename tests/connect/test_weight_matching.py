"""Permutation specifications of traced networks, and weight matching (docs/oracles.md, 8)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import nn

from lmcbench.connect import label_mode, weight_matching
from lmcbench.connect.alignment import align
from lmcbench.connect.geometry import geometry
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.network import Network
from lmcbench.connect.permutation_spec import trace_permutations
from lmcbench.connect.unit_groups import Group, PermutationSpec, permute_state
from lmcbench.connect.weight_matching import _best, _Matching, _values
from lmcbench.errors import UserError
from lmcbench.results.curves import barrier


def shuffled(model, state, seed):
    """A permuted copy of a state, and how many groups were free."""
    spec = trace_permutations(model)
    orders = spec.random(torch.Generator().manual_seed(seed))
    return permute_state(state, spec, orders), len(spec.free)


def group_of(spec, name, dim):
    """The group along an axis of a tensor; None if its units stay."""
    for place in spec.places.get(name, ()):
        if place.dim == dim:
            (found,) = set(place.group.ravel().tolist())
            return found
    return None


def randomised(model, seed=0):
    """Every tensor drawn anew, so that no unit is like another."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        scale = 1 / math.sqrt(max(1, value[0].numel())) if value.ndim > 1 else 1.0
        positive = name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight"))
        state[name] = (
            value if value.ndim == 0 else (scale * (noise + 0.5 if positive else 2 * noise - 1)).to(value)
        )
    return state


class Gated(nn.Module):
    """Depthwise convolution, squeeze-and-excitation gate, concatenation, both kinds of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.act = nn.PReLU(6)
        self.gate1, self.gate2 = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.side = nn.Conv2d(6, 5, 1)
        self.norm = nn.BatchNorm2d(11)
        self.mix = nn.Conv2d(11, 4, 1)
        self.norm1 = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        x = self.act(self.depth(self.stem(x)))
        gate = torch.sigmoid(self.gate2(nn.functional.relu(self.gate1(x.mean((2, 3), keepdim=True)))))
        x = x * gate
        x = self.norm(torch.cat([x, self.side(x)], dim=1))
        x = nn.functional.max_pool2d(self.mix(x), 2)
        return self.head(self.norm1(x.view(x.size(0), -1)))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "plain-resnet", "gated"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=6, deadline=None)
def test_permuting_units_leaves_the_function_as_it_is(nets, name, seed) -> None:
    model = Gated().double() if name == "gated" else nets.build(name)
    state, (x, _) = randomised(model, seed), nets.images(10)
    moved, groups = shuffled(model, state, seed)
    assert groups == {"mlp": 2, "cnn": 2, "resnet": 4, "plain-resnet": 4, "gated": 4}[name]
    assert geometry(state, state, moved).distance_b > 0
    network = Network(model)
    before, after = network.logits(network.prepare([state, moved]), x)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12 * float(before.abs().max()))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "plain-resnet", "gated"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_permuted_copy_is_recovered(nets, name, seed) -> None:
    model = Gated().double() if name == "gated" else nets.build(name)
    state = randomised(model, seed)
    copy, _ = shuffled(model, state, seed + 10)
    aligned = align(model, state, copy)
    assert all(torch.equal(aligned[k], v) for k, v in state.items())


@pytest.mark.parametrize("name", ["resnet", "gated"])
def test_a_permuted_copy_is_recovered_by_products_in_single_precision(nets, name, monkeypatch) -> None:
    """As in large networks; the double-precision weights are permuted, not rounded."""
    monkeypatch.setattr(weight_matching, "_SINGLE", 0)
    model = Gated().double() if name == "gated" else nets.build(name)
    state = randomised(model)
    copy, _ = shuffled(model, state, 10)
    assert _Matching(trace_permutations(model), state, copy).dtype == torch.float32
    aligned = align(model, state, copy)
    assert all(torch.equal(aligned[k], v) for k, v in state.items())


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_oracle_8_on_trained_networks_of_width_16(nets, name) -> None:
    """Equal ends, a positive barrier before; distance <= 1e-6 |theta| and barrier <= 1e-5 after."""
    model, state = nets.build(name, width=16), nets.train(name, 0, width=16)
    copy, _ = shuffled(model, state, 5)
    split = {"s": nets.images(80, 100)}  # what it was trained on
    naive = trace_path(model, state, copy, split, 11)["s"]
    assert naive.loss[0] == pytest.approx(naive.loss[-1], rel=1e-12)
    assert barrier(naive).loss_chord > 0.01
    aligned = align(model, state, copy)
    zero = {k: torch.zeros_like(v) for k, v in state.items()}
    triangle = geometry(zero, state, aligned)
    assert triangle.distance_ab <= 1e-6 * triangle.distance_a
    assert barrier(trace_path(model, state, aligned, split, 11)["s"]).loss_chord <= 1e-5


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "plain-resnet"])
def test_aligned_independent_networks_are_nearer_and_compute_the_same(nets, name) -> None:
    model, a, b = nets.build(name), nets.train(name, 0), nets.train(name, 1)
    kept = {k: v.clone() for k, v in b.items()}
    aligned = align(model, a, b)
    assert geometry(a, a, aligned).distance_b < geometry(a, a, b).distance_b
    network = Network(model)
    x, _ = nets.images(20)
    before, after = network.logits(network.prepare([b, aligned]), x)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-10)
    again = align(model, a, b)
    assert all(torch.equal(again[k], v) for k, v in aligned.items())
    assert all(torch.equal(kept[k], v) for k, v in b.items())
    settled = align(model, a, aligned)
    assert geometry(a, a, settled).distance_b <= geometry(a, a, aligned).distance_b + 1e-12


def test_the_better_of_both_starts_is_kept() -> None:
    """Unrelated networks: sometimes descent from B as it is ends nearer, sometimes from the forward pass."""
    inner = [layer for _ in range(4) for layer in (nn.Linear(16, 16), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), *inner, nn.Linear(16, 4)).double()
    spec = trace_permutations(model)
    wins = []
    for seed in range(3):
        a, b = randomised(model, seed), randomised(model, seed + 50)
        matching = _Matching(spec, a, b)
        ends = [matching.descend(start) for start in (spec.complete({}), matching.forward())]
        reached = [geometry(a, a, permute_state(b, spec, end)).distance_b for end in ends]
        assert geometry(a, a, align(model, a, b)).distance_b == pytest.approx(min(reached), rel=1e-12)
        wins.append(reached[0] < reached[1])
    assert set(wins) == {True, False}


class Loop(nn.Module):
    """A stream that its layers read and write: one group, on both axes of four weights."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.turns = nn.ModuleList(nn.Linear(12, 12) for _ in range(4))

    def forward(self, x):
        x = self.into(x.flatten(1))
        for turn in self.turns:
            x = x + torch.relu(turn(x))
        return self.head(x)


@pytest.mark.parametrize("seed", range(6))
def test_descent_never_lowers_the_similarity_of_a_group_on_both_axes(seed) -> None:
    """The assignment is not exact there: proposals that lower the similarity come up, and are rejected."""
    model = Loop().double()
    spec = trace_permutations(model, torch.zeros(1, 6))
    assert len(spec.free) == 1
    matching = _Matching(spec, randomised(model, seed), randomised(model, seed + 50))
    propose, seen = matching._proposed, []

    def watched(group, orders):
        seen.append(matching.similarity(orders))
        return propose(group, orders)

    matching._proposed = watched
    end = matching.descend(spec.random(torch.Generator().manual_seed(seed)))
    seen.append(matching.similarity(end))
    assert seen == sorted(seen)
    assert 2 < len(seen) < 10
    proposed = {**end, **propose(spec.free[0], end)}
    assert matching.similarity(proposed) <= matching.similarity(end)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_units_of_two_groups_give_a_pair_the_gain_of_their_best_orders(seed) -> None:
    """Brute force: three units, each with two cells of two units; the other group has an order of its own."""
    rng = np.random.default_rng(seed)
    first, second = (axis.ravel() for axis in np.indices((3, 2, 2))[:2])
    shuffle = rng.permutation(12)
    first, second = first[shuffle], second[shuffle]
    spec = PermutationSpec((Group(3), Group(2), Group(12, ((0, first), (1, second)))), {}, {})
    value, order = rng.normal(size=(12, 12)), rng.permutation(2)
    found = _values(spec, 0, {1: order}, lambda group: value if group == 2 else None)[0]

    def cell(i, w):
        return np.flatnonzero((first == i) & (second == w))

    def best(block):
        return max(np.trace(block), np.trace(block[::-1]))

    for i, k in np.ndindex(3, 3):
        blocks = [value[np.ix_(cell(i, w), cell(k, order[w]))] for w in range(2)]
        assert found[i, k] == pytest.approx(sum(map(best, blocks)))


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([5, 63, 64, 100]))
@settings(max_examples=20, deadline=None)
def test_the_best_assignment_is_that_of_the_gain_as_it_is(seed, size) -> None:
    """Means are taken off large gains first, and gains are large by rows and columns (norms of weights)."""
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(size, size)) + 3 * rng.normal(size=(size, 1)) + 3 * rng.normal(size=size)
    kept = gain.copy()
    rows, columns = _best(gain)
    assert np.array_equal(gain, kept)
    best = gain[linear_sum_assignment(gain, maximize=True)].sum()
    assert gain[rows, columns].sum() == pytest.approx(best, rel=1e-12)


def test_aligning_a_network_with_itself_changes_nothing(nets) -> None:
    state = nets.train("resnet", 0)
    assert all(torch.equal(v, state[k]) for k, v in align(nets.build("resnet"), state, state).items())


def test_alignment_lowers_the_barrier_of_wide_networks(nets) -> None:
    """The effect found by Ainsworth et al. (2023), on an MLP: independent initialisations, the same task."""
    model = nets.build("mlp", width=64)
    a, b = (nets.train("mlp", seed, width=64) for seed in (0, 1))
    split = {"s": nets.images(80, 100)}
    naive, aligned = (barrier(trace_path(model, a, s, split, 11)["s"]) for s in (b, align(model, a, b)))
    assert aligned.loss_chord < 0.7 * naive.loss_chord


def test_units_of_a_residual_stream_are_one_group(nets) -> None:
    spec = trace_permutations(nets.build("resnet"))
    stem = group_of(spec, "stem.weight", 0)
    assert group_of(spec, "block1.conv2.weight", 0) == group_of(spec, "block1.norm2.bias", 0) == stem
    assert group_of(spec, "block2.short.weight", 0) == group_of(spec, "head.weight", 1) != stem
    assert group_of(spec, "block2.short.weight", 1) == stem
    assert group_of(spec, "head.weight", 0) is None
    assert sorted(spec.sizes[group] for group in spec.free) == [6, 6, 8, 8]


@pytest.mark.parametrize(
    ("name", "groups", "side"),
    [
        ("resnet18", 12, 32),
        ("resnet10t", 10, 32),
        ("vgg", 5, 14),
        ("seresnet18", 20, 32),
        ("test_resnet", 11, 32),
    ],
)
def test_timm_networks(nets, name, groups, side) -> None:
    """Traced, permuted with the function kept (fp32); the smaller ones recovered as well."""
    with torch.random.fork_rng():
        model = nets.small_vgg(10) if name == "vgg" else timm.create_model(name, num_classes=10)
    state = randomised(model.eval())
    copy, free = shuffled(model, state, 1)
    assert free == groups
    network = Network(model)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    before, after = network.logits(network.prepare([state, copy]), x)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5 * float(before.abs().max()))
    if name in ("resnet10t", "vgg", "test_resnet"):
        aligned = align(model, state, copy)
        assert all(torch.equal(aligned[k], v) for k, v in state.items())


class Scaled(nn.Module):
    """Parameters and buffers of its own: images normalised, a scalar, one number a unit of either kind."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.2, 0.3]).view(2, 1, 1))
        self.stem, self.inner = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.zero = nn.Parameter(torch.ones(1))
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        x = torch.relu(self.stem((x - self.mean) / torch.tensor(0.5)))
        x = x + self.gamma * torch.relu(self.inner(x)) * self.zero
        return self.head(torch.relu(self.hidden(x.mean((2, 3))).add(self.shift))) * self.zero


@given(seed=st.integers(0, 1000))
@settings(max_examples=4, deadline=None)
def test_per_unit_parameters_are_permuted_with_their_units(seed) -> None:
    with torch.random.fork_rng():
        model = Scaled().double()
        x = torch.rand(10, 2, 8, 8, dtype=torch.float64)
    state = randomised(model, seed) | {"mean": model.mean}
    moved, groups = shuffled(model, state, seed)
    assert groups == 2
    aligned = align(model, state, moved)
    assert all(torch.equal(aligned[name], value) for name, value in state.items())
    model.load_state_dict(state)
    before = model(x)
    model.load_state_dict(moved)
    assert torch.allclose(before, model(x), rtol=0, atol=1e-12)
    spec = trace_permutations(model)
    assert group_of(spec, "gamma", 1) == group_of(spec, "stem.weight", 0)
    assert group_of(spec, "shift", 0) == group_of(spec, "hidden.weight", 0)


class Fixed(nn.Module):
    """Has a number per unit that is in no state dict."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 12), nn.Linear(12, 4)
        self.register_buffer("rates", torch.linspace(0, 1, size), persistent=False)

    def forward(self, x):
        return self.head(torch.relu(self.first(x.flatten(1))) * self.rates)


def test_units_with_numbers_outside_the_state_are_not_permuted() -> None:
    with pytest.raises(UserError, match="no unit is left to permute"):
        trace_permutations(Fixed(12))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Sequential(nn.Linear(64, 4)), nn.Linear(64, 4)

    def forward(self, x):
        return self.head(x.flatten(1)) if x.mean() > 0 else self.head(-x.flatten(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.body(x[:, 0])[0][:, -1])


class Writing(nn.Module):
    """Clips its weights in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        self.body.weight.data.clamp_(-0.01, 0.01)
        return self.head(self.body(x.flatten(1)).relu())


class Sorted(nn.Module):
    """An operation that depends on the order of units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.cumsum(self.first(x.flatten(1)), 1)
        return self.head(torch.relu(self.second(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), r"'the network' chooses what to do by values that it computes .*\(item\)"),
        (Recurrent(), r"'body' is a recurrent layer \(LSTM\), whose units feed back"),
        (Writing(), "'the network' writes into its weights"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "no unit is left to permute"),
    ],
)
def test_refusals(model, message) -> None:
    state = model.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    with pytest.raises(UserError, match=f"The network cannot be aligned: .*{message}"):
        align(model, state, state, images=torch.rand(2, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_units_of_an_operation_that_depends_on_their_order_stay() -> None:
    spec = trace_permutations(Sorted(), torch.rand(1, 1, 8, 8))
    assert [spec.sizes[group] for group in spec.free] == [6]
    assert spec.fixed == {"'the network' (cumsum) depends on the order of units": 8}
    assert spec.fixed_share == 8 / 14


def test_a_misunderstood_network_is_refused(nets, monkeypatch) -> None:
    """A rule that is wrong (every activation taken for a new value) does not give a wrong network."""
    monkeypatch.setattr(label_mode.LabelMode, "_apply", lambda self, *given: [None] * given[-1])
    model = nets.build("mlp")
    a, b = nets.train("mlp", 0), nets.train("mlp", 1)
    with pytest.raises(UserError, match="changes its function"):
        align(model, a, b)


class Shared(nn.Module):
    """One layer's weight under a second name (`tied`), or one layer under two names (`alias`)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 12), nn.Linear(12, 12)
        self.third, self.head = nn.Linear(12, 12), nn.Linear(12, 4)
        self.third = self.second if kind == "alias" else self.third
        self.third.weight = self.second.weight

    def forward(self, x):
        x = torch.relu(self.first(x.flatten(1)))
        return self.head(torch.relu(self.third(torch.relu(self.second(x)))))


@pytest.mark.parametrize("kind", ["tied", "alias"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=4, deadline=None)
def test_shared_weights_are_permuted_alike(nets, kind, seed) -> None:
    """All groups around a shared weight are one, and every name of a tensor holds the same values."""
    with torch.random.fork_rng():
        model = Shared(kind).double()
    a, b = ({**s, "third.weight": s["second.weight"]} for s in (randomised(model, seed + k) for k in (0, 1)))
    if kind == "alias":
        a, b = ({**s, "third.bias": s["second.bias"]} for s in (a, b))
    moved, groups = shuffled(model, b, seed)
    assert groups == 1
    found = align(model, a, b)
    assert geometry(a, a, found).distance_b < geometry(a, a, b).distance_b
    x, _ = nets.images(10)
    for state in (moved, found):
        assert torch.equal(state["third.weight"], state["second.weight"])
        model.load_state_dict(state)
        logits = model(x)
        model.load_state_dict(b)
        assert torch.allclose(logits, model(x), rtol=0, atol=1e-12)


def test_a_layer_shared_with_the_input_is_not_permuted() -> None:
    """Its units are the input's, which stay where they are; none is left."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)
    )
    model[3].weight = model[1].weight
    with pytest.raises(UserError, match="no unit is left to permute"):
        trace_permutations(model, torch.rand(1, 12))


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        pytest.param(nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore")),
        nn.utils.spectral_norm,
    ],
)
def test_weights_that_are_computed_from_others_are_permuted_at_their_source(norm) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 8)), nn.ReLU(), nn.Linear(8, 4)).eval()
        x = torch.rand(5, 1, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    moved, groups = shuffled(model, state, 1)
    assert groups == 1
    before = model(x)
    model.load_state_dict(moved)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5)
