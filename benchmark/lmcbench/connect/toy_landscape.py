"""A landscape whose barrier has a closed form: the product of two quadratics (Singh et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lmcbench.errors import UserError
from lmcbench.results.curves import Array, blend


@dataclass(frozen=True, eq=False)
class Well:
    """A local quadratic landscape q(theta) = (theta - centre)' A (theta - centre) / 2.

    Attributes:
        centre: the minimum, `[P]`.
        matrix: A, symmetric and positive semi-definite, `[P, P]`.

    Raises:
        UserError: if the shapes do not match or the matrix is not symmetric positive semi-definite.
    """

    centre: Array
    matrix: Array

    def __init__(self, centre: ArrayLike, matrix: ArrayLike) -> None:
        at, a = np.array(centre, dtype=np.float64), np.array(matrix, dtype=np.float64)
        if at.ndim != 1 or a.shape != (len(at), len(at)):
            raise UserError(f"A well needs a centre [P] and a matrix [P, P], found {at.shape} and {a.shape}.")
        if not np.allclose(a, a.T) or np.linalg.eigvalsh(a).min() < -1e-12 * np.abs(a).max():
            raise UserError("A well's matrix must be symmetric and positive semi-definite.")
        object.__setattr__(self, "centre", at)
        object.__setattr__(self, "matrix", a)

    def loss(self, theta: ArrayLike) -> Array:
        """Return the loss `[...]` at points `[..., P]`."""
        d = np.asarray(theta, dtype=np.float64) - self.centre
        value: Array = np.einsum("...i,ij,...j->...", d, self.matrix, d) / 2
        return value


@dataclass(frozen=True)
class ProductLandscape:
    """The toy landscape of Singh et al. (2024, arXiv 2406.16300): L = q_a q_b, with loss 0 at both centres.

    With d = theta_B - theta_A and s_i = d' A_i d, the line between the minima has the loss
    L(a) = a² (1 - a)² s_a s_b / 4, hence a barrier of s_a s_b / 64 at a = 1/2. The Hessians at the minima are
    (s_b / 2) A_a and (s_a / 2) A_b. The published second-order prediction is therefore a (1 - a) s_a s_b / 4,
    1 / (a (1 - a)) times the true value: four times as much in the middle.
    """

    a: Well
    b: Well

    def loss(self, theta: ArrayLike) -> Array:
        """Return the loss `[...]` at points `[..., P]`."""
        value: Array = self.a.loss(theta) * self.b.loss(theta)
        return value

    def path(self, alphas: ArrayLike) -> Array:
        """Evaluate the loss point by point on the line between the minima, `[A]`."""
        points = [blend(self.a.centre, self.b.centre, float(x)) for x in np.asarray(alphas)]
        return self.loss(np.stack(points))

    def curve(self, alphas: ArrayLike) -> Array:
        """Return the loss on the line in closed form, `[A]`; also the barrier, because both ends are 0."""
        x = np.asarray(alphas, dtype=np.float64)
        s_a, s_b = self._strengths()
        value: Array = x**2 * (1 - x) ** 2 * s_a * s_b / 4
        return value

    def predicted(self, alphas: ArrayLike) -> Array:
        """Return the barrier predicted by the second-order formula, `[A]`."""
        x = np.asarray(alphas, dtype=np.float64)
        s_a, s_b = self._strengths()
        value: Array = x * (1 - x) * s_a * s_b / 4
        return value

    @property
    def barrier(self) -> float:
        """Return the height s_a s_b / 64."""
        s_a, s_b = self._strengths()
        return s_a * s_b / 64

    def _strengths(self) -> tuple[float, float]:
        d = self.b.centre - self.a.centre
        return float(d @ self.a.matrix @ d), float(d @ self.b.matrix @ d)
