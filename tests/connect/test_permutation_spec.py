"""Permutations found by tracing: random networks of the operations that timm's families consist of."""

from __future__ import annotations

import weakref
from typing import ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import ScaledStdConv2d
from torch import nn

from lmcbench.connect.alignment import align
from lmcbench.connect.permutation_spec import trace_permutations
from lmcbench.connect.unit_groups import permute_state
from lmcbench.connect.weight_matching import match_weights

WIDTH, SIDE = 8, 4


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x + self.point(torch.relu(self.depth(x)))


class Grouped(nn.Module):
    """Whole groups change places, and units within each."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = (
            nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=3), nn.Conv2d(12, 8, 1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.leave(torch.relu(self.inner(torch.relu(self.enter(x)))))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(8, 10, 1), nn.Conv2d(5, 8, 1)

    def forward(self, x):
        one, two = self.enter(x).chunk(2, dim=1)
        return x + self.leave(one * F.silu(two))


class Attention(nn.Module):
    """Shifted windows of 2 x 2, two heads, a relative bias for each, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias, self.scale = nn.Parameter(torch.zeros(5, 2)), nn.Parameter(torch.ones(8))
        self.register_buffer("index", torch.arange(16).reshape(4, 4) % 5, persistent=False)

    def forward(self, x):
        n = len(x)
        y = torch.roll(x.permute(0, 2, 3, 1), (1, 1), (1, 2))
        y = y.reshape(n, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(4 * n, 4, 8)
        q, k, v = self.qkv(self.norm(y)).reshape(4 * n, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.index].permute(2, 0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
        y = self.proj(y.transpose(1, 2).reshape(4 * n, 4, 8)) * self.scale
        y = y.reshape(n, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 8)
        return x + torch.roll(y, (-1, -1), (1, 2)).permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """Linear in tokens: its hidden units are permuted, tokens are not."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, 6), nn.Linear(6, 16)

    def forward(self, x):
        return x + self.leave(F.gelu(self.enter(x.flatten(2)))).reshape(x.shape)


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = ScaledStdConv2d(8, 6, 3, padding=1), ScaledStdConv2d(6, 8, 1)

    def forward(self, x):
        return x + self.leave(torch.relu(self.enter(x)))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.leave = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 5, 1), nn.Conv2d(16, 8, 1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        y = self.norm(torch.cat([self.one(x), x, self.two(x)], 1))
        return x + self.leave(torch.relu(y))


class Grouping(nn.Module):
    """Normalised in groups, so that groups of channels stay together."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Conv2d(8, 12, 1), nn.GroupNorm(4, 12), nn.Conv2d(12, 8, 1)

    def forward(self, x):
        return x + self.leave(torch.relu(self.norm(self.enter(x))))


class Channels(nn.Module):
    """Attention between channels in two heads, as in XCiT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(8, 24, 1), nn.Conv2d(8, 8, 1)
        self.heat = nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x):
        q, k, v = self.qkv(x).flatten(2).reshape(len(x), 3, 2, 4, 16).unbind(1)
        y = ((q @ k.transpose(-2, -1)) * self.heat).softmax(-1) @ v
        return x + self.proj(y.reshape(x.shape))


class MultiScale(nn.Module):
    """Linear attention on queries, keys and values and on local means of them, as in EfficientViT.

    Heads of both are concatenated, and a column of ones beside the values sums the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.local = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 1, groups=6)
        self.proj = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.local(qkv)], 1).reshape(len(x), 4, 12, 16).transpose(-1, -2)
        q, k, v = both.chunk(3, -1)
        q, k, v = torch.relu(q), torch.relu(k), F.pad(v, (0, 1), value=1.0)
        y = q @ (k.transpose(-1, -2) @ v)
        y = y[..., :-1] / (y[..., -1:] + 1)
        return x + self.proj(y.transpose(-1, -2).reshape(len(x), 16, 4, 4))


class StandardisedGroups(nn.Module):
    """Each filter of a grouped convolution is standardised over the inputs of its group, as in NFNet."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = ScaledStdConv2d(8, 12, 1), ScaledStdConv2d(12, 8, 1)
        self.inner = ScaledStdConv2d(12, 12, 3, padding=1, groups=3)

    def forward(self, x):
        return x + self.leave(torch.relu(self.inner(torch.relu(self.enter(x)))))


class Unfolded(nn.Module):
    """The neighbours of each place on an axis of their own, as in VOLO and TNT."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        y = F.unfold(self.enter(x), 3, padding=1).reshape(len(x), 6, 9, 16).softmax(2)
        return x + self.leave(y[:, :, 4].reshape(len(x), 6, 4, 4))


