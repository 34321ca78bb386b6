"""A view: what one sibling sees of the training data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmcbench.spec.canonical import canonical_json

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """What one sibling sees of the training set.

    Attributes:
        indices: positions in the full training set, `[m]` int64, sorted by class, then index.
        transform: the evaluation transform its images pass through (`gaussian_noise-3`), or None.
        labels: labels that replace the true ones, `[m]` int64, or None.
        nested: siblings see parts of one another, so shared noise goes by data set index instead of
            position in the view: the same order with holes.
    """

    indices: Indices
    transform: str | None = None
    labels: Indices | None = None
    nested: bool = False


def by_class(labels: Indices, indices: Indices) -> Indices:
    """`indices` sorted by class, then index: the order in which shared noise counts positions."""
    return indices[np.lexsort((indices, labels[indices]))]


def views_digest(views: Sequence[View], labels: Indices) -> str:
    """Sha256 over what the views show: per sibling its indices, labels and transform."""
    text = hashlib.sha256()
    for view in views:
        shown = labels[view.indices] if view.labels is None else view.labels
        header = {"n": len(view.indices), "transform": view.transform}
        text.update(canonical_json(header).encode())
        text.update(np.ascontiguousarray(view.indices, dtype="<i8").tobytes())
        text.update(np.ascontiguousarray(shown, dtype="<i8").tobytes())
    return text.hexdigest()
