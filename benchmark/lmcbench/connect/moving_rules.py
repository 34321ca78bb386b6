"""What operations that compute or move single elements do to labels: elementwise functions, views, copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lmcbench.connect.axis_labels import Atoms
from lmcbench.connect.planes import Labels, axes_of, compress


class Tracing(Protocol):
    """The trace that a rule belongs to (`LabelMode`).

    Attributes:
        atoms: the atoms and constraints found so far.
    """

    atoms: Atoms

    def labels(self, tensor: Any) -> Labels:
        """Return the labels of a tensor; of a number, those of a tensor of one element."""

    def is_computed(self, tensors: Iterable[Any]) -> bool:
        """Return whether any of the tensors depends on the images."""


def axis_at(d: int, ndim: int) -> int:
    """Return the axis that `d` names, which may count from the end."""
    return d % ndim if ndim else 0


def axes_at(dims: Any, ndim: int) -> set[int]:
    """Return the axes that an argument `dim` names: one, several, or all if there is none."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return set(range(ndim))
    return {axis_at(d, ndim) for d in (dims if isinstance(dims, (list, tuple)) else [dims])}


def argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """Return an argument of an operation by its name in the schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            if name in kwargs:
                return kwargs[name]
            return args[position] if position < len(args) else argument.default_value
    return None


# --- elementwise --------------------------------------------------------------------------------


def elementwise(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Label the result of a function of single elements of its arguments, with broadcasting."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    found = mode.labels(tensors[0])
    for other in tensors[1:]:
        found = mode.atoms.meet(found, mode.labels(other))
    return found


def _same(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    return mode.labels(args[0])


def _copy(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    target, source = mode.labels(args[0]), mode.labels(args[1])
    if args[0]._base is not None:  # a part of another tensor, whose labels are not followed
        mode.atoms.pin_all((*target.planes, *source.planes), "writes into a part of a tensor")
        return Labels(target.shape)
    return Labels(target.shape, source.padded(len(target.shape)).planes)


def _glu(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    d = axis_at(argument(func, args, kwargs, "dim"), len(x.shape))
    half = x.shape[d] // 2
    parts = [_cut(mode, x, d, slice(i * half, (i + 1) * half)) for i in (0, 1)]
    return mode.atoms.meet(*parts)


# --- moving elements ----------------------------------------------------------------------------


def _reshape(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    return mode.atoms.reshape(mode.labels(args[0]), out.shape)


def _strided(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Label a change of strides that leaves the only axis of several elements as it is (pooled images)."""
    x = mode.labels(args[0])
    wide = [d for d, n in enumerate(out.shape) if n > 1]
    whole = out.untyped_storage().nbytes() == out.numel() * out.element_size()
    if x.shape == tuple(out.shape) and len(wide) <= 1 and whole and all(out.stride(d) == 1 for d in wide):
        return x
    mode.atoms.pin_all(x.planes, "changes strides")
    return Labels(tuple(out.shape))


