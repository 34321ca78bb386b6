"""Temperature scaling: the loss of a network once its confidence is fitted (Guo et al., 2017, section 4.2).

Logits divided by a temperature give the same answers with other confidence. A loss at the fitted temperature
shows how well a network orders classes, whatever the scale of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEEPEST = 100.0
"""Largest inverse temperature. A network without a wrong answer has no best one: its loss falls for ever."""

TOLERANCE = 1e-9
"""Width of the interval around the best inverse temperature at which the search ends."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.integer]) -> tuple[float, float]:
    """Return the inverse temperature b in [0, 100] with the least loss of b times the logits, and this loss.

    The loss is convex in b: its slope is found to be 0 by bisection, which gives the same value on every
    machine up to rounding. b and loss are of the same images. One number fitted on n images lowers their
    mean loss by about 1 / (2 n) nats, which cancels between networks scored on the same images.

    Args:
        logits: of one network, `[n, classes]`, of any dtype.
        labels: true classes, `[n]`.

    Returns:
        The inverse temperature (0: all classes are equally likely), and the mean cross-entropy in nats.

    Examples:
        >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
        >>> b, loss = fit_temperature(10 * logits, np.array([0, 0, 0, 1]))
        >>> round(b, 6), round(loss, 6)
        (0.05, 0.562335)
    """
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    given = np.take_along_axis(z, np.asarray(labels)[:, None], -1)[:, 0]

    def slope(b: float) -> float:
        odds = np.exp(b * z)
        return float(((odds * z).sum(-1) / odds.sum(-1) - given).mean())

    low, high = 0.0, STEEPEST
    if slope(low) >= 0:
        high = low
    elif slope(high) <= 0:
        low = high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    b = (low + high) / 2
    loss = float((np.log(np.exp(b * z).sum(-1)) - b * given).mean())
    return b, max(loss, 0.0)


def scale_line(fits: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Return the fields of a record for networks at alpha = 0, 1/2 and 1, from their `fit_temperature`."""
    return {
        "inverse_temperature": [b for b, _ in fits],
        "loss": [loss for _, loss in fits],
    }
