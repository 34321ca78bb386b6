"""The weights inside what training scripts save, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights among other things, the first that is there."""

PARALLEL = "module."
"""What data parallel training puts before every name."""


def unwrapped(content: Mapping[Any, Any], own: Iterable[str] | None = None) -> Mapping[Any, Any]:
    """The state dict in `content`: itself, or what stands under one of `NESTED`.

    Args:
        content: what was saved, or a part of it.
        own: names of the network's tensors; the prefix of data parallel training is taken off the
            names where the network has none with it. Without a network names stay.
    """
    inner = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), content)
    if own is None or not all(str(name).startswith(PARALLEL) for name in inner):
        return inner
    if any(name.startswith(PARALLEL) for name in own):
        return inner
    return {str(name).removeprefix(PARALLEL): value for name, value in inner.items()}
