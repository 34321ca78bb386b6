"""The sentence that answers whether to average networks, to ensemble them, or to keep the best."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import counted

Wrong = NDArray[np.bool_]
"""Whether images are misclassified, `[..., n]`."""

STANDARD_ERRORS = 2
"""Standard errors of a difference within which two errors count as equal."""


def verdict(
    split: str,
    data: str,
    networks: Wrong,
    ensemble: Wrong,
    soups: Mapping[str, Wrong],
    *,
    chance: float = 1.0,
) -> str:
    """Return one sentence: what to do with the networks, and on what that rests.

    A soup costs as much as one network, an ensemble as much as all of them. The soup is advised unless it
    is worse than the best network by more than `STANDARD_ERRORS` of the difference, image by image; then the
    ensemble, if it is better than the best network by as much; else the best network. Gives no advice if
    no network beats always predicting the commonest class.

    Args:
        split: the split that the images are of.
        data: the data set's name.
        networks: the networks' errors, `[S, n]`.
        ensemble: their ensemble's.
        soups: name -> the soup's; the first is the uniform one.
        chance: error of always predicting the commonest class.

    Examples:
        >>> networks = np.array([[0, 0, 0, 1], [0, 0, 1, 0]], dtype=bool)
        >>> verdict("test", "digits", networks, networks[0], {"soup": networks[0]}).split(":")[0]
        'Average them'
    """
    best = int(networks.mean(1).argmin())
    if networks[best].mean() >= chance:
        return (
            "No answer: no network beats always predicting the commonest class "
            f"({100 * chance:.2f} % error on {split} images of {data}). Check the "
            "classes, their order, and --mean and --std."
        )
    name, soup = min(soups.items(), key=lambda item: item[1].mean())
    letter = letter_of(best)
    if _sign_of_difference(soup, networks[best]) <= 0:
        advice = "Average them" if name == "soup" else f"Average the members of the {name}"
        if _sign_of_difference(ensemble, soup) < 0:
            advice += ", or ensemble them if predictions may cost as much as those of all networks"
    elif _sign_of_difference(ensemble, networks[best]) < 0:
        advice = "Ensemble them, and do not average them"
    else:
        advice = f"Keep the best network, {letter}, because the {name} is worse and the ensemble no better"
    errors = (
        f"the {name} has {100 * soup.mean():.2f} % error, the best network ({letter}) "
        f"{100 * networks[best].mean():.2f} % and the ensemble {100 * ensemble.mean():.2f} %"
    )
    images = counted(len(soup), "training image" if split == "train" else f"{split} image")
    rule = f"differences within {STANDARD_ERRORS} standard errors count as none"
    return f"{advice}: {errors}, on {images} of {data} ({rule})."


def letter_of(index: int) -> str:
    """Return the name of a network in tables: A, B, ..., Z, A1, B1, ...

    >>> letter_of(0), letter_of(27)
    ('A', 'B1')
    """
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _sign_of_difference(a: Wrong, b: Wrong) -> int:
    """Return the sign of the error of `a` minus that of `b`, on the same images; 0 if it may be chance."""
    difference = a.astype(float) - b.astype(float)
    mean = difference.mean()
    deviation = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return 0 if abs(mean) <= STANDARD_ERRORS * deviation else int(np.sign(mean))
