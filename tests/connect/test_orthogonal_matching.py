"""Residual streams turned by orthogonal maps: same function, moved networks recovered, others refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from lmcbench.connect.alignment import align
from lmcbench.connect.function_check import logit_difference
from lmcbench.connect.interpolation import states_on_line
from lmcbench.connect.network import Network
from lmcbench.connect.orthogonal_matching import free_streams
from lmcbench.connect.permutation_spec import trace_permutations
from lmcbench.connect.residual_stream import fold, random_map, turn, unfold
from lmcbench.connect.unit_groups import permute_state
from lmcbench.errors import UserError

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def vit(**changes):
    """A vision transformer with 5 tokens and a stream of 12 units."""
    options = {
        "patch_size": 4,
        "img_size": 8,
        "in_chans": 1,
        "num_classes": 10,
        "depth": 1,
        "embed_dim": 12,
        "num_heads": 3,
        "mlp_ratio": 2.0,
    }
    return timm.create_model("vit_tiny_patch16_224", **(options | changes)).eval()


def drawn(model, seed):
    """Every tensor drawn anew, LayerNorms with scales about 1 and shifts."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        one_dimensional = 1.0 if value.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
        state[name] = one_dimensional + 0.2 * noise
    return state


def moved(model, state, seed, like):
    """A state of the same function: units permuted, stream turned at random, with another's LayerNorms."""
    spec = trace_permutations(model, IMAGES)
    (stream,) = free_streams(model, state, like, spec, IMAGES)
    generator = torch.Generator().manual_seed(seed)
    folded = permute_state(fold(state, [stream]), spec, spec.random(generator))
    return unfold(turn(folded, stream, random_map(stream.size, generator)), [stream], like)


KINDS = [
    {"depth": 2},
    {"init_values": 0.1, "global_pool": "avg", "class_token": False},
    {"qk_norm": True, "reg_tokens": 2},
]


@pytest.mark.parametrize("changes", KINDS)
def test_a_network_that_was_moved_is_recovered(changes):
    model = vit(**changes)
    a = drawn(model, 0)
    b = moved(model, a, 1, like=drawn(model, 2))
    assert logit_difference(model, a, b, IMAGES) < 1e-4
    assert max(float((a[name] - b[name]).abs().max()) for name in a) > 0.1
    found = align(model, a, b, symmetry="orthogonal", images=IMAGES)
    for name, value in a.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4, msg=name)


def test_independent_networks_come_nearer_than_by_permutations_and_keep_their_function():
    model = vit()
    a, b = drawn(model, 0), drawn(model, 1)
    before = {name: value.clone() for name, value in b.items()}
    turned = align(model, a, b, symmetry="orthogonal", images=IMAGES)
    assert logit_difference(model, b, turned, IMAGES) < 1e-4
    assert all(torch.equal(b[name], before[name]) for name in b)
    spec = trace_permutations(model, IMAGES)
    streams = free_streams(model, a, b, spec, IMAGES)

    def distance(state):
        one, other = fold(a, streams), fold(state, streams)
        return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5

    permuted = align(model, a, b, images=IMAGES)
    assert distance(turned) < 0.97 * distance(permuted)
    assert distance(permuted) < distance(b)


def test_the_line_computes_what_the_line_between_the_folded_networks_computes():
    model = vit(init_values=0.5)
    a, b = drawn(model, 0), drawn(model, 1)
    turned = align(model, a, b, symmetry="orthogonal", images=IMAGES)
    spec = trace_permutations(model, IMAGES)
    streams = free_streams(model, a, b, spec, IMAGES)
    one, other = ({k: x.float() for k, x in fold(s, streams).items()} for s in (a, turned))
    network = Network(model, "cpu")
    half = np.array([0.5])
    lines = [
        network.logits(states_on_line(network, *ends, half), IMAGES) for ends in ((a, turned), (one, other))
    ]
    torch.testing.assert_close(*lines, rtol=1e-4, atol=1e-4)


class Plain(nn.Module):
    """A stream whose units pass through a nonlinearity, read by LayerNorm."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(64, 12), nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.norm(torch.relu(self.embed(x.flatten(1)))))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Plain(), "in a way that depends on its units"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), "no LayerNorm"),
        (timm.create_model("test_convnext", in_chans=1, num_classes=10), "units"),
        (vit(qkv_bias=False), "no bias to hold the shift"),
    ],
)
def test_networks_without_a_free_stream_are_refused(model, why):
    a, b = drawn(model, 0), drawn(model, 1)
    images = torch.randn(1, 1, 32, 32) if "ConvNeXt" in type(model).__name__ else IMAGES
    with pytest.raises(UserError, match=f"no residual stream .*{why}"):
        align(model, a, b, symmetry="orthogonal", images=images)


def test_a_scale_of_zero_and_activations_are_refused():
    model = vit()
    a, b = drawn(model, 0), drawn(model, 1)
    with pytest.raises(UserError, match="by weights"):
        align(model, a, b, symmetry="orthogonal", match="activations", images=IMAGES)
    with pytest.raises(UserError, match="Unknown symmetry 'linear'"):
        align(model, a, b, symmetry="linear", images=IMAGES)
    a["norm.weight"][3] = 0
    with pytest.raises(UserError, match="scale of zero"):
        align(model, a, b, symmetry="orthogonal", images=IMAGES)
