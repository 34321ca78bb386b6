"""Find the logits in what a network returns, and their cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

KEYS = ("logits", "out", "output", "pred", "preds", "prediction")
"""Keys of the logits in a network's dictionary, in order of preference."""


def find_logits(out: Any) -> Any:
    """Return the logits in a network's output; anything else as it is.

    They are the attribute `logits` (Hugging Face; Inception and GoogLeNet in training), the entry of a
    dictionary under one of `KEYS`, or the first item of a tuple or list.

    Examples:
        >>> find_logits({"logits": 1, "hidden": 2}), find_logits((3, 4)), find_logits(5)
        (1, 3, 5)
    """
    logits = getattr(out, "logits", None)
    if logits is not None:
        return logits
    if isinstance(out, Mapping):
        return next((out[key] for key in KEYS if key in out), out)
    if isinstance(out, tuple | list) and out:
        return find_logits(out[0])
    return out


def cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the cross-entropy of every image, nats, `[..., n]`.

    Args:
        logits: `[..., n, classes]`.
        labels: `[n]`.
    """
    chosen = np.broadcast_to(labels[:, None], (*logits.shape[:-1], 1))
    return np.asarray(
        -np.take_along_axis(log_softmax(logits.astype(np.float64), axis=-1), chosen, -1)[..., 0]
    )


def return_logits(module: Any, arguments: Any, out: Any) -> Any:
    """Forward hook of a network that returns more than logits."""
    return find_logits(out)
