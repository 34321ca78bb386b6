"""Logits adjusted after training: by the temperature of the least loss, and for the label prior of a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.predictions import Array, softmax
from lmcbench.results.logits import cross_entropy

STEEPEST = 100.0
"""Largest inverse temperature. Without it, a network without errors has no minimum of the loss."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.integer]) -> tuple[float, float]:
    """Return the inverse temperature b in [0, 100] with the least loss of b times the logits, and this loss.

    Logits divided by a temperature give the same answers with other confidence (Guo et al., 2017, section
    4.2): this loss shows how well a network orders classes, whatever the scale of its logits.

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


SMOOTHING = 1.0
"""Images added to every class of a view (Laplace), so that the prior of a class it lacks is not 0."""


def log_prior(counts: Sequence[int]) -> Array:
    """Return log (n_c + s) / (n + s C) of every class, `[C]`, with s = `SMOOTHING` (Laplace)."""
    given = np.asarray(counts, dtype=np.float64)
    return np.asarray(np.log((given + SMOOTHING) / (given.sum() + SMOOTHING * len(given))))


def compare_corrected(
    logits: NDArray[Any], labels: NDArray[np.integer], counts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return accuracies of members and their ensemble, each member's log-prior subtracted from its logits.

    A network trained on skewed labels predicts p(y | x) under its view's prior; the difference is
    proportional to p(x | y), the posterior under a uniform prior (Saerens et al., 2002, equation 2.4, with
    equal new priors). The ensemble is the mean of the corrected members' softmax probabilities.

    Args:
        logits: of K networks, `[K, n, classes]`.
        labels: true classes, `[n]`.
        counts: images of every class in each network's training view, `[K][classes]`.

    Returns:
        `accuracies`, one per member; `accuracy_mean`, `ensemble_accuracy` and their difference
        `ensemble_gain` (fractions).
    """
    probs = np.stack(
        [softmax(z.astype(np.float64) - log_prior(c)) for z, c in zip(logits, counts, strict=True)]
    )
    right = probs.argmax(-1) == labels
    mean, ensemble = float(right.mean()), float((probs.mean(0).argmax(-1) == labels).mean())
    return {
        "accuracies": [float(of_member.mean()) for of_member in right],
        "accuracy_mean": mean,
        "ensemble_accuracy": ensemble,
        "ensemble_gain": ensemble - mean,
    }


def compare_all_corrected(
    logits: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[np.integer]],
    counts: Sequence[Sequence[int]],
) -> dict[str, dict[str, Any]]:
    """Return `compare_corrected` for each split."""
    return {name: compare_corrected(given, labels[name], counts) for name, given in logits.items()}
