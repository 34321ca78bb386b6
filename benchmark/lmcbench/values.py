"""Check plain values that a caller gives: numbers, choices and paths; every error names the argument."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError, printable, unknown

LARGEST = 2**63 - 1
"""Largest whole number: that of torch and NumPy."""


def as_integer(given: object, argument: str, least: int = -LARGEST) -> int:
    """Return an int of at least `least` from any integer type; bool is refused.

    Raises:
        UserError: for anything else.

    Examples:
        >>> as_integer(np.int16(3), "size", least=1)
        3
    """
    try:
        number = operator.index(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UserError(f"{argument} must be a whole number, found {shown(given)}.") from None
    if number > LARGEST or number < -LARGEST:
        raise UserError(f"{argument} must be a whole number of at most 2^63, found {shown(given)}.")
    if is_bool(given) or number < least:
        bound = f" of at least {least}" if least > -LARGEST else ""
        raise UserError(f"{argument} must be a whole number{bound}, found {shown(given)}.")
    return number


def as_number(given: object, argument: str, least: float = -math.inf, most: float = math.inf) -> float:
    """Return a finite float in [`least`, `most`] from any real number, also in an array or tensor of one.

    Raises:
        UserError: for anything else: bool, text, complex numbers, NaN and infinity.

    Examples:
        >>> as_number(np.array(0.5), "alpha", least=0, most=1)
        0.5
    """
    number = _number(given)
    if number is None or not (math.isfinite(number) and least <= number <= most):
        allowed = "be a finite number" if least == -math.inf else f"be a finite number of at least {least:g}"
        if most < math.inf:
            allowed = "be a number" if number is None else f"lie in [{least:g}, {most:g}]"
        raise UserError(f"{argument} must {allowed}, found {shown(given)}.")
    return number


def _number(given: Any) -> float | None:
    """Return a real number as a float; None for anything else."""
    try:
        if getattr(given, "ndim", None) == 0 and hasattr(given, "item") and not np.ma.is_masked(given):
            given = given.item()
        return float(given) if isinstance(given, Real | Decimal) and not is_bool(given) else None
    except OverflowError:
        return math.inf
    except (RuntimeError, ValueError):  # without a value
        return None


def as_numbers(given: object, what: str, allowed: str = "numbers") -> NDArray[np.float64]:
    """Return a new float64 array of real numbers from an array-like of any shape; it may hold NaN.

    Args:
        given: the array-like.
        what: names it in the message.
        allowed: what it must be, for the message.

    Raises:
        UserError: for bool, text, dates, complex numbers, and values that NumPy cannot convert to an array.

    Examples:
        >>> as_numbers([0, 0.5, 1], "alphas")
        array([0. , 0.5, 1. ])
    """
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "iufO" or holds_other(given) or np.ma.is_masked(given):
            raise TypeError
        return np.array(array, dtype=np.float64)  # of the array: that of a tensor warns about the copy
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UserError(f"{what} must be {allowed}, found {shown(given)}.") from None


def holds_other(given: object) -> bool:
    """Return whether a list, at any depth, or an array of objects holds what NumPy would convert to a number.

    It converts bool, text, dates and complex numbers, if they are beside numbers.
    """
    if isinstance(given, np.ndarray) and given.dtype == object:
        given = given.ravel().tolist()
    if isinstance(given, list | tuple):
        return any(map(holds_other, given))
    return is_bool(given) or isinstance(given, str | bytes | complex | np.datetime64 | np.timedelta64)


def is_bool(given: object) -> bool:
    """Return whether a value is a bool, or an array or tensor of bool.

    Examples:
        >>> is_bool(True), is_bool(np.True_), is_bool(1)
        (True, True, False)
    """
    return isinstance(given, bool) or str(getattr(given, "dtype", "")) in ("bool", "torch.bool")


def check_bool(given: object, argument: str) -> None:
    """Raise `UserError` unless `given` is True or False."""
    if not isinstance(given, bool | np.bool_):
        raise UserError(f"{argument} must be True or False, found {shown(given)}.")


def check_choice(given: object, kind: str, allowed: Sequence[str]) -> None:
    """Raise `UserError` unless `given` is one of the names `allowed`."""
    if not isinstance(given, str):
        raise UserError(f"{kind} must be one of {', '.join(map(repr, allowed))}, found {shown(given)}.")
    if given not in allowed:
        raise unknown(kind, given, allowed)


def as_texts(given: object, argument: str) -> list[str]:
    """Return a list of texts from an iterable of them.

    Raises:
        UserError: for anything else; for a single text, which is an iterable of its characters.
    """
    texts = as_list(given, argument, "names")
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{argument} must be a list of names, found {shown(given)}.")
    return texts


def as_list(given: object, argument: str, of: str) -> list[Any]:
    """Return the items of an iterable other than a text or a mapping.

    Raises:
        UserError: for anything else; `of` says what the items are.
    """
    try:
        if isinstance(given, str | bytes | Mapping):
            raise TypeError
        return [*given]  # type: ignore[misc]
    except TypeError:  # an array without axes has iter() and refuses it
        found = f"the string {shown(given)}" if isinstance(given, str) else shown(given)
        raise UserError(f"{argument} must be a list of {of}, found {found}.") from None


def as_path(given: object, argument: str) -> Path:
    """Return a path from a text or a path of any kind.

    Raises:
        UserError: for anything else.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str) or "\0" in path:
        raise UserError(f"{argument} must be a path, found {shown(given)}.")
    return Path(path)


def shown(given: object) -> str:
    """Return a value as a message shows it, on one line.

    Examples:
        >>> shown([1, 2]), shown(None)
        ('[1, 2]', 'None')
    """
    try:
        return printable(" ".join(repr(given).split()), 100)
    except Exception:  # of a user's type, or a number with too many digits for text
        return f"a {type(given).__name__}"
