"""Run a network's forward pass and label every tensor in it, by a rule for each operation of torch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmcbench.connect.axis_labels import Atoms, cannot_align
from lmcbench.connect.layer_rules import LAYER_RULES
from lmcbench.connect.moving_rules import MOVING_RULES, elementwise
from lmcbench.connect.planes import Labels

Rule = Callable[["LabelMode", Any, tuple[Any, ...], dict[str, Any], Any], Labels | Sequence[Labels | None]]

RULES: dict[str, Rule] = MOVING_RULES | LAYER_RULES
"""Rules by the name of the operation, without the underscore of those that work in place."""


class LabelMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Run a network's forward pass and label every tensor in it.

    Attributes:
        atoms: what was found.
        modules: names of the modules that are running, innermost last.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.atoms = Atoms()
        self.modules: list[str] = []
        self._labels: dict[int, Labels] = {}
        self._alive: dict[int, weakref.ref[Tensor]] = {}  # a later tensor may get the id of a freed one
        self._computed: set[int] = set()  # from images
        self._learned: set[int] = set()  # from weights
        self.parameters: dict[int, Callable[[], Labels]] = {}
        """Labels of weights, made when they are first used."""
        self.weights: set[int] = set()
        """Addresses of the parameters' memory, which must not be written."""

    def give(self, tensor: Tensor, labels: Labels | None, computed: bool, learned: bool) -> None:
        """Set the labels of a tensor, and whether it was computed from images and from weights."""
        key = id(tensor)
        self._forget(key)
        self._alive[key] = weakref.ref(tensor, lambda _: self._forget(key))
        if labels is not None and labels.planes:
            self._labels[key] = labels
        for chosen, group in ((computed, self._computed), (learned, self._learned)):
            if chosen:
                group.add(key)

    def _forget(self, key: int) -> None:
        self._alive.pop(key, None)
        self._labels.pop(key, None)
        self._computed.discard(key)
        self._learned.discard(key)

    def labels(self, tensor: Any) -> Labels:
        """Return the labels of a tensor; of a number, those of a tensor of one element."""
        if not isinstance(tensor, Tensor):
            return Labels(())
        key = id(tensor)
        if key in self.parameters:
            self.give(tensor, self.parameters.pop(key)(), False, True)
        planes = self._labels[key].planes if key in self._labels else ()
        shape = tuple(tensor.shape)
        loose = {d for d, n in enumerate(shape) if n > 1 and tensor.stride(d) == 0}
        if key not in self._computed and key not in self._learned and tensor.numel():
            for d, n in enumerate(shape):
                if n > 1 and d not in loose and bool((tensor == tensor.narrow(d, 0, 1)).all()):
                    loose.add(d)
        return Labels(shape, planes, frozenset(loose))

    def is_computed(self, tensors: Iterable[Any]) -> bool:
        """Return whether any of the tensors depends on the images."""
        return any(id(t) in self._computed for t in tensors)

    def is_learned(self, tensors: Iterable[Any]) -> bool:
        """Return whether any of the tensors depends on weights."""
        return any(id(t) in self._learned or id(t) in self.parameters for t in tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name.endswith("_") and given and given[0].untyped_storage().data_ptr() in self.weights:
            raise cannot_align(f"{self.module!r} writes into its weights when it runs.")
        known = [self.labels(x) for x in given]
        self.atoms.where = f"{self.module!r} ({name.strip('_')})"
        if name in _VALUES:
            self._refuse_values(given, known, name)
            return func(*args, **kwargs)
        computed, learned = self.is_computed(given), self.is_learned(given)
        out = func(*args, **kwargs)
        outs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if not outs:
            return out
        if name in _FACTORIES:
            computed = learned = False
        found: Sequence[Labels | None] = [None] * len(outs)
        if name not in _FACTORIES and any(labels.planes for labels in known):
            found = self._apply(func, name, args, kwargs, out, known, len(outs))
        for tensor, labels in zip(outs, found, strict=True):
            self.give(tensor, labels, computed, learned)
        return out

    @property
    def module(self) -> str:
        """Name of the module that is running."""
        return self.modules[-1] if self.modules and self.modules[-1] else "the network"

    def _apply(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        known: list[Labels],
        count: int,
    ) -> Sequence[Labels | None]:
        rule = RULES.get(name) or RULES.get(name.rstrip("_"))
        if rule is None and _is_pointwise(func, name):
            rule = elementwise
        if rule is not None:
            found = rule(self, func, args, kwargs, out)
            listed = [found] if isinstance(found, Labels) else list(found)
            listed += [None] * (count - len(listed))
            return listed
        for labels in known:
            self.atoms.pin_all(labels.planes, "is not understood")
        return [None] * count

    def _refuse_values(self, given: list[Tensor], known: list[Labels], name: str) -> None:
        if self.is_computed(given):
            called = "item" if name == "_local_scalar_dense" else name
            raise cannot_align(
                f"{self.module!r} chooses what to do by values that it computes from the images ({called})."
            )
        for labels in known:
            self.atoms.pin_all(labels.planes, "reads single values")


_VALUES = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_unique", "_unique2", "masked_select"),
    *("unique_consecutive", "bincount", "nonzero_static", "unique_dim", "allclose"),
}
_FACTORIES = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"),
    *("zero_", "fill_", "zero", "fill", "rand_like", "randn_like", "bernoulli", "new_empty_strided"),
}


def _is_pointwise(func: Any, name: str) -> bool:
    if torch.Tag.pointwise in func.tags:
        return True
    if not name.endswith("_"):
        return False
    packet = getattr(torch.ops.aten, name.rstrip("_"), None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
