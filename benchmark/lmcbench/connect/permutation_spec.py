"""Find the units of a network that may be permuted without changing its function, by tracing it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from lmcbench.connect.isolation import copy_model
from lmcbench.connect.unit_groups import INPUT, Axis, PermutationSpec, UnitGroups, cannot_align
from lmcbench.errors import UserError


def trace_permutations(model: nn.Module) -> PermutationSpec:
    """Return the permutation specification of `model`, derived by tracing it with torch.fx.

    The specification is that of Ainsworth et al. (2023, Git Re-Basin, section 3). Supported: linear and
    convolutional layers, depthwise convolutions (their output units are tied to their input's), BatchNorm,
    elementwise functions, pooling, flattening, residual sums (which tie groups), products of branches,
    concatenation of channels, and sums and products with a parameter or buffer of one number, or of one for
    each unit (a scale, the mean that images are normalised by).

    Raises:
        UserError: if the model cannot be traced or has an operation whose effect on units is unknown
            (attention, grouped convolutions, LayerNorm, reshaping, ...), which the message names.
    """
    private = copy_model(model).eval()
    try:
        graph = _Tracer().trace(private)
    except UserError:
        raise
    except Exception as error:  # fx raises many kinds of errors
        raise UserError(f"The network cannot be aligned: torch.fx cannot trace it: {error}") from error
    return _GraphReader(private, graph).run()


@dataclass(frozen=True)
class _Units:
    """A value with units, along axis 1, or the last axis if `flat`."""

    axis: Axis
    flat: bool


@dataclass(frozen=True)
class _Constant:
    """A parameter or buffer that the network reads directly, by its name in the state dict."""

    name: str
    value: Tensor


_Value = _Units | _Constant | None
"""Output of a node of the graph; None: a size, or a condition on sizes."""


class _Tracer(fx.Tracer):
    """Trace into all modules except torch's own layers and BatchNorms (timm's include an activation)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take conditions on the input's size (padding, minimal sizes) as false."""
        if _of_shape(obj.node):
            return False
        raise cannot_align(f"it branches on the value {obj.node.name!r}.")


