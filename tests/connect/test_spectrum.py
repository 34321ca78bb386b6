"""Top eigenvalues and trace: oracle 14, with curvlinops as a second oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcbench.connect.curvature import Objective
from lmcbench.connect.network import Network
from lmcbench.connect.spectrum import hessian_spectrum, hutchinson_trace, top_eigenvalues
from lmcbench.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=seeded(seed), dtype=torch.float64))
    return q @ torch.diag(values.double()) @ q.T


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_any_symmetric_matrix(seed, k) -> None:
    values = torch.randn(12, generator=seeded(seed), dtype=torch.float64)
    h = matrix(values, seed)
    got = top_eigenvalues(lambda v: h @ v, 12, seeded(1), k, tolerance=1e-12)
    np.testing.assert_allclose(got.values, values.sort(descending=True).values[:k], rtol=0, atol=1e-10)
    assert (got.residuals <= 1e-9).all()


def test_repeated_eigenvalues_and_low_rank() -> None:
    values = torch.zeros(40)
    values[:5] = torch.tensor([3.0, 3.0, 3.0, 2.0, -7.0])
    h = matrix(values)
    got = top_eigenvalues(lambda v: h @ v, 40, seeded(), 4, tolerance=1e-10)
    np.testing.assert_allclose(got.values, [3, 3, 3, 2], rtol=0, atol=1e-9)
    zero = top_eigenvalues(torch.zeros_like, 10, seeded(), 3)
    assert np.array_equal(zero.values, np.zeros(3))


def test_residuals_bound_the_error_before_convergence() -> None:
    values = torch.linspace(0, 1, 300) ** 2
    h = matrix(values)
    products = []

    def product(v: torch.Tensor) -> torch.Tensor:
        products.append(h @ v)
        return products[-1]

    got = top_eigenvalues(product, 300, seeded(), 2, steps=8, tolerance=0)
    assert len(products) == 16
    assert (got.residuals > 1e-6).all()
    nearest = np.abs(got.values[:, None] - values.numpy()).min(1)
    assert (nearest <= got.residuals).all()


def test_a_network_against_a_dense_solve(nets) -> None:
    """An MLP of 1380 parameters, batches of unequal size."""
    model, state, split = nets.build("mlp"), nets.train("mlp", 0), nets.images(40)
    state = {k: 0.7 * v for k, v in state.items()}
    names = [n for n, _ in model.named_parameters()]
    objective = Objective(Network(model), split, names)
    size = len(objective.flat(state))
    assert size == 1380
    x, y = split
    pieces = [state[n].numel() for n in names]

    def loss(theta):
        parts = {n: p.view_as(state[n]) for n, p in zip(names, theta.split(pieces), strict=True)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, parts, (x,)), y)

    dense = torch.func.hessian(loss)(objective.flat(state)).detach()
    truth = torch.linalg.eigvalsh(dense).flip(0)[:3]
    got = hessian_spectrum(model, state, split, seeded(), 3, 40, tolerance=1e-8, steps=100, batch_size=17)
    np.testing.assert_allclose(got.top.values, truth, rtol=1e-8)
    assert abs(got.trace.mean - float(dense.trace())) <= 4 * got.trace.standard_error


def test_curvlinops_agrees(nets) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    model, state, (x, y) = nets.build("resnet"), nets.train("resnet", 0), nets.images(30)
    model.load_state_dict(state)
    model.eval()
    parameters = dict(model.named_parameters())
    hessian = curvlinops.HessianLinearOperator(
        model, torch.nn.CrossEntropyLoss(), list(parameters.values()), [(x[:20], y[:20]), (x[20:], y[20:])]
    )
    objective = Objective(Network(model, batch_size=20), (x, y), list(parameters))
    v = torch.randn(len(objective.flat(state)), generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(objective.hvp(state, v), hessian @ v, rtol=1e-10, atol=1e-10)


def test_one_probe_is_exact_for_a_diagonal() -> None:
    diagonal = torch.arange(10).double() - 3
    got = hutchinson_trace(lambda v: diagonal * v, 10, seeded(), 1)
    assert (got.mean, got.standard_error) == (15.0, None)


def test_the_standard_error_is_that_of_the_mean() -> None:
    """Var of one probe is 2 sum of squared off-diagonals; 400 probes."""
    h = matrix(torch.randn(20, generator=seeded(5)))
    got = hutchinson_trace(lambda v: h @ v, 20, seeded(), 400)
    deviation = float((2 * ((h**2).sum() - (h.diagonal() ** 2).sum()) / 400).sqrt())
    assert got.standard_error == pytest.approx(deviation, rel=0.15)
    assert abs(got.mean - float(h.trace())) <= 4 * deviation


def test_the_probes_come_from_the_generator(nets) -> None:
    model, state, split = nets.build("softmax"), nets.train("softmax", 0), nets.images(10)
    one, two, other = (hessian_spectrum(model, state, split, seeded(s), 1, 3) for s in (0, 0, 1))
    assert np.array_equal(one.top.values, two.top.values)
    assert one.trace == two.trace
    assert one.trace.mean != other.trace.mean


def test_refusals(nets) -> None:
    for k in (0, 6):
        with pytest.raises(UserError, match=f"k must be 1 to 5, the number of parameters, found {k}"):
            top_eigenvalues(lambda v: v, 5, seeded(), k)
    with pytest.raises(UserError, match="at least one probe, found 0"):
        hutchinson_trace(lambda v: v, 5, seeded(), 0)
    tied = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    tied[2].weight = tied[1].weight
    with pytest.raises(UserError, match=r"'2.weight' is tied"):
        hessian_spectrum(tied, tied.state_dict(), nets.images(4), seeded())
