"""What operations along axes do to labels: reductions, normalisation, pooling, products, attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lmcbench.connect.moving_rules import Tracing, argument, axes_at
from lmcbench.connect.planes import Labels, axes_of

# --- functions along axes -----------------------------------------------------------------------


def _reduction(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    x = mode.labels(args[0])
    dims = axes_at(argument(func, args, kwargs, "dim"), len(x.shape))
    if func._schema.name in ("aten::argmax", "aten::argmin"):
        mode.atoms.pin_all([p for p in x.planes if axes_of(p) & dims], "finds positions")
    reduced = mode.atoms.reduce(x, dims)
    outs = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
    return [mode.atoms.reshape(reduced, y.shape) for y in outs]


def _normalised(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    return mode.atoms.normalise(x, axes_at(argument(func, args, kwargs, "dim"), len(x.shape)))


def _ordered(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    """Functions of the order along an axis (cumulative sums, sorting)."""
    x = mode.labels(args[0])
    dims = axes_at(argument(func, args, kwargs, "dim"), len(x.shape))
    mode.atoms.pin_all([p for p in x.planes if axes_of(p) & dims], "depends on the order of units")
    outs = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
    kept = tuple(p for p in x.planes if not axes_of(p) & dims)
    return [Labels(tuple(y.shape), kept if y.ndim == len(x.shape) else ()) for y in outs]


def _spatial(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    """Pool or resize the last axes; they have no units."""
    x = mode.labels(args[0])
    outs = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
    count = 1 if "1d" in func._schema.name else 3 if "3d" in func._schema.name else 2
    last = set(range(len(x.shape) - count, len(x.shape)))
    mode.atoms.pin_all([p for p in x.planes if axes_of(p) & last], "pools over units")
    kept = tuple(p for p in x.planes if not axes_of(p) & last)
    return [Labels(tuple(y.shape), kept) for y in outs]


def _batch_norm(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    found = mode.atoms.normalise(x, set(range(len(x.shape))) - {1})
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = argument(func, args, kwargs, name)
        if isinstance(value, Tensor):
            column = mode.atoms.reshape(mode.labels(value), (1, value.numel(), *[1] * (len(x.shape) - 2)))
            found = mode.atoms.meet(found, column)
    return found


def _layer_norm(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    count = len(args[1])
    found = mode.atoms.normalise(x, range(len(x.shape) - count, len(x.shape)))
    for value in args[2:4]:
        if isinstance(value, Tensor):
            found = mode.atoms.meet(found, mode.labels(value))
    return found


def _group_norm(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x = mode.labels(args[0])
    groups = int(argument(func, args, kwargs, "group") or argument(func, args, kwargs, "num_groups"))
    n, c, *rest = x.shape
    within = mode.atoms.reshape(x, (n, groups, c // groups, *rest))
    within = mode.atoms.normalise(within, range(2, len(within.shape)))
    found = mode.atoms.reshape(within, x.shape)
    for name in ("weight", "bias"):
        value = argument(func, args, kwargs, name)
        if isinstance(value, Tensor):
            found = mode.atoms.meet(found, mode.atoms.reshape(mode.labels(value), (1, c, *[1] * len(rest))))
    return found


# --- products -----------------------------------------------------------------------------------


def contract(mode: Tracing, x: Labels, y: Labels) -> Labels:
    """Return the labels of `[..., n, k] @ [..., k, m]`."""
    one = mode.atoms.reshape(x, (*x.shape, 1))
    two = mode.atoms.reshape(y, (*y.shape[:-2], 1, *y.shape[-2:]))
    met = mode.atoms.meet(one, two)
    reduced = mode.atoms.reduce(met, [len(met.shape) - 2])
    shape = (*reduced.shape[:-2], reduced.shape[-1])
    return mode.atoms.reshape(reduced, shape)


def _transposed(x: Labels) -> Labels:
    return Labels((*x.shape[:-2], x.shape[-1], x.shape[-2]), tuple(p.transpose(-1, -2) for p in x.planes))


def _matmul(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    return contract(mode, mode.labels(args[0]), mode.labels(args[1]))


def _add_matmul(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    product = contract(mode, mode.labels(args[1]), mode.labels(args[2]))
    return mode.atoms.meet(product, mode.labels(args[0]))


def _vector(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    """Matrix times vector, and inner products."""
    *first, x, y = (mode.labels(value) for value in args if isinstance(value, Tensor))
    rows = x if len(x.shape) == 2 else mode.atoms.reshape(x, (1, *x.shape))
    product = contract(mode, rows, mode.atoms.reshape(y, (*y.shape, 1)))
    found = mode.atoms.reshape(product, out.shape)
    return mode.atoms.meet(found, first[0]) if first else found


def _linear(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    x, w = mode.labels(args[0]), _transposed(mode.labels(args[1]))
    product = contract(mode, x, w)
    bias = argument(func, args, kwargs, "bias")
    return mode.atoms.meet(product, mode.labels(bias)) if isinstance(bias, Tensor) else product


def _attention(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labels]:
    q, k, v = (mode.labels(x) for x in args[:3])
    scores = contract(mode, q, _transposed(k))
    mask = argument(func, args, kwargs, "attn_mask")
    if mask is None:
        mask = argument(func, args, kwargs, "attn_bias")
    if isinstance(mask, Tensor):
        scores = mode.atoms.meet(scores, mode.labels(mask))
    ndim = len(scores.shape)
    if argument(func, args, kwargs, "is_causal"):
        mode.atoms.pin_all(
            [p for p in scores.planes if axes_of(p) & {ndim - 1, ndim - 2}], "is causal over units"
        )
    return [contract(mode, mode.atoms.normalise(scores, [ndim - 1]), v)]


def _convolution(mode: Tracing, func: Any, args: Any, kwargs: Any, out: Any) -> Labels:
    atoms = mode.atoms
    x, w = mode.labels(args[0]), mode.labels(args[1])
    bias, transposed, groups = (argument(func, args, kwargs, n) for n in ("bias", "transposed", "groups"))
    space = len(w.shape) - 2
    places = set(range(len(x.shape) - space, len(x.shape)))
    kept, stay, moved = _by_place(func, args, kwargs, x, places, tuple(w.shape[2:]))
    atoms.pin_all(stay, "convolves along units")
    x = Labels(x.shape, kept)
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
    return Labels(tuple(out.shape), (*planes, *moved))


def _by_place(
    func: Any, args: Any, kwargs: Any, x: Labels, places: set[int], kernel: tuple[int, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the planes without places, those that stay, and those on places convolved one by one."""
    options = (argument(func, args, kwargs, name) for name in ("stride", "padding", "output_padding"))
    stride, padding, extra = (tuple(option) for option in options)
    single = all(
        v == (neutral,) * len(v) for v, neutral in ((kernel, 1), (stride, 1), (padding, 0), (extra, 0))
    )
    here = [p for p in x.planes if axes_of(p) & places]
    moved = [p for p in here if single and axes_of(p) <= places]
    stay = [p for p in here if all(p is not q for q in moved)]
    return tuple(p for p in x.planes if not axes_of(p) & places), tuple(stay), tuple(moved)


_BY_RULE: tuple[tuple[Callable[..., Any], str], ...] = (
    (_reduction, "sum mean amax amin var std var_mean std_mean norm max min linalg_vector_norm logsumexp"),
    (_reduction, "prod any all argmax argmin"),
    (_normalised, "_softmax _log_softmax softmax log_softmax _safe_softmax"),
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

LAYER_RULES = {name: rule for rule, names in _BY_RULE for name in names.split()}
"""Rules by the name of the operation."""
