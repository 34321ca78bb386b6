"""Bounds of a network's scores from its logits in fp16: what rounding leaves open, and no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.predictions import ECE_BINS, expected_calibration_error, softmax
from lmcbench.results.logits import cross_entropy
from lmcbench.submission.predictions_file import Logits

HALF_STEP = 2.0**-11
"""Largest change of a number by rounding to fp16, relative to its size."""

SMALLEST = 2.0**-24
"""The step of fp16 near 0."""

SUMS = 1e-5
"""Relative difference of a mean loss by the order of sums in fp32, times a margin."""


@dataclass(frozen=True)
class ScoreBounds:
    """The smallest and largest error, loss and calibration error of an fp32 evaluation.

    Loss and calibration error are None where logits beyond the range of fp16 were clamped.
    """

    error: tuple[float, float]
    loss: tuple[float, float] | None
    ece: tuple[float, float] | None


def score_bounds(logits: Logits, labels: NDArray[np.int64], steps: int = 0) -> ScoreBounds:
    """Return the bounds of a network's scores.

    Rounding keeps the order of logits, so an image is undecided only where its top logits are equal in fp16,
    or at most `steps` of its steps apart.

    Args:
        logits: `[n, classes]`.
        labels: `[n]`.
        steps: rounding steps between the evaluation whose logits these are, and the one that is checked.
    """
    n = len(labels)
    rows = np.arange(n)
    top = logits.max(-1, keepdims=True)
    near = logits.astype(np.float64) >= top.astype(np.float64) - steps * np.spacing(np.abs(top))
    right = near[rows, labels]
    undecided = right & (near.sum(-1) > 1)
    low = float((~right).mean())
    error = (low - 1e-9, low + float(undecided.mean()) + 1e-9)
    values = logits.astype(np.float64)
    size = np.abs(values)
    if size.max() >= np.finfo(np.float16).max:
        return ScoreBounds(error, None, None)
    rounding = size * HALF_STEP * 1.001 + SMALLEST
    probs = softmax(logits)
    # the gradient of a cross-entropy is p - y, and its curvature is a variance of logits under p
    curvature = rounding.max(-1) ** 2
    pull = probs.copy()
    pull[rows, labels] = 1 - pull[rows, labels]
    loss = float(cross_entropy(values, labels).mean())
    slack = float(((pull * rounding).sum(-1) + curvature).mean()) + SUMS * (1 + loss)
    return ScoreBounds(error, (loss - slack, loss + slack), _ece_bounds(probs, labels, rounding, undecided))


def _ece_bounds(
    probs: NDArray[np.float64],
    labels: NDArray[np.int64],
    rounding: NDArray[np.float64],
    undecided: NDArray[np.bool_],
) -> tuple[float, float]:
    """Return the bounds of the calibration error.

    An image moves its bin's gap by as much as its confidence changes, by 1 if its class is undecided, and
    where its confidence is at the edge of a bin, the gaps of both bins by its own.
    """
    n = len(labels)
    rows, first = np.arange(n), probs.argmax(-1)
    confidence, right = probs[rows, first], first == labels
    pull = probs.copy()
    pull[rows, first] = 1 - confidence
    change = confidence * (pull * rounding).sum(-1) + 2 * rounding.max(-1) ** 2 + 1e-6
    edges = np.arange(1, ECE_BINS) / ECE_BINS
    at_edge = np.abs(confidence[:, None] - edges).min(-1) <= change
    gap = np.where(undecided, 1.0, np.abs(right - confidence))
    slack = float((change + undecided + at_edge * 2 * gap).sum()) / n
    ece = expected_calibration_error(probs, labels)
    return ece - slack, ece + slack
