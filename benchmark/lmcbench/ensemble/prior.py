"""Predictions corrected for the label prior of each member's training view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.predictions import Array, softmax

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
