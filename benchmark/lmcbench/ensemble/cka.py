"""Linear CKA: how alike two networks' features are, up to rotation and scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.errors import UserError

Array = NDArray[np.float64]


def linear_cka(x: ArrayLike, y: ArrayLike) -> float | None:
    """Linear centred kernel alignment of two sets of features of the same images.

    |Y'X|^2 / (|X'X| |Y'Y|) in Frobenius norms, of centred features (Kornblith et al., arXiv 1905.00414,
    section 3): 1 for features equal up to rotation and scale, near 0 for unrelated ones if there are
    many more images than features. Costs n d_x d_y.

    Args:
        x: features `[n, d_x]`.
        y: features `[n, d_y]` of the same n images in the same order.

    Returns:
        A number in [0, 1]; None where either set is the same for all images.

    Raises:
        UserError: for other shapes, different numbers of images, or features that are not finite.
    """
    return _alignment(_centred(x, "x"), _centred(y, "y"))


def cka_matrix(features: Sequence[ArrayLike]) -> list[list[float | None]]:
    """Linear CKA of every two of S sets of features `[n, d]`, `[S, S]`: symmetric, exactly 1 on the diagonal.

    The diagonal is None where the features are the same for all images.
    """
    centred = [_centred(f, f"features {i}") for i, f in enumerate(features)]
    size = len(centred)
    matrix: list[list[float | None]] = [[None] * size for _ in range(size)]
    for i in range(size):
        matrix[i][i] = 1.0 if centred[i].any() else None
        for j in range(i):
            matrix[i][j] = matrix[j][i] = _alignment(centred[i], centred[j])
    return matrix


def _alignment(x: Array, y: Array) -> float | None:
    if len(x) != len(y):
        raise UserError(f"CKA compares features of the same images, found {len(x)} and {len(y)}.")
    scale = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    if scale == 0:
        return None
    # rounding may take features that are alike past 1
    return min(1.0, float(np.linalg.norm(y.T @ x) ** 2) / scale)


def _centred(features: ArrayLike, name: str) -> Array:
    """Features of zero mean and, since CKA is free of scale, of largest entry 1."""
    given = np.asarray(features, dtype=np.float64)
    if given.ndim != 2 or 0 in given.shape:
        raise UserError(f"CKA: {name} must be features [n, d], found shape {given.shape}.")
    if not np.isfinite(given).all():
        raise UserError(f"CKA: {name} holds a value that is not finite.")
    if (given == given[0]).all():
        return np.zeros_like(given)
    centred = given - given.mean(0)
    return np.asarray(centred / np.abs(centred).max())
