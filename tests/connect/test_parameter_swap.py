"""A module with swapped parameters computes what `functional_call` does and is restored."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations

from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.parameter_swap import ParameterSwap
from lmcbench.errors import UserError


class Counting(nn.Module):
    """A buffer that is bound anew in every pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes = self.passes + 1
        return self.layer(x) * self.passes


class Recurrent(nn.Module):
    """Weights that a GRU also keeps in a list."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.gru(x[:, None].expand(-1, 3, -1))[0][:, -1])


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def parametrized():
    linear = nn.Linear(4, 4), nn.Linear(4, 4)
    return nn.Sequential(parametrizations.weight_norm(linear[0]), parametrizations.spectral_norm(linear[1]))


def norm():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


MODELS = [tied, twice, parametrized, norm, Counting, Recurrent]


def made(build):
    torch.manual_seed(3)
    model = build().eval()
    state = {
        name: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value.clone()
        for name, value in model.state_dict().items()
    }
    return model, state, torch.randn(5, 4)


def held(model):
    every = (model.named_parameters, model.named_buffers)
    return {name: value for named in every for name, value in named(remove_duplicate=False)}


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_swapped_parameters_compute_as_functional_call_and_are_restored(build):
    model, state, x = made(build)
    expected = functional_call(copy.deepcopy(model), dict(state), (x,), tie_weights=False)
    before = held(model)
    with ParameterSwap(model).use(state):
        assert torch.equal(model(x), expected)
    assert not torch.equal(model(x), expected)
    names = held(model).keys() - ({"passes"} if build is Counting else set())
    assert all(held(model)[name] is before[name] for name in names)


@pytest.mark.parametrize("build", [b for b in MODELS if b is not Recurrent])  # a GRU has no batching rule
@torch.no_grad()
def test_stacked_states_equal_single_ones(build):
    model, state, x = made(build)
    slots = ParameterSwap(model)
    other = {name: value * 0.5 if value.is_floating_point() else value for name, value in state.items()}

    def run(tensors):
        with slots.use(tensors):
            return model(x)

    both = vmap(run)({name: torch.stack([state[name], other[name]]) for name in state})
    torch.testing.assert_close(both, torch.stack([run(state), run(other)]))


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_a_nested_or_failed_pass_restores_the_outer_state(build):
    model, state, x = made(build)
    slots, own = ParameterSwap(model), {name: value.clone() for name, value in model.state_dict().items()}
    alone = copy.deepcopy(model)(x)
    before = held(model)
    with slots.use(state):
        outer = held(model)
        with slots.use(own):
            torch.testing.assert_close(model(x), alone)
        with pytest.raises(RuntimeError), slots.use(own):
            model(torch.zeros(5, 7))
        assert all(held(model)[name] is outer[name] for name in outer)
    assert all(held(model)[name] is before[name] for name in before)


class Renamed(nn.Module):
    """A state dict whose names are not the network's."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 3)
        self._register_state_dict_hook(
            lambda _, state, prefix, __: {
                name.replace(f"{prefix}fc", f"{prefix}head"): value for name, value in state.items()
            }
        )

    def forward(self, x):
        return self.fc(x.flatten(1))


class Extra(nn.Sequential):
    """A state dict with something that is no tensor of the network."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 3))

    def get_extra_state(self):
        return torch.ones(2)

    def set_extra_state(self, state):
        pass


def traced(build):
    torch.manual_seed(5)
    a, b = build(), build()
    split = (torch.randn(60, 1, 4, 4), torch.randint(0, 3, (60,)))
    return trace_path(a, a.state_dict(), b.state_dict(), {"test": split})["test"]


def test_a_state_with_other_names_is_refused():
    with pytest.raises(UserError, match=r"has 'head\.\w+', none of its parameters and buffers"):
        traced(Renamed)


def test_extra_state_is_ignored():
    loss = traced(Extra).loss
    assert loss[0] != loss[10] != loss[20]