def _moved(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Apply the operation, which treats every axis alike (transpose), to the planes themselves."""
    planes = [func(plane, *args[1:], **kwargs) for plane in mode.labels(args[0]).planes]
    return Labels(tuple(out.shape), tuple(planes))


def _expand(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0]).padded(out.ndim)
    return Labels(tuple(out.shape), x.planes)


def _cut(mode: Tracing, x: Labels, axis: int, index: Any) -> Labels:
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


def _slice(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    d, start, end, step = (argument(func, args, kwargs, n) for n in ("dim", "start", "end", "step"))
    return _cut(mode, x, axis_at(d, len(x.shape)), slice(start, end, step))


def _narrow(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, start = mode.labels(args[0]), int(args[2])
    return _cut(mode, x, axis_at(args[1], len(x.shape)), slice(start, start + args[3]))


def _select(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, index = mode.labels(args[0]), int(args[2])
    d = axis_at(args[1], len(x.shape))
    part = _cut(mode, x, d, [index % x.shape[d]])
    return Labels(tuple(out.shape), tuple(plane.squeeze(d) for plane in part.planes))


def _split(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    x = mode.labels(args[0])
    d = axis_at(argument(func, args, kwargs, "dim"), len(x.shape))
    parts, start = [], 0
    for piece in out:
        parts.append(_cut(mode, x, d, slice(start, start + piece.shape[d])))
        start += piece.shape[d]
    return parts


def _unbind(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    x = mode.labels(args[0])
    d = axis_at(argument(func, args, kwargs, "dim"), len(x.shape))
    parts = [_cut(mode, x, d, [i]) for i in range(x.shape[d])]
    return [Labels(tuple(out[0].shape), tuple(p.squeeze(d) for p in part.planes)) for part in parts]


def _cat(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    parts = [mode.labels(x) for x in args[0] if x.numel() or x.ndim == out.ndim]
    return mode.atoms.join(parts, axis_at(argument(func, args, kwargs, "dim"), out.ndim))


def _stack(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    d = axis_at(argument(func, args, kwargs, "dim"), out.ndim)
    parts = []
    for tensor in args[0]:
        x = mode.labels(tensor)
        shape = (*x.shape[:d], 1, *x.shape[d:])
        loose = frozenset(i + (i >= d) for i in x.loose)
        parts.append(Labels(shape, tuple(p.unsqueeze(d) for p in x.planes), loose))
    return mode.atoms.join(parts, d)


def _pad(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
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


def _rearranged(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
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
        # im2col takes no integers, and pads with zeros; float64 holds atoms exactly
        moved = func((plane.expand(x.shape) + 1).double().contiguous(), *args[1:], **kwargs).long()
        if bool((padding := moved == 0).any()):
            # a zero beside the image has the units of its row, and no place of its own
            row = moved.amax(-1, keepdim=True)
            if not axes_of(plane).isdisjoint({len(x.shape) - 2, len(x.shape) - 1}):
                mode.atoms.pin(plane, "moves elements along units")
                row = plane.flatten()[0] + 1
            moved = row.where(padding, moved)
        moved = moved - 1
        mode.atoms.distinguish([plane], [moved])
        made.append(compress(moved))
    return Labels(tuple(out.shape), tuple(p for p in made if axes_of(p)))


def _index(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
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


def _index_select(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    d = axis_at(args[1], len(x.shape))
    if mode.is_computed([args[2]]):
        mode.atoms.pin_all([p for p in x.planes if d in axes_of(p)], "picks elements by computed values")
        return Labels(tuple(out.shape), tuple(p for p in x.planes if d not in axes_of(p)))
    return Labels(tuple(out.shape), _cut(mode, x, d, args[2].tolist()).planes)


def _embedding(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    table = mode.labels(args[0])
    mode.atoms.pin_all([p for p in table.planes if 0 in axes_of(p)], "looks rows up")
    planes = [p for p in table.planes if 0 not in axes_of(p)]
    ones = (1,) * (out.ndim - 1)
    return Labels(tuple(out.shape), tuple(p.reshape(*ones, -1) for p in planes))


def _roll(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Apply a roll or flip to each plane; axes of size 1 are not affected."""
    return Labels(
        tuple(out.shape), tuple(func(plane, *args[1:], **kwargs) for plane in mode.labels(args[0]).planes)
    )


_BY_RULE: tuple[tuple[Callable[..., Any], str], ...] = (
    (_reshape, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten view_copy"),
    (_strided, "as_strided"),
    (_moved, "permute transpose t numpy_T movedim swapaxes"),
    (_same, "clone _to_copy detach alias contiguous lift_fresh lift_fresh_copy to positive nan_to_num"),
    (_same, "hardswish hardsigmoid hardtanh threshold dropout native_dropout log_sigmoid_forward"),
    (elementwise, "_weight_norm_interface _prelu_kernel"),
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
)

MOVING_RULES = {name: rule for rule, names in _BY_RULE for name in names.split()}
"""Rules by the name of the operation."""
