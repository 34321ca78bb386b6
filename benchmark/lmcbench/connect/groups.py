"""Groups of units that move together: which axes of which tensors carry them, and which groups are one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lmcbench.connect.permutations import INPUT, Axis, Permutations
from lmcbench.errors import UserError


class Groups:
    """Groups while a network is read: they are opened, noted on tensors, tied to each other and pinned."""

    def __init__(self) -> None:
        self._parent = {INPUT: INPUT}  # a forest: groups that were tied have one root
        self._pinned = {INPUT}
        self._sizes: dict[int, int] = {}
        self._axes: dict[str, tuple[Axis | None, ...]] = {}

    def open(self, size: int) -> int:
        """A new group of so many units."""
        group = len(self._parent)
        self._parent[group] = group
        self._sizes[group] = size
        return group

    def units(self, axis: Axis) -> int:
        """How many units stand along an axis that does not carry the input."""
        return sum(self._sizes[group] for group in axis)

    def axes(self, name: str) -> tuple[Axis | None, ...] | None:
        """What was noted on a tensor; None: nothing yet."""
        return self._axes.get(name)

    def pin(self, groups: Iterable[int]) -> None:
        """Have groups keep their order."""
        self._pinned.update(groups)

    def note(self, name: str, axes: tuple[Axis | None, ...]) -> None:
        """Note the groups along a tensor's axes; those already there are tied to them.

        Raises:
            UserError: where other concatenations, or other numbers of units, were noted before.
        """
        for known, axis in zip(self._axes.setdefault(name, axes), axes, strict=True):
            if known is None or axis is None:
                continue
            if len(known) != len(axis):
                raise refusal(f"{name!r} is used on different concatenations.")
            self.tie(known, axis)

    def tie(self, one: Axis, other: Axis) -> None:
        """Make one of the groups of two axes of equal length, pair by pair.

        Raises:
            UserError: where they have different numbers of units.
        """
        for a, b in zip(one, other, strict=True):
            self._tie(a, b)

    def share(self, names: Sequence[str]) -> None:
        """Give all names of one tensor the same axes: weights tied to others, layers under two names."""
        used = [name for name in names if name in self._axes]
        for name in used[1:]:
            for one, other in zip(self._axes[used[0]], self._axes[name], strict=True):
                if one is None or other is None:  # it moves on one side only: on none
                    self.pin(one or other or ())
            self.note(used[0], self._axes[name])
        for name in names if used else ():
            self._axes[name] = self._axes[used[0]]

    def permutations(self) -> Permutations:
        """What was found: the groups that are left, which of them are free, and where they occur."""
        pinned = {self._root(group) for group in self._pinned}
        roots = [group for group in self._sizes if self._root(group) == group]
        axes = {
            name: tuple(None if axis is None else tuple(map(self._root, axis)) for axis in every)
            for name, every in self._axes.items()
        }
        free = tuple(group for group in roots if group not in pinned)
        return Permutations({group: self._sizes[group] for group in roots}, free, axes)

    def _tie(self, one: int, other: int) -> None:
        one, other = sorted((self._root(one), self._root(other)))
        if one == other:
            return
        if one == INPUT:  # keeps its own size, but not its freedom
            self._pinned.add(other)
            return
        if self._sizes[one] != self._sizes[other]:
            raise refusal(f"{self._sizes[one]} units meet {self._sizes[other]} (broadcasting).")
        self._parent[other] = one

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group


def refusal(why: str) -> UserError:
    """The error for a network whose units cannot be told apart."""
    return UserError(f"The network cannot be aligned: {why}")
