"""What each operation of torch does to the labels of its arguments (`axis_labels`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmcbench.connect.axis_labels import Atoms, Labels, axes_of, cannot_align, compress

Rule = Callable[["LabelMode", Any, tuple[Any, ...], dict[str, Any], Any], Labels | Sequence[Labels | None]]


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
        self._kept: dict[int, Tensor] = {}  # so that no other tensor gets the same id
        self._computed: set[int] = set()  # from images
        self._learned: set[int] = set()  # from weights
        self.parameters: dict[int, Callable[[], Labels]] = {}
        """Labels of weights, made when they are first used."""

    def give(self, tensor: Tensor, labels: Labels | None, computed: bool, learned: bool) -> None:
        """Set the labels of a tensor, and whether it was computed from images and from weights."""
        key = id(tensor)
        self._kept[key] = tensor
        self._labels.pop(key, None)
        if labels is not None and labels.planes:
            self._labels[key] = labels
        for chosen, group in ((computed, self._computed), (learned, self._learned)):
            group.add(key) if chosen else group.discard(key)

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
            rule = _elementwise
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


def _axis(d: int, ndim: int) -> int:
    return d % ndim if ndim else 0


def _axes(dims: Any, ndim: int) -> set[int]:
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return set(range(ndim))
    return {_axis(d, ndim) for d in (dims if isinstance(dims, (list, tuple)) else [dims])}


def _argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """Return an argument of an operation by its name in the schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            if name in kwargs:
                return kwargs[name]
            return args[position] if position < len(args) else argument.default_value
    return None


# --- elementwise --------------------------------------------------------------------------------


