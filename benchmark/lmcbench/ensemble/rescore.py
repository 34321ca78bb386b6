"""Compute the measures of a record that follow from the siblings' stored logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcbench.ensemble.predictions import compare_errors, compare_predictions, softmax
from lmcbench.ensemble.sub_ensembles import ensembles_by_size

Logits = NDArray[np.float16]
"""Stored test logits of the siblings, `[K, n, classes]` fp16."""


@dataclass(frozen=True)
class PredictionMeasures:
    """The measures of predictions in a record.

    Attributes:
        ensemble: split -> keys of `compare_predictions`; None for a single network.
        functions: split -> keys of `compare_errors` and `sizes`, from `ensembles_by_size`; None for a single
            network.
        disagreement: pair (i, j) -> split -> fraction of images with different top-1.
    """

    ensemble: dict[str, dict[str, float | None]] | None
    functions: dict[str, dict[str, Any]] | None
    disagreement: dict[tuple[int, int], dict[str, float]]


def measure_logits(
    logits: Mapping[str, Logits], labels: Mapping[str, NDArray[np.integer]]
) -> PredictionMeasures:
    """Compute the measures of K networks' predictions, both to write and to verify a record.

    Args:
        logits: split -> `[K, n, classes]`.
        labels: split -> `[n]`.

    Raises:
        UserError: if labels do not fit the logits.
    """
    top = {name: value.argmax(-1) for name, value in logits.items()}
    networks = len(next(iter(logits.values())))
    disagreement = {
        (i, j): {name: float((t[i] != t[j]).mean()) for name, t in top.items()}
        for i, j in combinations(range(networks), 2)
    }
    if networks == 1:
        return PredictionMeasures(None, None, disagreement)
    probs = {name: softmax(value) for name, value in logits.items()}
    return PredictionMeasures(
        {name: compare_predictions(p, labels[name]) for name, p in probs.items()},
        {
            name: {**compare_errors(p, labels[name]), "sizes": ensembles_by_size(p, labels[name])}
            for name, p in probs.items()
        },
        disagreement,
    )
