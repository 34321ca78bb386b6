"""Curves of loss and error between two networks, and their barriers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.errors import UserError
from lmcbench.values import as_integer, as_numbers

Array = NDArray[np.float64]


def blend(a: Any, b: Any, alpha: float) -> Any:
    """Return the linear interpolation of `a` and `b` (arrays, tensors or floats), in the form of torch.lerp.

    Ends and equal arguments are reproduced bit for bit; (1 - x) a + x b misses about a tenth of fp32 values.
    """
    step = b - a
    return a + alpha * step if alpha < 0.5 else b - step * (1 - alpha)


class NotFiniteError(UserError):
    """A loss or error is NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss and error on the line from network A (alpha 0) to network B (alpha 1), on one split.

    The arguments are array-likes; the attributes are read-only float64 arrays.

    Attributes:
        alphas: positions on the line, strictly increasing from 0 to 1, `[A]`.
        loss: mean cross-entropy in nats, `[A]`.
        error: fraction misclassified, `[A]`.
        n: number of images, at least 1.

    Raises:
        UserError: for arrays of different length or not of one dimension, alphas that do not increase from 0
            to 1, NaN or infinity, or an invalid `n`.

    Examples:
        >>> curve = Curve(alphas=[0, 0.5, 1], loss=[0.25, 1.0, 0.25], error=[0.0, 0.5, 0.0], n=100)
        >>> curve.loss
        array([0.25, 1.  , 0.25])
    """

    alphas: Array
    loss: Array
    error: Array
    n: int

    def __init__(self, alphas: ArrayLike, loss: ArrayLike, error: ArrayLike, n: int) -> None:
        for name, values in (("alphas", alphas), ("loss", loss), ("error", error)):
            array = as_numbers(values, f"Curve: {name}", "numbers, one per alpha")
            if array.ndim != 1:
                raise UserError(f"Curve: {name} must be one-dimensional, found shape {array.shape}.")
            if not np.isfinite(array).all():
                raise NotFiniteError(f"Curve: {name} contains a value that is not finite.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not len(self.alphas) == len(self.loss) == len(self.error):
            sizes = f"{len(self.alphas)}, {len(self.loss)} and {len(self.error)}"
            raise UserError(f"Curve: alphas, loss and error must be equally long, found {sizes}.")
        check_alphas(self.alphas)
        whole = int(n) if isinstance(n, float) and float(n).is_integer() else n
        object.__setattr__(self, "n", as_integer(whole, "Curve: n", 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Curve):
            return NotImplemented
        same = all(np.array_equal(getattr(self, k), getattr(other, k)) for k in ("alphas", "loss", "error"))
        return same and self.n == other.n

    __hash__ = None  # type: ignore[assignment]


def check_alphas(alphas: Array) -> None:
    """Raise `UserError` if the grid does not increase strictly from 0 to 1."""
    if len(alphas) < 2 or alphas[0] != 0 or alphas[-1] != 1 or not (np.diff(alphas) > 0).all():
        raise UserError("Alphas must increase strictly from 0 to 1.")


@dataclass(frozen=True)
class Barrier:
    """Barriers of loss (nats) and error (fractions) on a line between networks A and B.

    Chord form: L(a) - (1 - a) L_A - a L_B (Singh et al., 2024, arXiv 2406.16300; Entezari et al., 2022, arXiv
    2110.06296). Mean form: max L - (L_A + L_B) / 2 (Frankle et al., 2020, arXiv 1912.05671; Hepburn, Zielke
    and Raulf, 2025, arXiv 2511.04514).

    Each attribute exists with the prefixes `loss_` and `error_`:

    - `chord`: maximum of the chord form over the whole grid, at least 0;
    - `chord_interior`: its maximum over 0 < a < 1, signed; None without interior points;
    - `mid`: its value at a = 1/2, signed; None if 1/2 is not on the grid;
    - `mean`: the mean form, never below `floor`;
    - `floor`: |L_A - L_B| / 2, the mean form of a straight line;
    - `argmax`: alpha of the maximum of the chord form, the first if there are several.
    """

    loss_chord: float
    loss_chord_interior: float | None
    loss_mid: float | None
    loss_mean: float
    loss_floor: float
    loss_argmax: float
    error_chord: float
    error_chord_interior: float | None
    error_mid: float | None
    error_mean: float
    error_floor: float
    error_argmax: float


def barrier(curve: Curve) -> Barrier:
    """Return both forms of the barrier of a curve, for loss (nats) and error (fractions).

    See `Barrier` for the formulas and their sources.

    Raises:
        UserError: if `curve` is not a `Curve`, for example a dict of curves by split.

    Examples:
        >>> heights = barrier(Curve([0, 0.5, 1], [0.25, 1.0, 0.75], [0.0, 0.5, 0.0], 100))
        >>> heights.loss_chord, heights.loss_mean, heights.loss_floor, heights.error_chord
        (0.5, 0.5, 0.25, 0.5)
    """
    if not isinstance(curve, Curve):
        hint = ": give the curve of one split, as in curves['test']" if isinstance(curve, dict) else ""
        raise UserError(f"barrier takes a Curve, found a {type(curve).__name__}{hint}.")
    return Barrier(*_forms(curve.alphas, curve.loss), *_forms(curve.alphas, curve.error))


def chord_excess(alphas: Array, values: Array) -> Array:
    """Return L(a) - (1 - a) L_A - a L_B at every alpha, `[A]`; exactly 0 at both ends."""
    chord = [blend(values[0], values[-1], float(alpha)) for alpha in alphas]
    return cast(Array, values - np.array(chord))


def _forms(alphas: Array, values: Array) -> tuple[float, float | None, float | None, float, float, float]:
    excess = chord_excess(alphas, values)
    interior = excess[1:-1]
    middle = np.flatnonzero(alphas == 0.5)
    floor = abs(values[0] - values[-1]) / 2
    return (
        float(excess.max()),
        float(interior.max()) if len(interior) else None,
        float(excess[middle[0]]) if len(middle) else None,
        # max L - (L_A + L_B) / 2, in an order in which rounding cannot fall below the floor
        float(floor + (values.max() - max(values[0], values[-1]))),
        float(floor),
        float(alphas[excess.argmax()]),
    )


def chord_area(alphas: Array, values: Array) -> float:
    """Return the signed area between the curve and its chord (trapezoid rule), in the unit of `values`.

    It is the mean excess over the chord, where the barrier is its maximum.
    """
    return float(np.trapezoid(chord_excess(alphas, values), alphas))
