"""Curves on a line between two networks, and the barriers read off them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcbench.errors import UserError

Array = NDArray[np.float64]


def blend(a: Any, b: Any, alpha: float) -> Any:
    """The point `alpha` of the way from `a` to `b` (design 3.1; arrays, tensors or floats).

    torch.lerp's form: the ends and equal arguments come out bit for bit, which (1 - x) a + x b misses
    for about a tenth of fp32 values.
    """
    step = b - a
    return a + alpha * step if alpha < 0.5 else b - step * (1 - alpha)


class NotFiniteError(UserError):
    """A loss or error that is NaN or infinite, which no curve holds."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss and error along the line from A (alpha 0) to B (alpha 1), on one split.

    Attributes:
        alphas: `[A]`, strictly increasing from 0 to 1.
        loss: mean cross-entropy in nats, `[A]`.
        error: fraction misclassified, `[A]`.
        n: number of images they are means over.

    Takes array-likes, holds read-only float64 arrays.

    Raises:
        UserError: for unequal lengths, alphas that do not run from 0 to 1, NaN or infinity, n
            below 1.
    """

    alphas: Array
    loss: Array
    error: Array
    n: int

    def __init__(self, alphas: ArrayLike, loss: ArrayLike, error: ArrayLike, n: int) -> None:
        for name, values in (("alphas", alphas), ("loss", loss), ("error", error)):
            try:
                # asarray first: a tensor's own conversion warns where it is asked for a copy
                array = np.array(np.asarray(values), dtype=np.float64)
            except (TypeError, ValueError):
                raise UserError(f"Curve: {name} must be numbers, one per alpha.") from None
            if array.ndim != 1:
                raise UserError(f"Curve: {name} must be one-dimensional, found shape {array.shape}.")
            if not np.isfinite(array).all():
                raise NotFiniteError(f"Curve: {name} holds a value that is not finite.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not len(self.alphas) == len(self.loss) == len(self.error):
            sizes = f"{len(self.alphas)}, {len(self.loss)} and {len(self.error)}"
            raise UserError(f"Curve: alphas, loss and error must be equally long, found {sizes}.")
        check_alphas(self.alphas)
        if not (isinstance(n, Real) and n >= 1 and float(n).is_integer()):
            raise UserError(f"Curve: n must be a whole number of at least 1, found {n!r}.")
        object.__setattr__(self, "n", int(n))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Curve):
            return NotImplemented
        same = all(np.array_equal(getattr(self, k), getattr(other, k)) for k in ("alphas", "loss", "error"))
        return same and self.n == other.n

    __hash__ = None  # type: ignore[assignment]


def check_alphas(alphas: Array) -> None:
    """Refuse a grid that does not increase strictly from 0 to 1."""
    if len(alphas) < 2 or alphas[0] != 0 or alphas[-1] != 1 or not (np.diff(alphas) > 0).all():
        raise UserError("Alphas must increase strictly from 0 to 1.")


@dataclass(frozen=True)
class Barrier:
    """How much higher the line is than its ends; losses in nats, errors as fractions.

    Chord form L(a) - (1-a) L_A - a L_B ([S] Singh et al., arXiv 2406.16300; [E] Entezari et al., arXiv
    2110.06296): `chord` its maximum over the whole grid (>= 0),
    `chord_interior` over 0 < a < 1 (signed, None without interior points), `mid` at a = 1/2 (signed,
    None off the grid), `argmax` the alpha of the maximum, first on ties.
    Mean form max L - (L_A + L_B) / 2 ([F] Frankle et al., arXiv 1912.05671; [H] Hepburn et al., arXiv
    2511.04514): `mean`, never below the `floor` |L_A - L_B| / 2.
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
    """Both forms of the barrier, for loss (nats) and error (fractions); see `Barrier` for the formulas.

    Raises:
        UserError: for anything but a `Curve`, such as the dict of curves by split.
    """
    if not isinstance(curve, Curve):
        hint = ": give one split's, as in curves['test']" if isinstance(curve, dict) else ""
        raise UserError(f"barrier takes a Curve, found a {type(curve).__name__}{hint}.")
    return Barrier(*_forms(curve.alphas, curve.loss), *_forms(curve.alphas, curve.error))


def chord_excess(alphas: Array, values: Array) -> Array:
    """S(a) = L(a) - (1-a) L_A - a L_B at every alpha, `[A]`; exactly 0 at both ends."""
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
        # max L - (L_A + L_B) / 2, so arranged that rounding cannot take it below the floor
        float(floor + (values.max() - max(values[0], values[-1]))),
        float(floor),
        float(alphas[excess.argmax()]),
    )


def chord_area(alphas: Array, values: Array) -> float:
    """Area between the curve and its chord by the trapezoid rule, signed; in the unit of `values`.

    The mean excess over the line where the barrier is the largest: it tells a spike from a plateau.
    """
    return float(np.trapezoid(chord_excess(alphas, values), alphas))
