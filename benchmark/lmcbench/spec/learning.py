"""When a training counts as one that did not learn (docs/design.md, section 9.7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DID_NOT_LEARN = 0.98
"""A final training loss of at least this share of the labels' entropy is no better than a guess."""

LEAST_ENTROPY = 0.05
"""Entropy in nats up to which the labels say too little to tell; nearly all images are of one class."""


def label_entropy(labels: NDArray[np.int64]) -> float:
    """Return the entropy of the classes' frequencies in `labels`, in nats."""
    return count_entropy(np.bincount(labels).tolist())


def count_entropy(counts: Sequence[int]) -> float:
    """Return the entropy of labels in nats, from the number of images of each class.

    It is the smallest mean cross-entropy of a prediction that ignores the image.
    """
    n = sum(counts)
    return -math.fsum(count / n * math.log(count / n) for count in counts if count)


def did_not_learn(train_loss: float, entropy: float) -> bool:
    """Return whether a training ended no better than guessing; both arguments in nats.

    Args:
        train_loss: mean mini-batch loss of the last pass.
        entropy: of the labels of the training images.
    """
    return entropy > LEAST_ENTROPY and train_loss >= DID_NOT_LEARN * entropy
