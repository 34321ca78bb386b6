"""Where a module keeps the tensors of its state, found once, so that others can take their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from lmcbench.errors import UserError

Store = dict[str, Tensor | None]

EXTRA = "_extra_state"
"""Last part of the name under which a state dict has what `get_extra_state` of a module returns."""


class Slots:
    """The places of a module's parameters and buffers, by their names in its state dict.

    `torch.func.functional_call` finds them anew at every call, which costs a small network about a
    tenth of its pass (measured: a ResNet of width 8 on 360 images of 8x8, one core, 2026-11-22).
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[str, tuple[Store, str]] = {
            f"{prefix}.{key}" if prefix else key: (store, key)
            # a module that is used twice has two names, as in its state dict
            for prefix, module in model.named_modules(remove_duplicate=False)
            for store in (module._parameters, module._buffers)
            for key in store
        }

    @contextmanager
    def holding(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """While it lasts, the module computes with the tensors of `state`, and may write into them.

        Raises:
            UserError: naming a tensor that is none of the module's parameters and buffers: the module would
                compute with its own in its place.
        """
        before: list[tuple[Store, str, Tensor | None]] = []
        try:
            for name, tensor in state.items():
                if name in self._places:
                    store, key = self._places[name]
                    before.append((store, key, store[key]))
                    store[key] = tensor
                elif name.rpartition(".")[2] != EXTRA:
                    raise UserError(
                        f"The network's state dict has {name!r}, none of its parameters and buffers, so "
                        "that no other can take its place. Name it there as in the network."
                    )
            yield
        finally:
            # the last first: of two names for one place the first knows what was there
            for store, key, own in reversed(before):
                store[key] = own
