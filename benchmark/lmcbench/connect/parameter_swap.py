"""Run a module with other tensors in place of its parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from lmcbench.connect.isolation import has_own_mode
from lmcbench.errors import UserError, describe

Store = dict[str, Tensor | None]

EXTRA = "_extra_state"
"""Last part of the state dict's name for what a module's `get_extra_state` returns."""


class ParameterSwap:
    """Exchange a module's parameters and buffers for tensors given by their state-dict names.

    The places are looked up once. `torch.func.functional_call` looks them up at every call, about a tenth
    of a small network's pass (measured: a ResNet of width 8 on 360 images of 8x8, one core, 2026-11-22).
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
    def use(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Have the module compute with the tensors of `state`, into which it may also write.

        Raises:
            UserError: if `state` has a name that is neither a parameter nor a buffer. The module would
                silently use its own tensor for it.
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
                        f"The network's state dict has {name!r}, none of its parameters and buffers, which "
                        "therefore cannot be exchanged. Name tensors in the state dict as in the network."
                    )
            yield
        finally:
            # in reverse: where two names share a place, the first one saved the original
            for store, key, own in reversed(before):
                store[key] = own


class EvalCaches:
    """Clear what layers cache in eval mode, so that each state is computed from its own weights.

    timm's LeViT, TinyViT and EfficientFormer compute attention biases once in eval mode and keep them until
    they are put into training mode. With exchanged weights they would reuse those of the first pass.

    Args:
        model: the network; put into eval mode with empty caches.

    Raises:
        UserError: if a mode cannot be set, or if eval mode changes the weights (merged low-rank updates), in
            which case it is unknown to which mode a state belongs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if has_own_mode(module)]
        if not self._layers:
            model.eval()
            return
        _set_mode(model, True)
        trained = {name: value.detach().clone() for name, value in _tensors(model).items()}
        _set_mode(model, False)
        for name, value in _tensors(model).items():
            if name not in trained or not _is_unchanged(trained[name], value):
                raise UserError(
                    f"The network changes {name!r} when it is put into eval mode, so it is unknown to which "
                    "mode a state belongs. Switch that off (for example the merging of low-rank updates)."
                )

    def clear(self) -> None:
        """Clear the caches without changing the mode of any module."""
        for layer in self._layers:
            modes = [(module, module.training) for module in layer.modules()]
            layer.train(True)
            layer.eval()
            for module, mode in modes:
                module.training = mode


def graph_leaves(output: Tensor) -> Iterator[Tensor]:
    """Yield the leaf tensors of the autograd graph of `output`."""
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            yield leaf
        left += [before for before, _ in node.next_functions]


def _set_mode(model: nn.Module, training: bool) -> None:
    try:
        if training:
            model.train(True)  # some have no default
        else:
            model.eval()
    except Exception as error:
        mode = "training" if training else "eval"
        raise UserError(f"The network cannot be put into {mode} mode: {describe(error)}") from error


def _is_unchanged(a: Tensor, b: Tensor) -> bool:
    """Compare bit for bit; uninitialised weights may be NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
