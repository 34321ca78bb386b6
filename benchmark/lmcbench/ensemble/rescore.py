"""Everything a record says about predictions, recomputed from stored logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.predictions import compare_predictions, softmax

Logits = NDArray[np.float16]
"""Stored test logits of the siblings, `[K, n, classes]` fp16."""


@dataclass(frozen=True)
class Rescored:
    """Measures of predictions.

    Attributes:
        ensemble: per split, the keys of `compare_predictions`; None for a single network.
        disagreement: pair (i, j) -> per split, the fraction of images with different top-1.
    """

    ensemble: dict[str, dict[str, float | None]] | None
    disagreement: dict[tuple[int, int], dict[str, float]]


def from_logits(logits: Mapping[str, Logits], labels: NDArray[np.integer]) -> Rescored:
    """The measures of K networks' logits, split -> `[K, n, classes]`; `labels` `[n]` are of every split.

    It is what writes a record and what verifies one, so that both come out alike.

    Raises:
        UserError: for labels that do not suit the logits.
    """
    top = {name: value.argmax(-1) for name, value in logits.items()}
    networks = len(next(iter(logits.values())))
    disagreement = {
        (i, j): {name: float((t[i] != t[j]).mean()) for name, t in top.items()}
        for i, j in combinations(range(networks), 2)
    }
    if networks == 1:
        return Rescored(None, disagreement)
    ensemble = {name: compare_predictions(softmax(value), labels) for name, value in logits.items()}
    return Rescored(ensemble, disagreement)
