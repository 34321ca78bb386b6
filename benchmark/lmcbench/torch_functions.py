"""Other functions in place of torch's while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class ReplacedFunctions(TorchFunctionMode):
    """Within this context, call the functions of `table` in place of those that are its keys.

    A replacement that calls the function that it replaces gets torch's.

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> with ReplacedFunctions({F.relu: torch.neg}):
        ...     F.relu(torch.ones(2))
        tensor([-1., -1.])
    """

    def __init__(self, table: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the replacement of `func`, or `func` itself."""
        return self.table.get(func, func)(*args, **(kwargs or {}))
