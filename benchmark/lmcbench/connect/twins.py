"""A network copied, whatever its last pass has left on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def twin(model: nn.Module) -> nn.Module:
    """A deep copy that shares no weight with `model`.

    Torch copies no tensor that a gradient flows through, and networks keep some as attributes: features
    of their last pass, weights that are normalised in it. The copy has their values.
    """
    left = {id(t): t.detach() for module in model.modules() for t in _tensors(vars(module)) if not t.is_leaf}
    return copy.deepcopy(model, left)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
