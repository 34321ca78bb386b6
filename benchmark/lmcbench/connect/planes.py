"""Planes: which atoms the elements of a tensor belong to, along which of its axes.

An *atom* is one index of an axis that may be permuted. A *plane* holds the atoms of one or more axes of a
tensor: an int64 tensor of as many dimensions, with size 1 along the axes on which the atoms do not depend.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """Labels of a tensor.

    Attributes:
        shape: the tensor's shape.
        planes: its planes.
        loose: axes along which the tensor is constant, so that any permutation leaves it as it is.
    """

    shape: tuple[int, ...]
    planes: tuple[Tensor, ...] = ()
    loose: frozenset[int] = frozenset()

    def binding(self) -> set[int]:
        """Return the axes along which elements differ."""
        return {d for d, n in enumerate(self.shape) if n > 1 and d not in self.loose}

    def padded(self, ndim: int) -> Labels:
        """Return the labels with axes of size 1 in front, as broadcasting adds them."""
        extra = ndim - len(self.shape)
        if extra <= 0:
            return self
        ones = (1,) * extra
        planes = tuple(plane.reshape(*ones, *plane.shape) for plane in self.planes)
        return Labels(ones + self.shape, planes, frozenset(d + extra for d in self.loose))


def axes_of(plane: Tensor) -> frozenset[int]:
    """Return the axes on which a plane's atoms depend."""
    return frozenset(d for d, n in enumerate(plane.shape) if n > 1)


def compress(plane: Tensor) -> Tensor:
    """Return the plane with size 1 along every axis on which it does not depend."""
    for d, n in enumerate(plane.shape):
        first = plane.narrow(d, 0, 1)
        if n > 1 and bool((plane == first).all()):
            plane = first
    return plane.contiguous()


def finer(a: Tensor, b: Tensor) -> bool:
    """Return whether equal atoms in `a` mean equal atoms in `b`, on the same axes."""
    x, y = a.numpy().ravel(), b.numpy().ravel()
    return len(np.unique(np.stack([x, y]), axis=1).T) == len(np.unique(x))


def identifies(a: Tensor, b: Tensor) -> bool:
    """Return whether equal atoms in `a` mean equal atoms in `b`, which has fewer axes."""
    x, y = np.broadcast_arrays(a.numpy(), b.numpy())
    return len(np.unique(np.stack([x.ravel(), y.ravel()]), axis=1).T) == len(np.unique(x))


def along_axes(shape: Sequence[int], axes: Collection[int]) -> list[int]:
    """Return the shape of a plane on some axes of a tensor."""
    return [n if d in axes else 1 for d, n in enumerate(shape)]


def distinct_planes(planes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the planes without those that are equal to an earlier one."""
    kept: list[Tensor] = []
    for plane in planes:
        if not any(plane.shape == other.shape and torch.equal(plane, other) for other in kept):
            kept.append(plane)
    return tuple(kept)


def axis_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes of two shapes of as many elements into the smallest groups of equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        ins, outs = [], []
        a = b = 1
        if i < len(old):
            ins.append(i)
            a = old[i]
            i += 1
        if j < len(new):
            outs.append(j)
            b = new[j]
            j += 1
        while a != b:
            if a < b and i < len(old):
                ins.append(i)
                a *= old[i]
                i += 1
            elif j < len(new):
                outs.append(j)
                b *= new[j]
                j += 1
            else:
                break
        groups.append((ins, outs))
    return groups
