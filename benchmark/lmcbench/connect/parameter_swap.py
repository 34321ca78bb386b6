"""Where a module keeps the tensors of its state, found once, so that others can take their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from lmcbench.errors import UserError, describe

Store = dict[str, Tensor | None]

EXTRA = "_extra_state"
"""Last part of the name under which a state dict has what `get_extra_state` of a module returns."""


class ParameterSwap:
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
    def use(self, state: Mapping[str, Tensor]) -> Iterator[None]:
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


class EvalCaches:
    """The layers of a network that do something of their own when the mode changes.

    Some keep in eval mode what they have worked out from their weights once (timm's LeViT, TinyViT and
    EfficientFormer: the attention's biases), until they are put into training mode: with other weights in
    their place such a layer would go on with those of the first pass.

    Args:
        model: the network, put into eval mode here with nothing kept.

    Raises:
        UserError: for a network whose weights themselves are others in eval mode, as where low-rank updates
            are merged: nothing says which of the two a state holds. And for one that refuses a mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [
            module
            for module in model.modules()
            if type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval
        ]
        if self._layers:
            _set_mode(model, True)
            trained = {name: value.detach().clone() for name, value in _tensors(model).items()}
            _set_mode(model, False)
            for name, value in _tensors(model).items():
                if name not in trained or not _same(trained[name], value):
                    raise UserError(
                        f"The network changes {name!r} when it is put into eval mode, so that nothing says "
                        "which of its modes a state is of. Switch that off (merging of low-rank updates)."
                    )
        else:
            model.eval()

    def clear(self) -> None:
        """Have the layers forget what they kept; all modes stay as they are."""
        for layer in self._layers:
            modes = [(module, module.training) for module in layer.modules()]
            layer.train(True)
            layer.eval()
            for module, mode in modes:
                module.training = mode


def graph_leaves(output: Tensor) -> Iterator[Tensor]:
    """The tensors that a gradient of `output` would flow to: leaves of autograd's graph."""
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


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether nothing changed; weights that nobody has set yet may be NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
