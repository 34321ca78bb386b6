"""Largest eigenvalues and trace of the loss's Hessian, from Hessian-vector products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
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
    """Estimates of the largest eigenvalues.

    Attributes:
        values: `[k]`, descending; an eigenvalue of multiplicity m occurs min(m, k) times.
        residuals: |H v - value v| with |v| = 1, `[k]`; some eigenvalue lies within it of each value.
    """

    values: Array
    residuals: Array


@dataclass(frozen=True)
class Trace:
    """Hutchinson's estimate: mean over the probes, its standard error (None for one probe), their number."""

    mean: float
    standard_error: float | None
    probes: int


@dataclass(frozen=True)
class Spectrum:
    """Top eigenvalues and trace of the Hessian at one state."""

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
    """Return the top eigenvalues and the trace of the Hessian of the mean loss at `state`.

    Args:
        model: any classifier; not modified.
        state: a state dict of the model.
        split: images `[n, c, h, w]` floating and labels `[n]` int64.
        generator: CPU generator of the start vectors, then of the probes.
        k: number of eigenvalues, algebraically largest first.
        probes: number of Rademacher vectors for the trace.
        calibration: images on which BatchNorm statistics are recalibrated, then held fixed.
        steps: maximum number of block steps; needs 8 * k * steps bytes per parameter.
        tolerance: residual at which an eigenvalue has converged, relative to the largest |eigenvalue|.
        loss: per-example loss.
        batch_size: images per pass.
        device: where to compute; the model's own by default.

    Raises:
        UserError: if the state does not fit the model, the split is invalid or parameters are tied.
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
    """Return the k algebraically largest eigenvalues by block Lanczos with full reorthogonalisation.

    Blocks of k vectors find an eigenvalue of multiplicity up to k that often (Golub and Van Loan, 2013,
    Matrix Computations, section 10.3.6), which ARPACK's single vectors do not guarantee. Stops once every
    residual is at most `tolerance` times the largest |value|, or after `steps` blocks.

    Raises:
        UserError: unless 1 <= k <= size.
    """
    if not 1 <= k <= size:
        raise UserError(f"k must be 1 to {size}, the number of parameters, found {k}.")
    basis = torch.empty(0, size, dtype=torch.float64)
    projected = torch.empty(0, 0, dtype=torch.float64)
    block = _orthonormalise(basis, _normal(k, size, generator))
    values = residuals = np.empty(0)
    for _ in range(steps):
        width = len(block)
        mapped = torch.stack([product(vector) for vector in block])
        basis = torch.cat([basis.to(mapped.device), block.to(mapped.device)])
        columns = basis @ mapped.T  # [m, b], the last columns of the projected matrix
        projected = F.pad(projected, (0, width, 0, width))
        projected[:, -width:] = columns.cpu()
        projected[-width:, -width:] = (projected[-width:, -width:] + projected[-width:, -width:].T) / 2
        ritz, vectors = torch.linalg.eigh(projected, UPLO="U")
        outside = mapped - columns.T @ basis
        outside -= (outside @ basis.T) @ basis
        errors = outside.T @ vectors[-width:].to(outside)  # [size, m]: H v - value v
        values = np.array(ritz.flip(0)[:k].tolist())
        residuals = np.array(errors.norm(dim=0).flip(0)[:k].tolist())
        scale = float(ritz.abs().max())
        converged = len(values) == k and bool((residuals <= tolerance * scale).all())
        if converged or len(basis) == size:
            break
        block = _orthonormalise(basis, outside, floor=1e-12 * scale)
        if not len(block):  # an invariant subspace: continue outside it
            block = _orthonormalise(basis, _normal(min(k, size - len(basis)), size, generator).to(basis))
    return Eigenvalues(values, residuals)


def hutchinson_trace(product: Product, size: int, generator: torch.Generator, probes: int = 10) -> Trace:
    """Return the trace as the mean of v' H v over Rademacher vectors v (Hutchinson, 1990).

    One probe is exact for a diagonal matrix.

    Raises:
        UserError: for fewer than one probe.
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


def _orthonormalise(basis: Tensor, vectors: Tensor, floor: float = 0.0) -> Tensor:
    """Make `vectors` `[b, size]` orthonormal to `basis` and each other; drop those that vanish."""
    found = basis.to(vectors)
    for vector in vectors:
        rest = vector
        for _ in range(2):  # twice is enough (Parlett, 1980, The Symmetric Eigenvalue Problem, section 6.9)
            rest = rest - (found @ rest) @ found
        norm = float(rest.norm())
        if norm > floor and norm > 1e-12 * float(vector.norm()):
            rest = rest / norm
            rest = rest - (found @ rest) @ found
            found = torch.cat([found, (rest / rest.norm())[None]])
    return found[len(basis) :]