_SPATIAL = (
    _MaxPoolNd,
    _AvgPoolNd,
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _DropoutNd,
    nn.Identity,
    nn.Upsample,
)
_UNFIT = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.GLU, nn.MultiheadAttention, nn.PReLU)
_SAME_FUNCTIONS = {
    *(F.relu, F.relu6, F.gelu, F.silu, F.elu, F.selu, F.leaky_relu, F.hardswish, F.hardsigmoid, F.hardtanh),
    *(F.sigmoid, F.tanh, F.softplus, F.mish, F.dropout, F.dropout2d, torch.relu, torch.relu_),
    *(torch.sigmoid, torch.tanh, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    *(operator.neg, operator.pos, torch.abs, torch.clamp, F.interpolate),
}  # fmt: skip
_SAME_METHODS = {"relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "detach", "clamp", "abs", "neg"}
_SUMS = {
    operator.add,
    operator.iadd,
    operator.sub,
    operator.isub,
    operator.mul,
    operator.imul,
    operator.truediv,
}
_SUMS |= {torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum}
_SUM_METHODS = {"add", "add_", "sub", "mul", "mul_", "div"}


class _GraphReader:
    """One pass over the graph from input to output that records where groups occur."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        self.graph = graph
        self.groups = UnitGroups()

    def run(self) -> PermutationSpec:
        values: dict[fx.Node, _Value] = {}
        for node in self.graph.nodes:
            values[node] = self._node(node, values)
        for names in _names_of_tensors(self.model):
            self.groups.share(names)
        found = self.groups.permutations()
        computed = sorted(found.axes.keys() - self.model.state_dict().keys())
        if computed:  # by weight norm, spectral norm and so on, from other tensors
            raise cannot_align(f"{computed[0]!r} is not in its state but computed from other tensors.")
        return found

    def _node(self, node: fx.Node, values: dict[fx.Node, _Value]) -> _Value:
        """Return the output of a node; constants may occur in sums and products only."""
        if node.op == "placeholder":
            return _Units((INPUT,), flat=False)
        if _of_shape(node):
            return None
        if node.op == "get_attr" and isinstance(
            found := operator.attrgetter(str(node.target))(self.model), Tensor
        ):
            return _Constant(str(node.target), found)
        inputs = [values[n] for n in node.all_input_nodes]
        units = [value for value in inputs if isinstance(value, _Units)]
        constants = [value for value in inputs if isinstance(value, _Constant)]
        if constants:
            if not units or not _adds_or_multiplies(node):
                raise self._unknown(node)
            for constant in constants:
                self._per_unit(constant, units[0])
        if node.op == "output":
            self.groups.pin(group for value in units for group in value.axis)
            return None
        if node.op == "call_module" and len(units) == 1:
            return self._module(str(node.target), self.model.get_submodule(str(node.target)), units[0])
        if node.op in ("call_function", "call_method") and units:
            return self._function(node, units, values)
        raise self._unknown(node)

    def _module(self, name: str, module: nn.Module, x: _Units) -> _Units:
        if isinstance(module, _ConvNd) and not module.transposed:
            return self._conv(name, module, x)
        if isinstance(module, nn.Linear):
            if not x.flat:
                raise cannot_align(f"{name!r} is linear in positions, not in units.")
            return self._weighted(name, module, x, module.out_features, flat=True)
        if isinstance(module, _BatchNorm):
            for own, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if value.ndim == 1:
                    self.groups.note(f"{name}.{own}", (x.axis,))
            return x
        if isinstance(module, nn.PReLU):
            self.groups.note(f"{name}.weight", (x.axis if module.num_parameters > 1 else None,))
            return x
        if isinstance(module, nn.Flatten):
            return self._flatten(name, module.start_dim, module.end_dim, x)
        if isinstance(module, _SPATIAL) or (
            type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, _UNFIT)
        ):
            return x
        raise cannot_align(f"the effect of {name!r} ({type(module).__name__}) on units is unknown.")

    def _conv(self, name: str, module: _ConvNd, x: _Units) -> _Units:
        if x.flat:
            raise cannot_align(f"{name!r} convolves a flattened value.")
        if module.groups == 1:
            return self._weighted(name, module, x, module.out_channels, flat=False)
        if module.groups == module.in_channels == module.out_channels:  # depthwise: outputs tied to inputs
            self.groups.note(f"{name}.weight", (x.axis, *[None] * (module.weight.ndim - 1)))
            if module.bias is not None:
                self.groups.note(f"{name}.bias", (x.axis,))
            return x
        raise cannot_align(f"{name!r} is a convolution in {module.groups} groups, which cannot be permuted.")

    def _weighted(self, name: str, module: nn.Linear | _ConvNd, x: _Units, out: int, flat: bool) -> _Units:
        known = self.groups.axes(f"{name}.weight")
        if known is not None:  # the layer ran before: same output units
            self.groups.note(f"{name}.weight", (known[0], x.axis, *known[2:]))
            assert known[0] is not None
            return _Units(known[0], flat)
        group = self.groups.open(out)
        self.groups.note(f"{name}.weight", ((group,), x.axis, *[None] * (module.weight.ndim - 2)))
        if module.bias is not None:
            self.groups.note(f"{name}.bias", ((group,),))
        return _Units((group,), flat)

    def _function(self, node: fx.Node, units: list[_Units], values: dict[fx.Node, _Value]) -> _Units:
        target: Any = node.target
        x = units[0]
        if node.op == "call_function" and target in (torch.cat, torch.concat):
            parts, dim = _argument(node, 0, "tensors", ()), _argument(node, 1, "dim", 0)
            if isinstance(parts, (list, tuple)) and dim == 1 and not any(value.flat for value in units):
                joined = [value for part in parts if isinstance(value := values[part], _Units)]
                if any(INPUT in value.axis for value in joined):
                    raise cannot_align(f"{node.name!r} concatenates the input itself.")
                return _Units(tuple(g for value in joined for g in value.axis), flat=False)
        elif _adds_or_multiplies(node):
            for other in units[1:]:
                self._same(node, x, other)
            return x
        elif target in (_SAME_FUNCTIONS if node.op == "call_function" else _SAME_METHODS) and len(units) == 1:
            return x
        elif target in (torch.flatten, "flatten"):
            start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
            return self._flatten(node.name, start, end, x)
        elif target in (torch.mean, "mean", torch.sum, "sum", torch.amax, "amax") and not x.flat:
            dims = _argument(node, 1, "dim", None)
            if dims is not None and {d if isinstance(d, int) else 0 for d in _listed(dims)} in (
                {2, 3},
                {-1, -2},
            ):
                keep = _argument(node, 2, "keepdim", False)
                return _Units(x.axis, flat=not keep)
        elif target in ("view", "reshape", torch.reshape) and not x.flat:
            shape = _listed(node.args[1]) if len(node.args) == 2 else list(node.args[1:])
            if len(shape) == 2 and shape[1] == -1:
                return _Units(x.axis, flat=True)
        raise self._unknown(node)

    def _flatten(self, name: str, start: Any, end: Any, x: _Units) -> _Units:
        if (start, end) != (1, -1):
            raise cannot_align(f"{name!r} flattens from axis {start} to {end}.")
        return _Units(x.axis, flat=True)

    def _same(self, node: fx.Node, x: _Units, y: _Units) -> None:
        """Tie the groups of two values that are added or multiplied."""
        if x.flat != y.flat or len(x.axis) != len(y.axis):
            raise self._unknown(node)
        self.groups.tie(x.axis, y.axis)

    def _per_unit(self, constant: _Constant, x: _Units) -> None:
        """Note a constant in a sum or product with a value as carrying the value's units."""
        shape = constant.value.shape
        if constant.value.numel() == 1:
            return
        # units stand last in `[n, units]`, third from the right in `[n, units, h, w]`
        dim = len(shape) - (1 if x.flat else 3)
        if dim < 0 or constant.value.numel() != shape[dim]:
            raise cannot_align(f"the effect of {constant.name!r} {list(shape)} on units is unknown.")
        if INPUT in x.axis:
            return
        if shape[dim] != self.groups.units(x.axis):
            raise cannot_align(f"the entries of {constant.name!r} {list(shape)} do not match the units.")
        if constant.name in self.model.state_dict():
            self.groups.note(constant.name, tuple(x.axis if d == dim else None for d in range(len(shape))))
        else:  # tensors outside the state are not permuted
            self.groups.pin(x.axis)

    @staticmethod
    def _unknown(node: fx.Node) -> UserError:
        what = (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", str(node.target))
        )
        return cannot_align(f"the effect of {what!r} (at {node.name!r}) on units is unknown.")


_COMPARE: set[Callable[..., Any]] = {
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.eq,
    operator.ne,
}
_ARITHMETIC: set[Callable[..., Any]] = {
    operator.floordiv,
    operator.mod,
    operator.mul,
    operator.sub,
    operator.add,
}


def _of_shape(node: fx.Node) -> bool:
    """Return whether a value is a size, is computed from sizes, or is an assertion on them."""
    if node.op == "call_function":
        if node.target is getattr:
            return node.args[1] in ("shape", "ndim", "device", "dtype")
        if (
            node.target in (torch._assert, operator.getitem, math.floor, int)
            or node.target in _COMPARE | _ARITHMETIC
        ):
            return bool(node.all_input_nodes) and all(_of_shape(n) for n in node.all_input_nodes)
    return node.op == "call_method" and node.target in ("size", "dim")


def _adds_or_multiplies(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _SUMS
    return node.op == "call_method" and node.target in _SUM_METHODS


def _names_of_tensors(model: nn.Module) -> Iterable[list[str]]:
    """Yield all names of each parameter and buffer; a shared tensor has several."""
    names: dict[int, list[str]] = {}
    for every in (model.named_parameters, model.named_buffers):
        for name, value in every(remove_duplicate=False):
            names.setdefault(id(value), []).append(name)
    return names.values()


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
