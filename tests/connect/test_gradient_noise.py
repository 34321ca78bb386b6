from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F  # noqa: N812

from lmcbench.connect import gradient_noise as gradients
from lmcbench.connect.blending import unstack
from lmcbench.connect.gradient_noise import gradient_noise
from lmcbench.connect.network import Network
from lmcbench.errors import UserError

N = 24
VIEWS = [torch.arange(0, 10), torch.arange(10, N)]


def one_by_one(model, state, split):
    """Each image's gradient by its own backward pass, `[n, P]` (naive implementation)."""
    model.load_state_dict(state)
    model.eval()
    rows = []
    for image, label in zip(*split, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "softmax"])
def test_gradients_have_the_bits_of_torch_func_grad(name, nets, monkeypatch):
    state, split = nets.train(name, 0), nets.images(N)
    ours = gradient_noise(nets.build(name), state, split, VIEWS)
    monkeypatch.setattr(gradients, "_gradient_of", grad)
    assert gradient_noise(nets.build(name), state, split, VIEWS) == ours


def brute(gradients):
    """Trace of the covariance and squared norm of the mean, from the whole covariance matrix."""
    covariance = np.cov(gradients.T, bias=True)
    return np.trace(covariance), (gradients.mean(0) ** 2).sum()


def test_large_images_are_processed_in_small_chunks(nets, monkeypatch):
    """Activations are held for each of them."""
    taken = []

    def watched(function, in_dims):
        def mapped(leaves, images, labels):
            taken.append(len(images))
            return vmap(function, in_dims)(leaves, images, labels)

        return mapped

    monkeypatch.setattr(gradients, "vmap", watched)
    state, split = nets.train("cnn", 0), nets.images(N)
    whole = gradient_noise(nets.build("cnn"), state, split, VIEWS)
    monkeypatch.setattr(gradients, "MAX_PIXELS", 10 * split[0][0].numel())
    parts = gradient_noise(nets.build("cnn"), state, split, VIEWS)
    assert taken == [24, 10, 10, 4]
    assert parts.union.trace == pytest.approx(whole.union.trace, rel=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "softmax"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_equals_one_backward_pass_an_image(name, chunk, nets):
    state, split = nets.train(name, 0), nets.images(N)
    model = nets.build(name)
    found = gradient_noise(model, state, split, VIEWS, chunk=chunk)
    rows = one_by_one(nets.build(name), state, split)
    for view, moments in zip(VIEWS, found.views, strict=True):
        trace, norm2 = brute(rows[view])
        assert moments.n == len(view)
        assert moments.trace == pytest.approx(trace, rel=1e-10)
        assert moments.norm2 == pytest.approx(norm2, rel=1e-10)
        assert moments.scale == pytest.approx(trace / norm2, rel=1e-10)
    trace, norm2 = brute(rows)
    assert found.union.n == N
    assert found.union.trace == pytest.approx(trace, rel=1e-10)
    assert found.union.norm2 == pytest.approx(norm2, rel=1e-10)
    means = np.stack([rows[view].mean(0) for view in VIEWS])
    weights = np.array([10, 14]) / N
    between = (weights[:, None] * (means - rows.mean(0)) ** 2).sum()
    assert found.between == pytest.approx(between, rel=1e-9)
    assert found.between_share == pytest.approx(between / trace, rel=1e-9)


def test_closed_form_of_a_linear_softmax(nets):
    """The gradient of one image is (p - y) (x, 1)': its square (|x|^2 + 1) |p - y|^2."""
    state, (x, y) = nets.train("softmax", 0), nets.images(N)
    found = gradient_noise(nets.build("softmax"), state, (x, y), [torch.arange(N)])
    flat = x.flatten(1)
    residual = (flat @ state["1.weight"].T + state["1.bias"]).softmax(-1) - F.one_hot(y, 4)
    square = ((flat.square().sum(1) + 1) * residual.square().sum(1)).mean()
    whole = torch.cat([flat, torch.ones(N, 1, dtype=flat.dtype)], 1)
    mean = residual.T @ whole / N
    assert found.union.norm2 == pytest.approx(float(mean.square().sum()), rel=1e-12)
    assert found.union.trace == pytest.approx(float(square - mean.square().sum()), rel=1e-12)
    assert (found.between, found.between_share) == (0.0, 0.0)


def test_gradients_of_batches_scatter_as_the_trace_says(nets):
    """Over all batches of B of n: mean |G_B|^2 = |G|^2 + trace n / (n - 1) (1 - B / n) / B."""
    n, b = 6, 2
    state, (x, y) = nets.train("mlp", 0), nets.images(n)
    found = gradient_noise(nets.build("mlp"), state, (x, y), [torch.arange(n)]).union
    rows = one_by_one(nets.build("mlp"), state, (x, y))
    squares = [(rows[list(c)].mean(0) ** 2).sum() for c in combinations(range(n), b)]
    expected = found.norm2 + found.trace * n / (n - 1) * (1 - b / n) / b
    assert np.mean(squares) == pytest.approx(expected, rel=1e-10)


def test_the_between_share_of_random_halves_is_that_of_chance_and_of_label_halves_larger(nets):
    """The mean over all splits of N images into K equal views is (K - 1) / (N - 1)."""
    n = 8
    state, split = nets.train("mlp", 0), nets.images(n)

    def share(chosen, state, split):
        size = len(split[1])
        views = [torch.tensor(list(chosen)), torch.tensor([i for i in range(size) if i not in chosen])]
        return gradient_noise(nets.build("mlp"), state, split, views).between_share

    shares = [share(c, state, split) for c in combinations(range(n), n // 2)]
    assert np.mean(shares) == pytest.approx(1 / (n - 1), rel=1e-9)
    # labels are i mod 4: classes 0 and 1 against 2 and 3, before training
    by_label = share([i for i in range(N) if i % 4 < 2], nets.build("mlp").state_dict(), nets.images(N))
    assert by_label > 3 / (N - 1)


def test_siblings_with_one_view_have_no_variance_between_views(nets):
    state, split = nets.train("cnn", 0), nets.images(N)
    view = torch.arange(1, 14, 2)
    found = gradient_noise(nets.build("cnn"), state, split, [view] * 3)
    assert (found.between, found.between_share) == (0.0, 0.0)
    assert len(set(found.views)) == 1
    assert found.union.trace == pytest.approx(found.views[0].trace, rel=1e-12)
    assert found.to_json()["views"][2]["n"] == len(view)


def test_overlapping_views_count_an_image_as_often_as_it_is_seen(nets):
    state, split = nets.train("mlp", 0), nets.images(N)
    views = [torch.arange(0, 15), torch.arange(9, N)]
    rows = one_by_one(nets.build("mlp"), state, split)
    found = gradient_noise(nets.build("mlp"), state, split, views)
    trace, norm2 = brute(rows[np.concatenate(views)])
    assert found.union.trace == pytest.approx(trace, rel=1e-10)
    assert found.union.norm2 == pytest.approx(norm2, rel=1e-10)


def test_statistics_are_recalibrated_and_the_model_is_unchanged(nets):
    model, state, (x, y) = nets.build("resnet", 3), nets.train("resnet", 0), nets.images(N)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    generator = torch.get_rng_state()
    found = gradient_noise(model, state, (x, y), VIEWS, calibration=x)
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    network = Network(model)
    [fresh] = unstack(network.recalibrate(network.prepare(state), x))
    rows = one_by_one(nets.build("resnet"), fresh, (x, y))
    assert found.union.trace == pytest.approx(brute(rows)[0], rel=1e-10)
    assert gradient_noise(model, state, (x, y), VIEWS).union.trace != found.union.trace


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(64, 4)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.second(self.first(x.flatten(1)).tanh()))


def test_tied_weights_have_one_gradient_and_frozen_ones_none(nets):
    torch.manual_seed(0)
    model, split = Tied().double(), nets.images(N)
    rows = []
    for image, label in zip(*split, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        rows.append(model.first.weight.grad.flatten().clone())
    trace, norm2 = brute(torch.stack(rows).numpy())
    model.zero_grad()
    found = gradient_noise(model, model.state_dict(), split, [torch.arange(N)]).union
    assert (found.trace, found.norm2) == (pytest.approx(trace), pytest.approx(norm2))
    assert model.first.weight.grad is None


def test_single_precision_agrees_with_double(nets):
    state, (x, y) = nets.train("cnn", 0), nets.images(N)
    exact = gradient_noise(nets.build("cnn"), state, (x, y), VIEWS)
    single = {k: v.float() for k, v in state.items()}
    found = gradient_noise(nets.build("cnn", dtype=torch.float32), single, (x.float(), y), VIEWS)
    assert found.union.trace == pytest.approx(exact.union.trace, rel=1e-4)
    assert found.between_share == pytest.approx(exact.between_share, rel=1e-4)


def test_refusals(nets):
    model, state, (x, y) = nets.build("mlp"), nets.train("mlp", 0), nets.images(N)
    for views in ([], [torch.arange(3), torch.arange(0)]):
        with pytest.raises(UserError, match="needs views, each with an image"):
            gradient_noise(model, state, (x, y), views)
    with pytest.raises(UserError, match="label 4 is out of range, there are 4 classes"):
        gradient_noise(model, state, (x, y + 1), VIEWS)
    with pytest.raises(UserError, match="does not fit the network"):
        gradient_noise(model, nets.train("cnn", 0), (x, y), VIEWS)


def test_a_network_that_normalises_by_its_batch_has_no_gradients_of_images(nets):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 4)
    ).double()
    x, y = nets.images(8)
    with pytest.raises(UserError, match="image by image, but layer '1' normalises by its batch"):
        gradient_noise(model, model.state_dict(), (x, y), [torch.arange(8)])