class States(nn.Module):
    """A convolution of kernel 1 over an axis of states, which can be permuted, as in EfficientViM."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix = nn.Conv1d(8, 10, 1), nn.Conv1d(8, 8, 1)

    def forward(self, x):
        flat = x.flatten(2)
        b, c = self.enter(flat).chunk(2, 1)
        return x + (self.mix(flat @ b.softmax(-1).transpose(-1, -2)) @ c).reshape(x.shape)


BLOCKS = (
    *(Depthwise, Grouped, Gate, Glu, Attention, Mixer, Standardised, Concatenated, Grouping, Channels),
    *(MultiScale, StandardisedGroups, Unfolded, States),
)  # fmt: skip


class Net(nn.Module):
    """[n, 1, 8, 8] -> [n, 3]: patches, a position embedding, blocks, a linear head."""

    def __init__(self, blocks) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, stride=2)
        self.places = nn.Parameter(torch.zeros(1, 8, 4, 4))
        self.blocks = nn.Sequential(*(block() for block in blocks))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.blocks(self.patches(x) + self.places).mean((2, 3)))


def drawn(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A state in which no unit is like another."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if not value.is_floating_point():
            state[name] = value
        elif name.endswith("running_var"):
            state[name] = (noise.abs() + 0.5).to(value)
        else:
            state[name] = (noise * (0.5 if value.ndim < 2 else value[0].numel() ** -0.5)).to(value) + (
                1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
            )
    return state


def logits(model, state, x):
    model.load_state_dict(state)
    with torch.no_grad():
        return model(x)


@given(blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3), seed=st.integers(0, 1000))
@settings(max_examples=12, deadline=None)
def test_random_networks_are_permuted_and_recovered(blocks, seed) -> None:
    with torch.random.fork_rng():
        model = Net(blocks).double().eval()
    state = drawn(model, seed)
    spec = trace_permutations(model, torch.rand(1, 1, 8, 8, dtype=torch.float64))
    assert spec.fixed == {}
    copy = permute_state(state, spec, spec.random(torch.Generator().manual_seed(seed)))
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    before, after = logits(model, state, x), logits(model, copy, x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10 * float(before.abs().max()))
    found = permute_state(copy, spec, match_weights(spec, state, copy))
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("block", [MultiScale, StandardisedGroups, Unfolded, States])
def test_each_operation_is_permuted_and_recovered(block) -> None:
    test_random_networks_are_permuted_and_recovered.hypothesis.inner_test([block], 0)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # sizes of groups, and for each how many units change places within a unit of the parent
        (Grouped, [(3, 3), (8, 8), (12, 4), (12, 4)]),
        (Attention, [(2, 2), (8, 4), (8, 4), (8, 8)]),
        (Mixer, [(6, 6), (8, 8)]),
        (Glu, [(5, 5), (8, 8)]),
        (Grouping, [(4, 4), (8, 8), (12, 3)]),
        (Channels, [(2, 2), (8, 4), (8, 4), (8, 8)]),
        (MultiScale, [(2, 2), (8, 4), (8, 4), (8, 4), (8, 4), (8, 8)]),
        (StandardisedGroups, [(3, 3), (8, 8), (12, 4), (12, 4)]),
        (Unfolded, [(6, 6), (8, 8)]),
        (States, [(5, 5), (8, 8)]),
    ],
)
def test_groups(block, expected) -> None:
    """Whole groups and heads, units within them, and the residual stream of 8."""
    spec = trace_permutations(Net([block]), torch.rand(1, 1, 8, 8))
    assert sorted((g.size, g.cells.shape[1]) for g in spec.groups) == expected


@pytest.mark.parametrize(
    ("name", "side", "groups"), [("test_vit", 160, 25), ("test_convnext", 32, 13), ("regnetx_002", 32, 44)]
)
def test_timm_networks_that_were_refused_before(name, side, groups) -> None:
    with torch.random.fork_rng():
        model = timm.create_model(name, num_classes=10).eval()
    state = drawn(model, 0)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    spec = trace_permutations(model, x)
    assert len(spec.free) == groups
    assert spec.fixed_share == 0
    copy = permute_state(state, spec, spec.random(torch.Generator().manual_seed(1)))
    before, after = logits(model, state, x), logits(model, copy, x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * float(before.abs().max()))
    if name == "test_vit":
        aligned = align(model, state, copy, images=x)
        assert all(torch.equal(aligned[key], value) for key, value in state.items())


class Noting(nn.Module):
    """Notes how many of its activations are in memory at the end of a pass."""

    alive: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x, made = self.body(x), []
        for _ in range(20):
            x = torch.sin(x)
            made.append(weakref.ref(x))
        self.alive.append(sum(found() is not None for found in made))
        return self.head(x)


def test_a_trace_keeps_no_activations() -> None:
    trace_permutations(Noting(), torch.rand(1, 8))
    assert Noting.alive == [1]


def test_activations_recover_a_permuted_copy() -> None:
    with torch.random.fork_rng():
        model = Net([Attention, Grouped]).double().eval()
    state = drawn(model, 0)
    x = torch.randn(40, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spec = trace_permutations(model, x)
    copy = permute_state(state, spec, spec.random(torch.Generator().manual_seed(1)))
    aligned = align(model, state, copy, match="activations", images=x)
    assert all(torch.equal(aligned[name], value) for name, value in state.items())