def _elementwise(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    found = mode.labels(tensors[0])
    for other in tensors[1:]:
        found = mode.atoms.meet(found, mode.labels(other))
    return found


def _same(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    return mode.labels(args[0])


def _copy(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    target, source = mode.labels(args[0]), mode.labels(args[1])
    if args[0]._base is not None:  # a part of another tensor, whose labels are not followed
        mode.atoms.pin_all((*target.planes, *source.planes), "writes into a part of a tensor")
        return Labels(target.shape)
    return Labels(target.shape, source.padded(len(target.shape)).planes)


def _glu(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    d = _axis(_argument(func, args, kwargs, "dim"), len(x.shape))
    half = x.shape[d] // 2
    parts = [_cut(mode, x, d, slice(i * half, (i + 1) * half)) for i in (0, 1)]
    return mode.atoms.meet(*parts)


# --- moving elements ----------------------------------------------------------------------------


def _reshape(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    return mode.atoms.reshape(mode.labels(args[0]), out.shape)


def _moved(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Apply the operation, which treats every axis alike (transpose), to the planes themselves."""
    planes = [func(plane, *args[1:], **kwargs) for plane in mode.labels(args[0]).planes]
    return Labels(tuple(out.shape), tuple(planes))


def _expand(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0]).padded(out.ndim)
    return Labels(tuple(out.shape), x.planes)


def _cut(mode: LabelMode, x: Labels, axis: int, index: Any) -> Labels:
    """Return the labels of a part along one axis."""
    planes = []
    for plane in x.planes:
        if plane.shape[axis] == 1:
            planes.append(plane)
            continue
        places = [slice(None)] * plane.ndim
        places[axis] = index
        part = plane[tuple(places)]
        mode.atoms.distinguish([plane], [part])
        planes.append(compress(part))
    shape = list(x.shape)
    shape[axis] = len(range(*index.indices(shape[axis]))) if isinstance(index, slice) else len(index)
    return Labels(tuple(shape), tuple(p for p in planes if axes_of(p)), x.loose)


def _slice(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    d, start, end, step = (_argument(func, args, kwargs, n) for n in ("dim", "start", "end", "step"))
    return _cut(mode, x, _axis(d, len(x.shape)), slice(start, end, step))


def _narrow(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, start = mode.labels(args[0]), int(args[2])
    return _cut(mode, x, _axis(args[1], len(x.shape)), slice(start, start + args[3]))


def _select(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, index = mode.labels(args[0]), int(args[2])
    d = _axis(args[1], len(x.shape))
    part = _cut(mode, x, d, [index % x.shape[d]])
    return Labels(tuple(out.shape), tuple(plane.squeeze(d) for plane in part.planes))


def _split(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    x = mode.labels(args[0])
    d = _axis(_argument(func, args, kwargs, "dim"), len(x.shape))
    parts, start = [], 0
    for piece in out:
        parts.append(_cut(mode, x, d, slice(start, start + piece.shape[d])))
        start += piece.shape[d]
    return parts


def _unbind(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    x = mode.labels(args[0])
    d = _axis(_argument(func, args, kwargs, "dim"), len(x.shape))
    parts = [_cut(mode, x, d, [i]) for i in range(x.shape[d])]
    return [Labels(tuple(out[0].shape), tuple(p.squeeze(d) for p in part.planes)) for part in parts]


def _cat(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    parts = [mode.labels(x) for x in args[0] if x.numel() or x.ndim == out.ndim]
    return mode.atoms.join(parts, _axis(_argument(func, args, kwargs, "dim"), out.ndim))


def _stack(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    d = _axis(_argument(func, args, kwargs, "dim"), out.ndim)
    parts = []
    for tensor in args[0]:
        x = mode.labels(tensor)
        shape = (*x.shape[:d], 1, *x.shape[d:])
        loose = frozenset(i + (i >= d) for i in x.loose)
        parts.append(Labels(shape, tuple(p.unsqueeze(d) for p in x.planes), loose))
    return mode.atoms.join(parts, d)


def _pad(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, amounts = mode.labels(args[0]), args[1]
    for i in range(len(amounts) // 2):
        d = len(x.shape) - 1 - i
        before, after = amounts[2 * i : 2 * i + 2]
        if not (before or after):
            continue
        if not any(d in axes_of(plane) for plane in x.planes):
            shape = list(x.shape)
            shape[d] += before + after
            x = Labels(tuple(shape), x.planes)
            continue
        if before < 0 or after < 0:
            end = x.shape[d] + min(after, 0)
            x = _cut(mode, x, d, slice(max(-before, 0), end))
        sides = []
        for amount in (before, after):
            shape = list(x.shape)
            shape[d] = max(amount, 0)
            sides.append(Labels(tuple(shape), (), frozenset(range(len(shape)))))
        parts = [part for part in (sides[0], x, sides[1]) if part.shape[d]]
        x = mode.atoms.join(parts, d)
    return x


def _rearranged(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Apply an operation that only moves or repeats elements to planes of the full size."""
    x = mode.labels(args[0])
    if mode.is_computed(y for y in tree_leaves((args[1:], kwargs)) if isinstance(y, Tensor)):
        mode.atoms.pin_all(x.planes, "moves elements by values that it computes")
        return Labels(tuple(out.shape))
    labelled = frozenset[int]().union(*(axes_of(plane) for plane in x.planes))
    free = {d for d, n in enumerate(x.shape) if n > 1 and d not in labelled}
    planes, made = list(x.planes), []
    if len(out.shape) != len(x.shape) and free:
        planes.append(mode.atoms.index_plane(x.shape, free))
    for plane in planes:
        moved = func(plane.expand(x.shape).contiguous(), *args[1:], **kwargs)
        mode.atoms.distinguish([plane], [moved])
        made.append(compress(moved))
    return Labels(tuple(out.shape), tuple(p for p in made if axes_of(p)))


def _index(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, indices = mode.labels(args[0]), args[1]
    used = [d for d, index in enumerate(indices) if index is not None]
    if mode.is_computed(indices[d] for d in used):
        mode.atoms.pin_all(
            [p for p in x.planes if axes_of(p) & set(used)], "picks elements by values that it computes"
        )
        x = Labels(x.shape, tuple(p for p in x.planes if not axes_of(p) & set(used)))
    made = []
    for plane in x.planes:
        sizes = [x.shape[d] if d in used else n for d, n in enumerate(plane.shape)]
        moved = func(plane.expand(sizes).contiguous(), indices)
        mode.atoms.distinguish([plane], [moved])
        made.append(compress(moved))
    return Labels(tuple(out.shape), tuple(p for p in made if axes_of(p)))


def _index_select(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    d = _axis(args[1], len(x.shape))
    if mode.is_computed([args[2]]):
        mode.atoms.pin_all([p for p in x.planes if d in axes_of(p)], "picks elements by computed values")
        return Labels(tuple(out.shape), tuple(p for p in x.planes if d not in axes_of(p)))
    return Labels(tuple(out.shape), _cut(mode, x, d, args[2].tolist()).planes)


def _embedding(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    table = mode.labels(args[0])
    mode.atoms.pin_all([p for p in table.planes if 0 in axes_of(p)], "looks rows up")
    planes = [p for p in table.planes if 0 not in axes_of(p)]
    ones = (1,) * (out.ndim - 1)
    return Labels(tuple(out.shape), tuple(p.reshape(*ones, -1) for p in planes))


def _roll(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Apply a roll or flip to each plane; axes of size 1 are not affected."""
    return Labels(
        tuple(out.shape), tuple(func(plane, *args[1:], **kwargs) for plane in mode.labels(args[0]).planes)
    )


# --- functions along axes -----------------------------------------------------------------------


def _reduction(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    x = mode.labels(args[0])
    dims = _axes(_argument(func, args, kwargs, "dim"), len(x.shape))
    if func._schema.name in ("aten::argmax", "aten::argmin"):
        mode.atoms.pin_all([p for p in x.planes if axes_of(p) & dims], "finds positions")
    reduced = mode.atoms.reduce(x, dims)
    outs = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
    return [mode.atoms.reshape(reduced, y.shape) for y in outs]


def _normalised(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    return mode.atoms.normalise(x, _axes(_argument(func, args, kwargs, "dim"), len(x.shape)))


def _ordered(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    """Functions of the order along an axis (cumulative sums, sorting)."""
    x = mode.labels(args[0])
    dims = _axes(_argument(func, args, kwargs, "dim"), len(x.shape))
    mode.atoms.pin_all([p for p in x.planes if axes_of(p) & dims], "depends on the order of units")
    outs = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
    kept = tuple(p for p in x.planes if not axes_of(p) & dims)
    return [Labels(tuple(y.shape), kept if y.ndim == len(x.shape) else ()) for y in outs]


def _spatial(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    """Pool or resize the last axes; they have no units."""
    x = mode.labels(args[0])
    outs = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
    count = 1 if "1d" in func._schema.name else 3 if "3d" in func._schema.name else 2
    last = set(range(len(x.shape) - count, len(x.shape)))
    mode.atoms.pin_all([p for p in x.planes if axes_of(p) & last], "pools over units")
    kept = tuple(p for p in x.planes if not axes_of(p) & last)
    return [Labels(tuple(y.shape), kept) for y in outs]


def _batch_norm(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    found = mode.atoms.normalise(x, set(range(len(x.shape))) - {1})
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = _argument(func, args, kwargs, name)
        if isinstance(value, Tensor):
            column = mode.atoms.reshape(mode.labels(value), (1, value.numel(), *[1] * (len(x.shape) - 2)))
            found = mode.atoms.meet(found, column)
    return found


def _layer_norm(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    count = len(args[1])
    found = mode.atoms.normalise(x, range(len(x.shape) - count, len(x.shape)))
    for value in args[2:4]:
        if isinstance(value, Tensor):
            found = mode.atoms.meet(found, mode.labels(value))
    return found


def _group_norm(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    groups = int(_argument(func, args, kwargs, "group") or _argument(func, args, kwargs, "num_groups"))
    n, c, *rest = x.shape
    within = mode.atoms.reshape(x, (n, groups, c // groups, *rest))
    within = mode.atoms.normalise(within, range(2, len(within.shape)))
    found = mode.atoms.reshape(within, x.shape)
    for name in ("weight", "bias"):
        value = _argument(func, args, kwargs, name)
        if isinstance(value, Tensor):
            found = mode.atoms.meet(found, mode.atoms.reshape(mode.labels(value), (1, c, *[1] * len(rest))))
    return found


# --- products -----------------------------------------------------------------------------------


def contract(mode: LabelMode, x: Labels, y: Labels) -> Labels:
    """Return the labels of `[..., n, k] @ [..., k, m]`."""
    one = mode.atoms.reshape(x, (*x.shape, 1))
    two = mode.atoms.reshape(y, (*y.shape[:-2], 1, *y.shape[-2:]))
    met = mode.atoms.meet(one, two)
    reduced = mode.atoms.reduce(met, [len(met.shape) - 2])
    shape = (*reduced.shape[:-2], reduced.shape[-1])
    return mode.atoms.reshape(reduced, shape)


def _transposed(x: Labels) -> Labels:
    return Labels((*x.shape[:-2], x.shape[-1], x.shape[-2]), tuple(p.transpose(-1, -2) for p in x.planes))


def _matmul(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    return contract(mode, mode.labels(args[0]), mode.labels(args[1]))


def _add_matmul(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    product = contract(mode, mode.labels(args[1]), mode.labels(args[2]))
    return mode.atoms.meet(product, mode.labels(args[0]))


def _vector(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Matrix times vector, and inner products."""
    *first, x, y = (mode.labels(value) for value in args if isinstance(value, Tensor))
    rows = x if len(x.shape) == 2 else mode.atoms.reshape(x, (1, *x.shape))
    product = contract(mode, rows, mode.atoms.reshape(y, (*y.shape, 1)))
    found = mode.atoms.reshape(product, out.shape)
    return mode.atoms.meet(found, first[0]) if first else found


def _linear(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, w = mode.labels(args[0]), _transposed(mode.labels(args[1]))
    product = contract(mode, x, w)
    bias = _argument(func, args, kwargs, "bias")
    return mode.atoms.meet(product, mode.labels(bias)) if isinstance(bias, Tensor) else product


def _attention(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    q, k, v = (mode.labels(x) for x in args[:3])
    scores = contract(mode, q, _transposed(k))
    mask = _argument(func, args, kwargs, "attn_mask")
    if mask is None:
        mask = _argument(func, args, kwargs, "attn_bias")
    if isinstance(mask, Tensor):
        scores = mode.atoms.meet(scores, mode.labels(mask))
    ndim = len(scores.shape)
    if _argument(func, args, kwargs, "is_causal"):
        mode.atoms.pin_all(
            [p for p in scores.planes if axes_of(p) & {ndim - 1, ndim - 2}], "is causal over units"
        )
    return [contract(mode, mode.atoms.normalise(scores, [ndim - 1]), v)]


def _convolution(mode: LabelMode, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    atoms = mode.atoms
    x, w = mode.labels(args[0]), mode.labels(args[1])
    bias, transposed, groups = (_argument(func, args, kwargs, n) for n in ("bias", "transposed", "groups"))
    space = len(w.shape) - 2
    places = set(range(len(x.shape) - space, len(x.shape)))
    if any(axes_of(p) & places for p in x.planes):
        atoms.pin_all([p for p in x.planes if axes_of(p) & places], "convolves along units")
        x = Labels(x.shape, tuple(p for p in x.planes if not axes_of(p) & places))
    if len(x.shape) == space + 1:
        x = x.padded(space + 2)
    n, c = x.shape[:2]
    kernel = math.prod(w.shape[2:])
    if kernel > 1:  # positions in the kernel stay
        inner = set(range(2, len(w.shape)))
        atoms.pin_all([p for p in w.planes if axes_of(p) <= inner])
    flat = Labels((n, c, *[1] * space), x.planes)
    per_group = c // groups
    # image, group, output, input, position in the kernel
    one = atoms.reshape(flat, (n, groups, 1, per_group, 1))
    one = Labels((n, groups, 1, per_group, kernel), one.planes)
    if transposed:
        outputs = w.shape[1]
        two = atoms.reshape(w, (1, groups, per_group, outputs, kernel))
        two = Labels(
            (1, groups, outputs, per_group, kernel), tuple(p.transpose(2, 3) for p in two.planes), frozenset()
        )
    else:
        outputs = w.shape[0] // groups
        two = atoms.reshape(w, (1, groups, outputs, per_group, kernel))
        if 0 in w.loose:
            two = Labels(two.shape, two.planes, frozenset({1, 2}))
    product = atoms.reduce(atoms.meet(one, two), [3, 4])
    ones = [1] * space
    found = atoms.reshape(product, (n, groups * outputs, *ones))
    if isinstance(bias, Tensor):
        found = atoms.meet(found, atoms.reshape(mode.labels(bias), (1, groups * outputs, *ones)))
    planes = found.planes
    if out.ndim == space + 1:
        planes = tuple(p.squeeze(0) for p in planes)
    return Labels(tuple(out.shape), planes)


_BY_RULE: tuple[tuple[Rule, str], ...] = (
    (_reshape, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten view_copy"),
    (_moved, "permute transpose t numpy_T movedim swapaxes"),
    (_same, "clone _to_copy detach alias contiguous lift_fresh lift_fresh_copy to positive nan_to_num"),
    (_same, "hardswish hardsigmoid hardtanh threshold dropout native_dropout log_sigmoid_forward"),
    (_elementwise, "_weight_norm_interface _prelu_kernel"),
    (_copy, "copy"),
    (_glu, "glu"),
    (_expand, "expand"),
    (_slice, "slice"),
    (_narrow, "narrow"),
    (_select, "select"),
    (_unbind, "unbind"),
    (_split, "split split_with_sizes chunk"),
    (_cat, "cat"),
    (_stack, "stack"),
    (_pad, "constant_pad_nd"),
    (_roll, "roll flip"),
    (_index, "index"),
    (_index_select, "index_select"),
    (_embedding, "embedding"),
    (_rearranged, "repeat pixel_shuffle pixel_unshuffle im2col unfold repeat_interleave gather"),
    (_rearranged, "channel_shuffle native_channel_shuffle"),
    (_reduction, "sum mean amax amin var std var_mean std_mean norm max min linalg_vector_norm logsumexp"),
    (_reduction, "prod any all argmax argmin"),
    (_normalised, "_softmax _log_softmax softmax log_softmax"),
    (_ordered, "cumsum cumprod logcumsumexp sort topk"),
    (_matmul, "mm bmm matmul"),
    (_add_matmul, "addmm baddbmm"),
    (_vector, "mv dot vdot addmv"),
    (_linear, "linear"),
    (_convolution, "convolution _convolution mkldnn_convolution"),
    (_spatial, "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool1d_with_indices"),
    (_spatial, "max_pool2d_with_indices max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d"),
    (_spatial, "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"),
    (_spatial, "upsample_nearest1d upsample_linear1d upsample_nearest2d upsample_bilinear2d"),
    (_spatial, "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact2d"),
    (_spatial, "reflection_pad1d reflection_pad2d replication_pad2d"),
    (_batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"),
    (_batch_norm, "batch_norm cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update"),
    (_layer_norm, "native_layer_norm layer_norm _fused_rms_norm rms_norm"),
    (_group_norm, "native_group_norm group_norm"),
    (_attention, "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu"),
    (_attention, "_scaled_dot_product_attention_math _scaled_dot_product_flash_attention"),
    (_attention, "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"),
)

RULES: dict[str, Rule] = {name: rule for rule, names in _BY_RULE for name in names.split()}
"""Rules by the name of the operation, without the underscore of those that work in place."""
