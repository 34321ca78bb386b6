"""Labels of tensor elements: which unit of a network each index of each axis belongs to.

Labels are planes of atoms (see `lmcbench.connect.planes`). Permuting units moves the element with atoms
(a, b, ...) to the place with atoms (pi(a), pi(b), ...), at the same index of every other axis. Operations
restrict pi: two atoms are the same, one belongs to another (a unit to its head), or an atom stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from lmcbench.connect.planes import (
    Labels,
    along_axes,
    axes_of,
    axis_groups,
    compress,
    distinct_planes,
    finer,
    identifies,
)
from lmcbench.errors import UserError

Ids = np.ndarray
"""Atoms, int64."""


def cannot_align(why: str) -> UserError:
    """Return the error for a network that cannot be aligned."""
    return UserError(f"The network cannot be aligned: {why}")


class Atoms:
    """All atoms of a network and the constraints on their permutations, collected during the trace.

    Attributes:
        links: pairs of arrays (child, parent): the parent of pi(child) is pi(parent).
        pins: atoms that stay, with the reason; None: the input's or the output's.
    """

    def __init__(self) -> None:
        self.size = 0
        self._root: Ids = np.zeros(1024, np.int64)
        self.kind: Ids = np.zeros(1024, np.int64)
        self.mark: Ids = np.zeros(1024, np.int64)
        self._kinds = 0
        self._marks = 0
        self._ranks: Tensor = torch.zeros(0, dtype=torch.int64)
        self._blocks: dict[tuple[bytes, tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self.links: list[tuple[Ids, Ids]] = []
        self._linked: set[tuple[bytes, bytes]] = set()
        self.pins: list[tuple[Ids, str | None]] = []
        self.where = ""
        """What is being traced, for the reasons of pins."""

    def new(self, shape: Sequence[int]) -> Tensor:
        """Return new atoms of one kind."""
        n = int(np.prod(shape))
        while self.size + n > len(self._root):
            self._root, self.kind, self.mark = (
                np.concatenate([x, np.zeros_like(x)]) for x in (self._root, self.kind, self.mark)
            )
        ids = np.arange(self.size, self.size + n)
        self._root[ids], self.kind[ids] = ids, self._kinds
        self.size += n
        self._kinds += 1
        return torch.from_numpy(ids).reshape(tuple(shape))

    def ranks(self, n: int) -> Tensor:
        """Return `n` atoms that stay and stand for the indices 0 to n - 1."""
        if n > len(self._ranks):
            more = self.new([max(n, 2 * len(self._ranks))])
            self.pins.append((more.numpy(), None))
            self._ranks = torch.cat([self._ranks, more])
        return self._ranks[:n]

    def index_plane(self, shape: Sequence[int], axes: Collection[int]) -> Tensor:
        """Return a plane of atoms that stay, one for each index of the given axes."""
        sizes = [n if d in axes else 1 for d, n in enumerate(shape)]
        return self.ranks(int(np.prod(sizes))).reshape(sizes)

    def roots(self, ids: Ids | Tensor) -> Ids:
        """Return the representatives of atoms."""
        found: Ids = self._root[np.asarray(ids)]
        while not np.array_equal(above := self._root[found], found):
            found = above
        self._root[np.asarray(ids)] = found
        return found

    def merge(self, one: Ids, other: Ids) -> None:
        """Make atoms the same, pair by pair."""
        one, other = np.broadcast_arrays(one, other)
        while True:
            a, b = self.roots(one), self.roots(other)
            if not (differ := a != b).any():
                return
            low, high = np.minimum(a, b)[differ], np.maximum(a, b)[differ]
            self._root[high] = low

    def pin(self, ids: Ids | Tensor, why: str | None = None) -> None:
        """Fix the positions of atoms. The module and operation being traced are appended to `why`."""
        ids = np.unique(np.asarray(ids))
        if ids.size:
            self.pins.append((ids, f"{self.where} {why}" if why else None))

    def pin_all(self, planes: Iterable[Tensor], why: str | None = None) -> None:
        """Have all atoms of planes stay."""
        for plane in planes:
            self.pin(plane, why)

    def link(self, child: Tensor, parent: Tensor) -> None:
        """Note that atoms belong to others, pair by pair, with broadcasting."""
        c, p = np.broadcast_arrays(child.numpy(), parent.numpy())
        pairs = np.unique(np.stack([c.ravel(), p.ravel()]), axis=1)
        key = pairs[0].tobytes(), pairs[1].tobytes()
        if key not in self._linked:
            self._linked.add(key)
            self.links.append((pairs[0], pairs[1]))

    def distinguish(self, before: Iterable[Tensor], after: Iterable[Tensor]) -> None:
        """Mark the atoms that an operation kept, if not all: they do not change places with the others."""
        had = np.unique(
            np.concatenate([plane.numpy().ravel() for plane in before] or [np.zeros(0, np.int64)])
        )
        has = np.unique(np.concatenate([plane.numpy().ravel() for plane in after] or [np.zeros(0, np.int64)]))
        if 0 < len(has) < len(had):
            self._marks += 1
            # sums of hashes: marks of several operations add up
            with np.errstate(over="ignore"):
                self.mark[has] += np.int64(self._marks * 0x9E3779B97F4A7C1 & 0x7FFFFFFFFFFFFFFF)

    def block(self, plane: Tensor, axes: Collection[int]) -> Tensor:
        """Return a plane on some of a plane's axes: each atom stands for all that share these indices.

        Indices with the same atoms get the same one.
        """
        key = plane.numpy().tobytes(), tuple(plane.shape), tuple(sorted(axes))
        if key not in self._blocks:
            over = [d for d in range(plane.ndim) if d not in axes]
            sizes = [plane.shape[d] for d in axes]
            sets = plane.permute(*sorted(axes), *over).reshape(int(np.prod(sizes)), -1).sort(1).values
            _, first, same = np.unique(sets.numpy(), axis=0, return_index=True, return_inverse=True)
            rank = np.argsort(np.argsort(first))[same.ravel()]  # in order of occurrence
            made = self.new([len(first)])[torch.from_numpy(rank)]
            made = made.reshape([n if d in axes else 1 for d, n in enumerate(plane.shape)])
            self.link(plane, made)
            self._blocks[key] = made
        return self._blocks[key]

    # --- what operations do -----------------------------------------------------------------------

    def meet(self, x: Labels, y: Labels) -> Labels:
        """Return the labels of an elementwise function of two tensors, with broadcasting.

        Both are to be permuted alike along the axes that they share.
        """
        ndim = max(len(x.shape), len(y.shape))
        x, y = x.padded(ndim), y.padded(ndim)
        shape = np.broadcast_shapes(x.shape, y.shape)
        loose = frozenset(d for d in range(ndim) if d not in x.binding() | y.binding())
        if not x.planes and not y.planes:
            return Labels(shape, (), loose)
        rest_x, rest_y = list(x.planes), list(y.planes)
        same: list[Tensor] = []
        dropped: list[Tensor] = []
        for a in x.planes:
            for b in rest_y:
                if axes_of(a) == axes_of(b) and finer(a, b) and finer(b, a):
                    if not self._clash(a, b):
                        self.merge(a.numpy(), b.numpy())
                    elif not self._rotated(a, b):
                        self.pin_all((a, b), "combines units with others of the same layer")
                    same.append(a)
                    rest_x = [p for p in rest_x if p is not a]
                    rest_y = [p for p in rest_y if p is not b]
                    break
        for a in x.planes:
            for b in y.planes:
                free = [any(p is q for q in rest) for p, rest in ((a, rest_x), (b, rest_y))]
                # of two planes on the same axes, one that is matched leaves nothing to be related
                if all(free) or (any(free) and axes_of(a) != axes_of(b)):
                    self._relate(a, b, dropped)
        for rest, others, other in ((rest_x, y.planes, y), (rest_y, x.planes, x)):
            for a in rest:
                binding = axes_of(a) & other.binding()
                for b in others:
                    binding = binding - axes_of(b)
                if binding:
                    self.link(a, self.index_plane(shape, binding))
                    if binding == axes_of(a):  # its atoms stay
                        dropped.append(a)
        kept = [p for p in (*same, *rest_x, *rest_y) if all(p is not q for q in dropped)]
        return Labels(shape, tuple(kept), loose)

    def _relate(self, a: Tensor, b: Tensor, dropped: list[Tensor]) -> None:
        """Link two planes that share some axes."""
        one, two = axes_of(a), axes_of(b)
        common = one & two
        if not common:
            return
        if one == two:
            if finer(a, b):
                self.link(a, b)
                dropped.append(b)
            elif finer(b, a):
                self.link(b, a)
                dropped.append(a)
            else:
                self.pin_all((a, b), "combines units in different orders")
        elif two < one or one < two:
            fine, coarse = (a, b) if two < one else (b, a)
            if identifies(fine, coarse):
                self.link(fine, coarse)
                dropped.append(coarse)
            else:  # inputs of grouped convolutions occur with several outputs
                self.link(coarse, self.block(fine, common))
        else:
            whole = self.block(a, common)
            self.link(b, whole)

    def _clash(self, a: Tensor, b: Tensor) -> bool:
        """Return whether two planes have the same atoms in different places."""
        one, two = self.roots(a.numpy().ravel()), self.roots(b.numpy().ravel())
        return not np.array_equal(one, two) and bool(np.isin(one, two).any())

    def _rotated(self, a: Tensor, b: Tensor) -> bool:
        """Link two planes whose atoms differ only in their order along one axis (rotary embeddings)."""
        axes = sorted(axes_of(a))
        for count in range(1, len(axes)):
            for moved in combinations(axes, count):
                rest = [d for d in axes if d not in moved]
                keys = [
                    np.sort(
                        self.roots(p.numpy()).transpose(*rest, *[d for d in range(p.ndim) if d not in rest])
                        .reshape(*[p.shape[d] for d in rest], -1), axis=-1,
                    )
                    for p in (a, b)
                ]  # fmt: skip
                if np.array_equal(keys[0], keys[1]):
                    self.block(a, rest)
                    for plane in (a, b):
                        self.link(plane, self.index_plane(plane.shape, moved))
                    return True
        return False

    def reduce(self, x: Labels, axes: Collection[int]) -> Labels:
        """Return the labels after a sum over axes (a mean, a maximum, ...), which are kept with size 1."""
        planes = []
        for plane in x.planes:
            inside = axes_of(plane) & set(axes)
            if not inside:
                planes.append(plane)
            elif rest := axes_of(plane) - inside:
                planes.append(self.block(plane, rest))
        shape = tuple(1 if d in axes else n for d, n in enumerate(x.shape))
        return Labels(shape, self._settled(planes), x.loose - set(axes))

    def normalise(self, x: Labels, axes: Collection[int]) -> Labels:
        """Return the labels after a function of all elements along axes that treats them alike (softmax)."""
        self.reduce(x, axes)
        return Labels(x.shape, x.planes)

    def reshape(self, x: Labels, shape: Sequence[int]) -> Labels:
        """Return the labels of a view of another shape."""
        shape = tuple(shape)
        if not x.planes:
            return Labels(shape)
        labelled = frozenset[int]().union(*(axes_of(plane) for plane in x.planes))
        planes = list(x.planes)
        groups = axis_groups(x.shape, shape)
        for ins, _ in groups:
            unlabelled = {d for d in ins if x.shape[d] > 1 and d not in labelled and d not in x.loose}
            if unlabelled and any(d in labelled for d in ins):
                planes.append(self.index_plane(x.shape, unlabelled))
        made = []
        for plane in planes:
            sizes = [1] * len(x.shape)
            new = [1] * len(shape)
            for ins, outs in groups:
                if any(plane.shape[d] > 1 for d in ins):
                    for d in ins:
                        sizes[d] = x.shape[d]
                    for d in outs:
                        new[d] = shape[d]
            made.append(compress(plane.expand(sizes).reshape(new)))
        others = [p for p in made if not np.isin(p.numpy().ravel(), self._ranks.numpy()).all()]
        taken = frozenset[int]().union(*(axes_of(p) for p in others)) if others else frozenset()
        kept = [p for p in made if any(p is q for q in others) or axes_of(p) & taken]
        return Labels(shape, self._settled([p for p in kept if axes_of(p)]))

    def _settled(self, planes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the planes without those that another one on the same axes determines.

        The units of the finer plane are linked to those of the coarser one.
        """
        kept = list(distinct_planes(planes))
        for a in tuple(kept):
            for b in tuple(kept):
                present = a is not b and all(any(x is p for p in kept) for x in (a, b))
                if present and axes_of(a) == axes_of(b) and finer(a, b):
                    self.link(a, b)
                    kept = [p for p in kept if p is not b]
        return tuple(kept)

    def join(self, parts: Sequence[Labels], axis: int) -> Labels:
        """Return the labels of a concatenation."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        parts = [replace(part, planes=self._settled(part.planes)) for part in parts]
        across: list[Labels] = []
        along = max(sum(axis in axes_of(p) for p in part.planes) for part in parts)
        for part in parts:
            reduced = tuple(1 if d == axis else n for d, n in enumerate(part.shape))
            across.append(
                Labels(reduced, tuple(p for p in part.planes if axis not in axes_of(p)), part.loose - {axis})
            )
        if along == 0 and any(p.planes for p in across):
            met = across[0]
            for other in across[1:]:
                met = self.meet(met, other)
            return Labels(tuple(shape), met.planes)
        if along == 0:
            return Labels(tuple(shape))
        met = across[0]
        for other in across[1:]:
            met = self.meet(met, other)
        planes = list(met.planes)
        for j in range(along):
            pieces = []
            owned = [[p for p in part.planes if axis in axes_of(p)][j : j + 1] for part in parts]
            on = frozenset[int]().union(*(axes_of(p) for own in owned for p in own))
            for part in parts:
                own = [p for p in part.planes if axis in axes_of(p)]
                if j < len(own):
                    pieces.append(own[j])
                elif j > 0:  # the planes before identify the elements of this part
                    pieces.append(self.new([1] * len(shape)).expand(along_axes(part.shape, {axis})))
                elif axis in part.loose or part.shape[axis] == 0:
                    # new units that move with those of the other parts
                    sizes = along_axes(part.shape, {axis} | (part.loose & on))
                    pieces.append(
                        self.new(sizes) if part.shape[axis] else torch.zeros(sizes, dtype=torch.int64)
                    )
                else:
                    pieces.append(self.index_plane(part.shape, {axis}))
            sizes = [max(piece.shape[d] for piece in pieces) for d in range(len(shape))]
            planes.append(
                torch.cat(
                    [p.expand([p.shape[d] if d == axis else n for d, n in enumerate(sizes)]) for p in pieces],
                    axis,
                )
            )
            if len(np.unique(planes[-1].numpy())) < sum(len(np.unique(piece.numpy())) for piece in pieces):
                # parts with the same units are told apart by their index
                index = self.ranks(len(pieces)).repeat_interleave(
                    torch.tensor([p.shape[axis] for p in pieces])
                )
                planes.append(index.reshape([-1 if d == axis else 1 for d in range(len(shape))]))
        return Labels(tuple(shape), distinct_planes([compress(p) for p in planes]))
