"""Find the logits in what a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("logits", "out", "output", "pred", "preds", "prediction")
"""Keys of the logits in a network's dictionary, in order of preference."""


def find_logits(out: Any) -> Any:
    """Return the logits in a network's output; anything else as it is.

    They are the attribute `logits` (Hugging Face; Inception and GoogLeNet in training), the entry of a
    dictionary under one of `KEYS`, or the first item of a tuple or list.

    Example:
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


def return_logits(module: Any, arguments: Any, out: Any) -> Any:
    """Forward hook of a network that returns more than logits."""
    return find_logits(out)
