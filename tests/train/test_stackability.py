"""Networks that cannot be stacked are found, with the reason."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from fleets import KINDS, fresh
from lmcbench.train.stackability import _step, reason_not_stackable
from lmcbench.train.train_state import initial_state

SHAPE = (1, 4, 4)


class Net(nn.Module):
    """A softmax regression behind another module."""

    def __init__(self, front: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.front(x.flatten(1)))


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x) * 0.1


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Silent(nn.Module):
    """Fails without a message where it is stacked."""

    def forward(self, x):
        assert not torch._C._functorch.is_batchedtensor(x), ""
        return x


class Rebinding(nn.Module):
    """Replaces its buffer by a new tensor in every pass."""

    def __init__(self, persistent=True):
        super().__init__()
        self.register_buffer("average", torch.zeros(16), persistent=persistent)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x):
        x = x * self.scale
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return x - self.average


class InPlace(Rebinding):
    def forward(self, x):
        x = x * self.scale
        self.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return x - self.average


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        (nn.Dropout(0.5), r"layer front \(Dropout, p=0.5\) draws random numbers"),
        (Noise(), "does not run stacked.*random"),
        (Branch(), "does not run stacked: RuntimeError.*control flow"),
        (Silent(), "does not run stacked: AssertionError"),
        (Rebinding(), "buffer front.average is not updated alike|does not run stacked"),
        (Rebinding(persistent=False), "buffer front.average is not updated alike|does not run stacked"),
        (InPlace(persistent=False), "does not run stacked"),
    ],
)
def test_the_reason_is_reported(front, reason):
    model = Net(front)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    generator = torch.get_rng_state()
    said = reason_not_stackable(model, SHAPE)
    assert said is not None
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert reason_not_stackable(model, SHAPE) == said
    assert re.search(reason, said, re.DOTALL), said


@pytest.mark.parametrize("front", [nn.Identity(), nn.Dropout(0.0), InPlace(), nn.BatchNorm1d(16)])
def test_networks_that_can_run_stacked_have_no_reason(front):
    assert reason_not_stackable(Net(front), SHAPE) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_can_run_stacked(kind):
    assert reason_not_stackable(fresh(kind, [0])[0], KINDS[kind][2]) is None


@pytest.mark.parametrize("persistent", [True, False])
def test_the_reference_carries_buffers_however_a_layer_writes_them(persistent):
    """Saved or not, rebound or written in place: each member has its own, and a fork copies it."""
    for layer in (Rebinding, InPlace):
        model = Net(layer(persistent))
        state = initial_state(model, ("momentum",))
        other = state.map(lambda t: t * 1.5)
        together = _step("reference", model, [state, other], SHAPE)
        alone = _step("reference", model, [other, state], SHAPE)
        assert torch.equal(
            together.states[0].buffers["front.average"], alone.states[1].buffers["front.average"]
        )
        assert torch.equal(
            together.states[1].buffers["front.average"], alone.states[0].buffers["front.average"]
        )
        assert together.states[0].buffers["front.average"].any()
