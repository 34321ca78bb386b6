"""Networks that cache tensors computed from their weights: each state uses its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import lmcbench
from lmcbench.connect.gradient_noise import gradient_noise
from lmcbench.connect.network import Network
from lmcbench.errors import UserError


class Keeping(nn.Module):
    """As the attention of timm's LeViT: eval mode caches the bias until training mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.bias = nn.Parameter(torch.randn(64))
        self.kept: list[torch.Tensor] = []

    def train(self, mode: bool = True) -> Keeping:
        super().train(mode)
        if mode:
            self.kept = []
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.norm(x) * self.bias.exp()
        if not self.kept:
            self.kept = [self.bias.exp()]
        return self.norm(x) * self.kept[0]


def plain(model: nn.Module, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a fresh network with these weights."""
    with torch.no_grad():
        model.train()
        model.load_state_dict(state)
        return model.eval()(x)


@pytest.fixture
def keeping():
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), Keeping(), nn.Linear(64, 4)).double()

    return build


@pytest.mark.parametrize("stacked", [False, True])
def test_every_state_is_evaluated_with_caches_of_its_own_weights(keeping, nets, stacked) -> None:
    model, (x, y) = keeping(0), nets.images(40)
    states = [keeping(seed).state_dict() for seed in (1, 2)]
    model.eval()(x)  # keeps what follows from its own
    network = Network(model, stacked=stacked)
    stack = network.prepare(states)
    for found, state in zip(network.logits(stack, x), states, strict=True):
        torch.testing.assert_close(found, plain(keeping(0), state, x))
    curve = lmcbench.trace_path(model, *states, {"test": (x, y)}, 3)["test"]
    ends = [F.cross_entropy(plain(keeping(0), state, x), y).item() for state in states]
    assert [curve.loss[0], curve.loss[-1]] == pytest.approx(ends, rel=1e-12)
    # modes set for taking statistics survive: the layer's own BatchNorm is recalibrated
    fresh = network.recalibrate(stack, x, 2)
    torch.testing.assert_close(fresh["1.norm.running_mean"][0], x.flatten(1).mean(0), rtol=0, atol=1e-12)


def test_derivatives_are_taken_through_each_state_s_own_weights(keeping, nets) -> None:
    model, (x, y) = keeping(0), nets.images(20)
    a, b = (keeping(seed).state_dict() for seed in (1, 2))
    predicted = lmcbench.predict_barrier(model, a, b, (x, y), 3, gradients=True)
    swapped = lmcbench.predict_barrier(model, b, a, (x, y), 3, gradients=True)
    assert predicted == pytest.approx(swapped[::-1], rel=1e-10)
    everything = torch.arange(20)
    noise = gradient_noise(model, a, (x, y), [everything])
    model.load_state_dict(a)
    model.train().eval()
    loss = F.cross_entropy(model(x), y)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    assert noise.union.norm2 == pytest.approx(sum(float((g * g).sum()) for g in gradient), rel=1e-10)


class Set(nn.Linear):
    """Its `train` has no default, and refuses some modes."""

    refused: bool | None = None

    def train(self, mode: bool) -> Set:
        if mode is self.refused:
            raise RuntimeError("not this one")
        super().train(mode)
        return self


def test_a_network_whose_train_method_refuses_a_mode_is_refused(nets) -> None:
    model = nn.Sequential(nn.Flatten(), Set(64, 4)).double()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = nets.images(8)
    curve = lmcbench.trace_path(model, state, state, {"test": (x, y)}, 3)["test"]
    assert curve.loss[0] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    nn.init.constant_(model[1].bias, float("nan"))  # as memory that nobody has written to may be
    assert lmcbench.trace_path(model, state, state, {"test": (x, y)}, 3)["test"] == curve
    for refused, mode in ((True, "training"), (False, "eval")):
        model[1].refused = refused
        with pytest.raises(UserError, match=f"cannot be put into {mode} mode: RuntimeError: not this one"):
            lmcbench.trace_path(model, state, state, {"test": (x, y)}, 3)


class Merging(nn.Linear):
    """As low-rank updates that are merged for evaluation."""

    def __init__(self) -> None:
        super().__init__(64, 4)
        self.low, self.merged = nn.Parameter(torch.ones(4, 1)), False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.low @ torch.ones(1, 64).to(self.low)
            self.merged = not mode
        return self


def test_a_network_that_changes_its_weights_in_eval_mode_is_refused(nets) -> None:
    model = nn.Sequential(nn.Flatten(), Merging()).double()
    state = model.state_dict()
    with pytest.raises(UserError, match=r"changes '1.weight' when it is put into eval mode"):
        lmcbench.trace_path(model, state, state, {"test": nets.images(8)}, 3)


def test_tiny_vit_is_measured_with_each_state_s_attention_biases() -> None:
    timm = pytest.importorskip("timm")

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        sizes = {"embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1)}
        return timm.create_model("tiny_vit_5m_224", num_classes=4, **sizes).double()

    model, x, y = build(0), torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.arange(4)
    states = [build(seed).state_dict() for seed in (1, 2)]
    for state in states:
        for name, value in state.items():
            if name.endswith("attention_biases"):
                value.normal_(0, 3)
    curve = lmcbench.trace_path(model, *states, {"test": (x, y)}, 3)["test"]
    ends = [F.cross_entropy(plain(build(0), state, x), y).item() for state in states]
    assert [curve.loss[0], curve.loss[-1]] == pytest.approx(ends, rel=1e-12)


class Listed(nn.Module):
    """Reads its weights from a list, where they cannot be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 4)
        self.weights = [self.first.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.linear(x.flatten(1), self.weights[0]).relu())


class Closed(Listed):
    """Computes with a layer through a function made in its constructor, which stays the first network's."""

    def __init__(self) -> None:
        super().__init__()
        first = self.first
        self.project = lambda x: first(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.project(x.flatten(1)).relu())


@pytest.mark.parametrize("network", [Listed, Closed])
def test_a_network_whose_weights_cannot_be_replaced_is_refused(nets, network) -> None:
    model, other, (x, y) = network().double(), network().double(), nets.images(8)
    said = "computes with its own 'first.weight' instead of the given weights"
    with pytest.raises(UserError, match=said):
        lmcbench.trace_path(model, model.state_dict(), other.state_dict(), {"test": (x, y)}, 3)
    passing = Network(model)
    with pytest.raises(UserError, match=said):
        passing.logits(passing.prepare(other.state_dict()), x)


class Writing(nn.Module):
    """Writes into its buffer in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        self.seen.mul_(0.5).add_(x.detach().mean(0))
        return self.head(x - self.seen)


def test_buffers_written_in_eval_mode_change_no_other_split_and_not_the_callers_model(nets) -> None:
    model, other, (x, y) = Writing().double(), Writing().double(), nets.images(30)
    state = model.state_dict()
    both = lmcbench.trace_path(model, state, other.state_dict(), {"a": (x, y), "b": (x, y)}, 3)
    assert both["a"] == both["b"]
    assert not state["seen"].any()
    assert not model.seen.any()
