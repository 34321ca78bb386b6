"""Largest eigenvalues and trace of a Hessian that is known only by its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lmcbench.connect.arguments import Split
from lmcbench.connect.blending import State, unstack
from lmcbench.connect.curvature import Loss, Objective, cross_entropy
from lmcbench.connect.network import Network
from lmcbench.errors import UserError
from lmcbench.results.curves import Array

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix times a vector, `[P]` -> `[P]` float64."""


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """The largest eigenvalues, as far as they have converged.

    Attributes:
        values: `[k]`, descending, with multiplicity up to k.
        residuals: |H v - value v| with |v| = 1, `[k]`: an eigenvalue lies within it of each value.
        products: products with the matrix that it took.
    """

    values: Array
    residuals: Array
    products: int


@dataclass(frozen=True)
class Trace:
    """Hutchinson's estimate: mean over probes, its standard error (None for one probe), their number."""

    mean: float
    standard_error: float | None
    probes: int


@dataclass(frozen=True)
class Spectrum:
    """Sharpness and trace of the loss at one state, over the network's parameters."""

    top: Eigenvalues
    trace: Trace


def hessian_spectrum(
    model: nn.Module,
    state: State,
    split: Split,
    generator: torch.Generator,
    k: int = 1,
    probes: int = 10,
    calibration: Tensor | None = None,
    *,
    steps: int = 50,
    tolerance: float = 1e-3,
    loss: Loss = cross_entropy,
    batch_size: int = 500,
    device: str | torch.device | None = None,
) -> Spectrum:
    """Top eigenvalues and trace of the Hessian of the mean loss at `state`.

    Args:
        model: any classifier; it stays as it is.
        state: a state dict of it.
        split: images `[n, c, h, w]` floating and labels `[n]` int64.
        generator: of the start vectors and probes, on the CPU; first the former.
        k: how many eigenvalues, algebraically largest first.
        probes: Rademacher vectors for the trace.
        calibration: images on which BatchNorm statistics are taken anew, then held fixed.
        steps: at most this many block steps; memory is 8 * k * steps bytes per parameter.
        tolerance: residual at which an eigenvalue is settled, relative to the largest in size.
        loss: another loss than cross-entropy, per example.
        batch_size: images per pass.
        device: where to compute; the model's own by default.

    Raises:
        UserError: for a state of another network, a split that cannot be measured, tied parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(names)
    if tied:
        raise UserError(f"{min(tied)!r} is tied to another parameter; its Hessian is not supported.")
    network = Network(model, device, batch_size)
    objective = Objective(network, split, names, loss)
    stacked = network.prepare(state)
    if calibration is not None:
        stacked = network.recalibrate(stacked, calibration)
    (there,) = unstack(stacked)
    size = len(objective.flat(there))

    def product(vector: Tensor) -> Tensor:
        return objective.hvp(there, vector.to(network.device))

    top = top_eigenvalues(product, size, generator, k, steps, tolerance)
    return Spectrum(top, hutchinson_trace(product, size, generator, probes))


def top_eigenvalues(
    product: Product,
    size: int,
    generator: torch.Generator,
    k: int = 1,
    steps: int = 50,
    tolerance: float = 1e-3,
) -> Eigenvalues:
    """The k algebraically largest eigenvalues by block Lanczos, fully reorthogonalised.

    Blocks of k vectors, so that an eigenvalue of multiplicity up to k is found that often (Golub and
    Van Loan, Matrix Computations, section 10.3.6). The projected matrix is taken from inner products
    with the whole basis, which is Lanczos' tridiagonal one up to rounding.

    Args:
        product: the matrix, `[size]` -> `[size]`.
        size: of the matrix.
        generator: of the start block.
        k: how many, at most `size`.
        steps: at most this many block steps.
        tolerance: stop once every residual is at most this times the largest |value|.

    Raises:
        UserError: for k out of 1 .. size.
    """
    if not 1 <= k <= size:
        raise UserError(f"k must be 1 to {size}, the number of parameters, found {k}.")
    basis = torch.empty(0, size, dtype=torch.float64)
    block = _extend(basis, _normal(k, size, generator))
    values = residuals = np.empty(0)
    products = 0
    projected = torch.empty(0, 0, dtype=torch.float64)
    for _ in range(steps):
        mapped = torch.stack([product(vector) for vector in block])
        basis = basis.to(mapped.device)
        basis = torch.cat([basis, block.to(mapped.device)])
        products += len(block)
        columns = basis @ mapped.T  # [m, b]
        projected = _bordered(projected, columns.cpu())
        ritz, vectors = torch.linalg.eigh(projected)
        outside = mapped - columns.T @ basis
        outside -= (outside @ basis.T) @ basis
        rest = outside.T @ vectors[-len(block) :].to(outside)  # [size, m]: H v - value v
        values = np.array(ritz.flip(0)[:k].tolist())
        residuals = np.array(rest.norm(dim=0).flip(0)[:k].tolist())
        scale = float(ritz.abs().max())
        settled = len(values) == k and bool((residuals <= tolerance * scale).all())
        if settled or len(basis) == size:
            break
        block = _extend(basis, outside, floor=1e-12 * scale)
        if not len(block):  # an invariant subspace: go on outside it
            block = _extend(basis, _normal(min(k, size - len(basis)), size, generator).to(basis))
    return Eigenvalues(values, residuals, products)


def hutchinson_trace(product: Product, size: int, generator: torch.Generator, probes: int = 10) -> Trace:
    """The trace as the mean of v' H v over Rademacher vectors v (Hutchinson 1990).

    One probe is exact for a diagonal matrix.

    Raises:
        UserError: for no probes.
    """
    if probes < 1:
        raise UserError(f"The trace needs at least one probe, found {probes}.")
    seen = []
    for _ in range(probes):
        vector = torch.randint(2, (size,), generator=generator).double() * 2 - 1
        image = product(vector)
        seen.append(float(vector.to(image) @ image))
    error = float(np.std(seen, ddof=1)) / math.sqrt(probes) if probes > 1 else None
    return Trace(float(np.mean(seen)), error, probes)


def _normal(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def _extend(basis: Tensor, vectors: Tensor, floor: float = 0.0) -> Tensor:
    """`vectors` `[b, size]` made orthonormal to `basis` and each other; those that vanish are dropped."""
    found = basis.to(vectors)
    start = len(found)
    for vector in vectors:
        rest = vector
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            rest = rest - (found @ rest) @ found
        norm = float(rest.norm())
        if norm > floor and norm > 1e-12 * float(vector.norm()):
            rest = rest / norm
            rest = rest - (found @ rest) @ found
            found = torch.cat([found, (rest / rest.norm())[None]])
    return found[start:]


def _bordered(projected: Tensor, columns: Tensor) -> Tensor:
    """The symmetric `[m, m]` that `projected` `[m - b, m - b]` becomes with its last columns `[m, b]`."""
    total, width = columns.shape
    grown = torch.zeros(total, total, dtype=torch.float64)
    grown[: total - width, : total - width] = projected
    grown[:, total - width :] = columns
    grown[total - width :, :] = columns.T
    corner = grown[total - width :, total - width :]
    grown[total - width :, total - width :] = (corner + corner.T) / 2
    return grown
