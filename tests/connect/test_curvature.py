"""Hessian-vector products and the predicted barrier: oracles 2, 3, 4, 14."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmcbench.connect.blending import unstack
from lmcbench.connect.curvature import Objective, predict_barrier
from lmcbench.connect.interpolation import trace_path
from lmcbench.connect.network import Network
from lmcbench.errors import UserError
from lmcbench.results.curves import chord_excess


class Point(nn.Module):
    """A network whose output is its own weights, so that a loss is any function of them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta.expand(len(x), -1)


ONE = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3))
GRID = np.linspace(0, 1, 21)


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predicted(loss, a: Tensor, b: Tensor, gradients: bool) -> np.ndarray:
    model = Point(len(a))
    return predict_barrier(
        model, {"theta": a}, {"theta": b}, ONE, gradients=gradients, loss=lambda t, _: loss(t)
    )


def excess(loss, a: Tensor, b: Tensor) -> np.ndarray:
    values = np.array([loss((a + x * (b - a))[None]).item() for x in GRID])
    return chord_excess(GRID, values)


def test_a_quadratic() -> None:
    """Oracles 2 and 3: S = -a(1-a)/2 d'Hd; as published of the other sign, exact with gradients."""
    a, b, root = vectors(5), vectors(5, seed=1), vectors(5, 5, seed=2)
    hessian = root @ root.T
    loss = lambda t: ((t - 1) @ hessian * (t - 1)).sum(1) / 2  # noqa: E731
    truth = -GRID * (1 - GRID) / 2 * float((b - a) @ hessian @ (b - a))
    np.testing.assert_allclose(excess(loss, a, b), truth, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(predicted(loss, a, b, False), -truth, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(predicted(loss, a, b, True), truth, rtol=1e-10, atol=1e-12)


def test_a_cubic_is_exact_at_the_middle_only() -> None:
    a, b = vectors(4), vectors(4, seed=1)
    loss = lambda t: (t**3).sum(1) + (t[:, 0] * t[:, 1] * t[:, 2]) - t.sum(1)  # noqa: E731
    gap = predicted(loss, a, b, True) - excess(loss, a, b)
    assert abs(gap[10]) <= 1e-12
    assert abs(gap[5]) > 1e-3


def test_each_ends_curvature_is_weighted_by_the_distance_from_the_other_end() -> None:
    """x^3 from 0 to 1: H_A = 0, H_B = 6, hence 3 a (1-a)^2 as published."""
    a, b = torch.zeros(1).double(), torch.ones(1).double()
    guess = predicted(lambda t: t[:, 0] ** 3, a, b, False)
    np.testing.assert_allclose(guess, 3 * GRID * (1 - GRID) ** 2, rtol=0, atol=1e-14)


def test_a_product_of_quadratics_is_overestimated_fourfold() -> None:
    """Oracle 4: prediction / truth = 1 / (a (1-a)); the ends are minima, so gradients change nothing."""
    a, b = vectors(4), vectors(4, seed=1)
    roots = vectors(2, 4, 4, seed=2)
    matrices = [root @ root.T for root in roots]
    well = lambda t, at, m: ((t - at) @ m * (t - at)).sum(1) / 2  # noqa: E731
    loss = lambda t: well(t, a, matrices[0]) * well(t, b, matrices[1])  # noqa: E731
    s1, s2 = (float((b - a) @ m @ (b - a)) for m in matrices)
    truth = excess(loss, a, b)
    np.testing.assert_allclose(truth.max(), s1 * s2 / 64, rtol=1e-10)
    for gradients in (False, True):
        guess = predicted(loss, a, b, gradients)[1:-1]
        np.testing.assert_allclose(guess / truth[1:-1], 1 / (GRID * (1 - GRID))[1:-1], rtol=1e-9)


def test_the_double_well() -> None:
    loss = lambda t: (t[:, 0] ** 2 - 1) ** 2  # noqa: E731
    a, b = torch.tensor([-1.0]).double(), torch.tensor([1.0]).double()
    assert excess(loss, a, b).max() == 1.0
    assert predicted(loss, a, b, False).max() == pytest.approx(4.0, rel=1e-12)


def test_a_linear_loss_has_no_curvature() -> None:
    a, b = vectors(3), vectors(3, seed=1)
    assert np.array_equal(predicted(lambda t: t.sum(1), a, b, True), np.zeros(21))


def test_linear_model_with_squared_error(nets) -> None:
    """Oracle 14: H = 2 I (x) X'X / n for the mean over images of the summed squared error."""
    x, _ = nets.images(30)
    y = vectors(30, 4)
    model = nets.build("softmax")
    network = Network(model, batch_size=7)
    objective = Objective(network, (x, y), ["1.weight"], loss=lambda z, t: ((z - t) ** 2).sum(1))
    state = dict(model.state_dict())
    v = vectors(4, 64)
    truth = 2 * v @ (x.flatten(1).T @ x.flatten(1)) / 30
    got = objective.hvp(state, v.flatten())
    torch.testing.assert_close(got, truth.flatten(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_linear_softmax(nets, dtype, tolerance) -> None:
    """Oracle 14: H = mean of (diag p - pp') (x) xx'."""
    x, y = nets.images(30, dtype=dtype)
    model = nets.build("softmax", 0, dtype)
    state = {k: 0.2 * v for k, v in model.state_dict().items()}
    flat = x.flatten(1).double()
    p = torch.softmax(flat @ state["1.weight"].double().T + state["1.bias"].double(), 1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("nij,nk,nl->ikjl", middle, flat, flat).reshape(256, 256) / 30
    v = vectors(256)
    got = Objective(Network(model, batch_size=11), (x, y), ["1.weight"]).hvp(state, v)
    assert (got - hessian @ v).norm() <= tolerance * (hessian @ v).norm()


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_products_against_autograd_and_the_size_of_batches(nets, name) -> None:
    model, state, (x, y) = nets.build(name), nets.train(name, 0), nets.images(20)
    names = [n for n, _ in model.named_parameters()]
    full, parts = (Objective(Network(model, batch_size=size), (x, y), names) for size in (100, 6))
    theta = full.flat(state)
    v = vectors(len(theta))
    gradient, product = full.gradient_and_hvp(state, v)
    torch.testing.assert_close(parts.hvp(state, v), product, rtol=0, atol=1e-12 * float(product.abs().max()))
    step = 1e-7  # so short that no ReLU changes sides
    pieces = lambda t: dict(  # noqa: E731
        zip(
            names,
            (
                q.view_as(state[n])
                for n, q in zip(names, t.split([state[n].numel() for n in names]), strict=True)
            ),
            strict=True,
        )
    )
    ahead, behind = (full.gradient({**state, **pieces(theta + s * v)}) for s in (step, -step))
    difference = (ahead - behind) / (2 * step)
    assert (difference - product).norm() <= 1e-5 * product.norm()
    model.load_state_dict(state)
    loss = nn.functional.cross_entropy(model.eval()(x), y)
    plain = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(gradient, plain, rtol=0, atol=1e-12)


def test_prediction_for_close_siblings_of_a_network(nets) -> None:
    """With gradients the error is of fourth order in the distance: 16 times less at half of it."""
    x, y = nets.images(40)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    generator = torch.Generator().manual_seed(0)
    a = {
        k: torch.randn(v.shape, generator=generator, dtype=v.dtype) / 8
        for k, v in smooth.state_dict().items()
    }
    d = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in a.items()}
    gaps = []
    for scale in (5e-4, 2.5e-4):
        b = {k: v + scale * d[k] for k, v in a.items()}
        curve = trace_path(smooth, a, b, {"s": (x, y)})["s"]
        guess = predict_barrier(smooth, a, b, (x, y), gradients=True)
        gaps.append(abs(guess - chord_excess(curve.alphas, curve.loss))[10])
        assert gaps[-1] < 0.02 * abs(chord_excess(curve.alphas, curve.loss)[10])
    assert gaps[0] / gaps[1] == pytest.approx(16, rel=0.1)


def test_statistics_are_those_of_each_end_and_fixed(nets) -> None:
    """Calibration equals passing states that were calibrated before; buffers are not moved along."""
    model, a, b = nets.build("resnet"), nets.train("resnet", 0), nets.train("resnet", 1)
    split, x = nets.images(20), nets.images(30, 5)[0]
    network = Network(model)
    fresh = unstack(network.recalibrate(network.prepare([a, b]), x))
    with_x = predict_barrier(model, a, b, split, 5, calibration=x)
    np.testing.assert_allclose(predict_barrier(model, *fresh, split, 5), with_x, rtol=1e-12)
    assert abs(predict_barrier(model, a, b, split, 5) - with_x).max() > 1e-3
    assert with_x[0] == with_x[-1] == 0.0
    mirrored = predict_barrier(model, b, a, split, 5, calibration=x)
    np.testing.assert_allclose(mirrored[::-1], with_x, rtol=1e-9)


def test_attention_has_second_derivatives() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).unsqueeze(1).chunk(3, -1)
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))

    model = Attend().double()
    state = model.state_dict()
    x, y = vectors(6, 4, 3, 3), torch.arange(6) % 3
    b = {k: v + 0.01 for k, v in state.items()}
    assert np.isfinite(predict_barrier(model, state, b, (x, y), 5, gradients=True)).all()


def test_refusals(nets) -> None:
    model, state, (x, y) = nets.build("mlp"), nets.train("mlp", 0), nets.images(8)
    with pytest.raises(UserError, match="odd number of at least 3, found 20"):
        predict_barrier(model, state, state, (x, y), 20)
    with pytest.raises(UserError, match="label 4 is out of range, there are 4 classes"):
        predict_barrier(model, state, state, (x, y + 1))
    with pytest.raises(UserError, match="is empty"):
        predict_barrier(model, state, state, (x[:0], y[:0]))
    with pytest.raises(UserError, match="3 images and 2 labels"):
        Objective(Network(model), (x[:3], y[:2]), [], loss=lambda z, t: z.sum(1))
