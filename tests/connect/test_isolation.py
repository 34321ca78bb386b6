"""Networks that keep tensors of their last pass can be copied."""

import copy
import math

import pytest
import torch
from torch import nn

from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.isolation import copy_model


class Keeping(nn.Module):
    """Keeps features of its last pass, as networks do for showing attention."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)
        self.last = {"features": []}

    def forward(self, x):
        features = self.body(x.flatten(1)).relu()
        self.last["features"] = [features]
        return self.head(features)


@pytest.fixture
def used():
    model = Keeping()
    model(torch.ones(2, 1, 2, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(model)
    return model


def test_a_copy_has_equal_outputs_and_shares_no_weight(used):
    made, images = copy_model(used), torch.rand(3, 1, 2, 2)
    assert torch.equal(made(images), used(images))
    for own, others in zip(used.parameters(), made.parameters(), strict=True):
        assert torch.equal(own, others)
        assert own.data_ptr() != others.data_ptr()
    assert made.last["features"] is not used.last["features"]


def test_a_used_network_is_measured(used):
    state = {name: value.clone() for name, value in used.state_dict().items()}
    split = {"test": (torch.rand(6, 1, 2, 2), torch.tensor([0, 1] * 3))}
    [curve] = trace_path(used, state, state, split, alphas=3).values()
    assert all(math.isclose(loss, curve.loss[0], rel_tol=1e-6) for loss in curve.loss)


class Merging(nn.Linear):
    """Writes into its weights when it is put into eval mode, as layers with low-rank updates do."""

    def train(self, mode=True):
        with torch.no_grad():
            self.weight += 0 if mode else 1
        return super().train(mode)


@pytest.mark.parametrize(("layer", "shares"), [(nn.Linear, True), (Merging, False)])
def test_a_copy_may_share_weights_but_no_buffers(layer, shares):
    model = nn.Sequential(layer(2, 2), nn.BatchNorm1d(2))
    model[0].bias = model[1].bias  # tied
    made = copy_model(model, shares_weights=True)
    for own, others in zip(model.parameters(), made.parameters(), strict=True):
        assert own is not others
        assert (own.data_ptr() == others.data_ptr()) == shares
    assert made[0].bias is made[1].bias
    assert made[1].running_mean.data_ptr() != model[1].running_mean.data_ptr()
    before = model[0].weight.detach().clone()
    made.eval().double()
    assert torch.equal(model[0].weight, before)
