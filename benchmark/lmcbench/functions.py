"""What networks and points between them compute: features alike or not, and predictions put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lmcbench.connect.features import penultimate
from lmcbench.connect.network import Images, Network
from lmcbench.connect.state import Stack
from lmcbench.ensemble.cka import cka_matrix, linear_cka
from lmcbench.ensemble.predictions import compare_predictions, softmax
from lmcbench.results.measures import Array

PATH_MEMBERS = (3, 5)
"""Sizes of ensembles of points on the path; two are its ends, which are the siblings."""


def feature_similarity(network: Network, members: Stack, images: Images) -> list[list[float | None]]:
    """Linear CKA of the penultimate features of every two networks, `[K, K]`."""
    return cka_matrix([f.double().cpu().numpy() for f in penultimate(network, members, images)])


def path_similarity(network: Network, path: Stack, images: Images) -> dict[str, list[float | None]]:
    """Linear CKA of the penultimate features along the path with those at its ends.

    Args:
        network: where to run.
        path: the states at every alpha, statistics recalibrated.
        images: the same for all.

    Returns:
        `to_a` and `to_b`, one per alpha: 1 at the end itself; None where features are constant.
    """
    features = [f.double().cpu().numpy() for f in penultimate(network, path, images)]
    return {
        "to_a": [linear_cka(f, features[0]) for f in features],
        "to_b": [linear_cka(f, features[-1]) for f in features],
    }


def path_ensembles(
    network: Network,
    path: Stack,
    images: Images,
    labels: Tensor,
    alphas: Array,
    sizes: Sequence[int] = PATH_MEMBERS,
) -> dict[str, dict[str, Any]]:
    """Ensembles of points on the path [H], ends included, as evenly spaced as the grid allows.

    They cost no training beyond the siblings'. Sizes that the grid has too few points for are left out.

    Args:
        network: where to run.
        path: the states at every alpha, statistics recalibrated.
        images: of the split.
        labels: `[n]`.
        alphas: the grid, `[A]`.
        sizes: numbers of members, at least 2.

    Returns:
        By number of members: `alphas` of the members and the keys of `compare_predictions`.
    """
    probs = softmax(network.logits(path, images).cpu().numpy())
    found = {}
    for size in sizes:
        if size > len(alphas):
            continue
        targets = np.arange(size) / (size - 1)
        chosen = [int(np.abs(alphas - target).argmin()) for target in targets]
        if len(set(chosen)) == size:
            worth = compare_predictions(probs[chosen], labels.cpu().numpy())
            found[str(size)] = {"alphas": alphas[chosen].tolist(), **worth}
    return found
