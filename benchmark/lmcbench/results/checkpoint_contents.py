"""Locate the state dict in the content of a checkpoint file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys of the state dict in checkpoints of training scripts, in order of preference."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of all names after data parallel training and torch.compile."""


def unwrap_state_dict(content: Mapping[Any, Any], own: Collection[str] | None = None) -> Mapping[Any, Any]:
    """Return the state dict in `content`: under one of `STATE_DICT_KEYS`, or `content` itself.

    Args:
        content: content of the checkpoint.
        own: names of the network's tensors. Prefixes that no own name has and all names in the state dict
            have are removed. Without `own`, names are unchanged.
    """
    inner = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), content)
    if own is None or not inner:
        return inner
    foreign = [p for p in WRAPPERS if not any(name.startswith(p) for name in own)]
    while prefix := next((p for p in foreign if all(str(name).startswith(p) for name in inner)), None):
        inner = {str(name).removeprefix(prefix): value for name, value in inner.items()}
    return inner
