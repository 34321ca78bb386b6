"""Temperature scaling: the loss of a network once its confidence is fitted (Guo et al., 2017, section 4.2).

Logits divided by a temperature give the same answers with other confidence. A loss at the fitted temperature
shows how well a network orders classes, whatever the scale of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.predictions import softmax
from lmcbench.results.logits import cross_entropy

STEEPEST = 100.0
"""Largest inverse temperature. Without it, a network without errors has no minimum of the loss."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.integer]) -> tuple[float, float]:
    """Return the inverse temperature b in [0, 100] with the least loss of b times the logits, and this loss.

    The loss is convex in b, so its slope has one zero. b is fitted on the images that the loss is of. One
    number fitted on n images lowers their mean loss by about 1 / (2 n) nats, which cancels between networks
    scored on the same images.

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
    from scipy.optimize import brentq  # 0.14 s and 23 MiB, only where networks are scored

    z = logits.astype(np.float64)
    chosen = z[np.arange(len(z)), labels]

    def slope(b: float) -> float:
        return float(((softmax(b * z) * z).sum(-1) - chosen).mean())

    b = 0.0 if slope(0.0) >= 0 else STEEPEST if slope(STEEPEST) <= 0 else float(brentq(slope, 0.0, STEEPEST))
    return b, float(cross_entropy(b * z, labels).mean())


def scale_line(fits: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Return the fields of a record for networks at alpha = 0, 1/2 and 1, from their `fit_temperature`."""
    return {
        "inverse_temperature": [b for b, _ in fits],
        "loss": [loss for _, loss in fits],
    }
