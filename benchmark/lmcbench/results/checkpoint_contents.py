"""The weights inside what training scripts save, whatever holds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights among other things, the first that is there."""

WRAPPERS = ("module.", "_orig_mod.")
"""What data parallel training and torch.compile put before every name."""


def unwrap_state_dict(content: Mapping[Any, Any], own: Collection[str] | None = None) -> Mapping[Any, Any]:
    """The state dict in `content`: itself, or what stands under one of `STATE_DICT_KEYS`.

    Args:
        content: what was saved, or a part of it.
        own: names of the network's tensors; the prefixes of wrappers are taken off the names where
            the network has none with them. Without a network names stay.
    """
    inner = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), content)
    if own is None or not inner:
        return inner
    foreign = [p for p in WRAPPERS if not any(name.startswith(p) for name in own)]
    while (found := next((p for p in foreign if all(str(n).startswith(p) for n in inner)), None)) is not None:
        inner = {str(name).removeprefix(found): value for name, value in inner.items()}
    return inner
