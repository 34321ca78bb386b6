"""Linear CKA: similarity of two networks' features up to rotation and scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.errors import UserError

Array = NDArray[np.float64]


def linear_cka(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return the linear centred kernel alignment of two sets of features of the same images.

    It is |Y'X|^2 / (|X'X| |Y'Y|) of centred features in Frobenius norms (Kornblith et al., 2019, arXiv
    1905.00414, section 3): 1 for features equal up to rotation and scale, near 0 for unrelated features if
    there are many more images than features. The cost is O(n d_x d_y); with fewer images than features,
    O(n^2 (d_x + d_y)).

    Args:
        x: features `[n, d_x]`.
        y: features `[n, d_y]` of the same n images in the same order.

    Returns:
        A number in [0, 1]; None if the features of either set do not vary between images.

    Raises:
        UserError: for other shapes, different numbers of images, or features that are not finite.
    """
    return _alignment(_centred(x, "x"), _centred(y, "y"))


def cka_matrix(features: Sequence[ArrayLike]) -> list[list[float | None]]:
    """Return the linear CKA of all pairs of S sets of features `[n, d]`: `[S, S]`, diagonal exactly 1.

    Entries of a set whose features do not vary between images are None.
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
        raise UserError(f"CKA compares features of the same images, found {len(x)} and {len(y)} images.")
    if len(x) < min(x.shape[1], y.shape[1]):
        # |Y'X|^2 = <XX', YY'>, so n x n matrices are enough
        x, y = x @ x.T, y @ y.T
        scale, common = np.linalg.norm(x) * np.linalg.norm(y), np.vdot(x, y)
    else:
        scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
        common = np.linalg.norm(y.T @ x) ** 2
    # rounding may leave [0, 1]
    return None if scale == 0 else float(np.clip(common / scale, 0, 1))


def _centred(features: ArrayLike, name: str) -> Array:
    """Centre features and, because CKA does not depend on scale, divide by their largest entry."""
    given = np.asarray(features, dtype=np.float64)
    if given.ndim != 2 or 0 in given.shape:
        raise UserError(f"CKA: {name} must be features [n, d], found shape {given.shape}.")
    if not np.isfinite(given).all():
        raise UserError(f"CKA: {name} contains a value that is not finite.")
    if (given == given[0]).all():
        return np.zeros_like(given)
    centred = given - given.mean(0)
    return np.asarray(centred / np.abs(centred).max())
