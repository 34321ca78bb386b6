"""From the atoms of a traced network to groups of units that may change places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmcbench.connect.axis_labels import Atoms, Ids
from lmcbench.connect.unit_groups import Group

Colours = npt.NDArray[np.uint64]

_ROUNDS = 200
"""Maximum number of corrections; each merges or fixes at least one atom."""

_PARENTS = 4
"""Largest number of parents by one link: query, key and value of one unit may be of different groups."""

TWO_WAYS = "divides the same units into groups in two ways, which no permutation keeps"


@dataclass(frozen=True)
class Structure:
    """Groups of atoms.

    Attributes:
        groups: from input to output.
        group: group of each atom, -1 for atoms that stay, `[atoms]`.
        unit: unit in its group, `[atoms]`.
        part: atoms of the same unit that play different roles have different parts, `[atoms]`.
        root: representative of each atom.
        reasons: why atoms stay: reason of each fixed representative.
    """

    groups: tuple[Group, ...]
    group: Ids
    unit: Ids
    part: Ids
    root: Ids
    reasons: dict[int, str | None]


def find_structure(atoms: Atoms) -> Structure:
    """Group atoms so that every permutation of units that keeps the parents satisfies all constraints.

    Atoms get colours that differ if their constraints differ, refined until stable (as in tests for graph
    isomorphism; Weisfeiler and Leman, 1968). Where the result is not a tree or a grid of interchangeable
    units, the atoms concerned stay.
    """
    search = _Search(atoms)
    for _ in range(_ROUNDS):
        if search.settle():
            break
    return search.result()


class _Search:
    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self.every = np.arange(atoms.size)
        self.reasons: dict[int, str | None] = {}
        self.more: list[tuple[Ids, str | None]] = list(atoms.pins)
        self.links = list(atoms.links)
        self.known_links: set[tuple[bytes, bytes]] = set()

    def pin(self, ids: Ids, why: str | None) -> None:
        self.more.append((np.asarray(ids), why))

    def settle(self) -> bool:
        """Find contradictions and resolve them; True if there were none."""
        self.root = self.atoms.roots(self.every)
        self.pairs = []
        self.self_linked: list[Ids] = []
        for child, parent in self.links:
            found = np.unique(np.stack([self.root[child], self.root[parent]]), axis=1)
            itself = found[0] == found[1]
            if itself.any():  # says nothing, but tells these atoms from others
                self.self_linked.append(found[0][itself])
            if not itself.all():
                self.pairs.append((found[0][~itself], found[1][~itself]))
        self.pinned = np.zeros(self.atoms.size, bool)
        for ids, why in self.more:
            roots = np.unique(self.root[ids])
            new = roots[~self.pinned[roots]]
            self.pinned[new] = True
            for r in new.tolist():
                self.reasons[r] = why
        changed = True
        while changed:  # what belongs to a fixed unit's parent is fixed
            changed = False
            for c, p in self.pairs:
                at = self.pinned[c] & ~self.pinned[p]
                if at.any():
                    changed = True
                    for child, above in zip(c[at].tolist(), p[at].tolist(), strict=True):
                        self.reasons.setdefault(above, self.reasons.get(child))
                    self.pinned[p[at]] = True
        if self._ambiguous():
            return False
        self.colour = self._colours()
        self.order = np.argsort(self.colour, kind="stable")
        return not self._correct()

    def _ambiguous(self) -> bool:
        """Split links that give atoms a few parents; pin atoms with more."""
        found = False
        single = []
        for c, p in self.pairs:
            child, counts = np.unique(c, return_counts=True)
            several = np.isin(c, child[counts > 1])
            bad = several & ~(self.pinned[c] & self.pinned[p])
            # an index that meets several fixed ones is a position, not a unit
            moves = several & ~self.pinned[p]
            position = bad & ~np.isin(c, c[moves])
            if position.any():
                self.pin(np.concatenate([c[position], p[position]]), None)
                found = True
            bad &= ~position
            if not bad.any():
                single.append((c, p))
            elif counts.max() <= _PARENTS:  # pairs are sorted by child and parent
                nth = np.arange(len(c)) - np.searchsorted(c, c)
                single += [(c[nth == i], p[nth == i]) for i in range(int(counts.max()))]
            else:
                self.pin(np.concatenate([c[several], p[several]]), TWO_WAYS)
                found = True
        self.pairs = single
        return found

    def _colours(self) -> Colours:
        with np.errstate(over="ignore"):
            size = self.atoms.size
            base = _hash(
                self.atoms.kind[:size].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
                + self.atoms.mark[:size].astype(np.uint64)
            )
            colour = np.zeros(size, np.uint64)
            np.add.at(colour, self.root, base)
            for e, ids in enumerate(self.self_linked):
                colour[ids] += _hash(np.array([2 * e + 3], np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F))
            own = _hash(self.every.astype(np.uint64) + np.uint64(0xABCDEF))
            colour[self.pinned] = own[self.pinned]
            is_root = self.root == self.every
            count = 0
            while True:
                colour = _hash(colour)
                colour[self.pinned] = own[self.pinned]
                now = len(np.unique(colour[is_root]))
                if now == count:
                    return colour
                count = now
                new = colour.copy()
                for e, (c, p) in enumerate(self.pairs):
                    salt = np.uint64(2 * e + 1) * np.uint64(0xD6E8FEB86659FD93)
                    np.add.at(new, c, _hash(colour[p] + salt))
                    np.add.at(new, p, _hash(colour[c] ^ salt))
                colour = new

    def _classes(self) -> dict[int, Ids]:
        """Return the free roots by colour; the key is the first."""
        roots = np.flatnonzero((self.root == self.every) & ~self.pinned)
        _, inverse = np.unique(self.colour[roots], return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        splits = np.flatnonzero(np.diff(inverse[order])) + 1
        parts = sorted(
            (part for part in np.split(roots[order], splits) if len(part)), key=lambda p: int(p[0])
        )
        return {int(part[0]): part for part in parts}

    def _correct(self) -> bool:
        self.classes = self._classes()
        of = np.full(self.atoms.size, -1, np.int64)
        for key, members in self.classes.items():
            of[members] = key
        self.of = of
        self.parents: dict[int, dict[bytes, Ids]] = {key: {} for key in self.classes}
        merged = False
        for c, p in self.pairs:
            free = (of[c] >= 0) & (of[p] >= 0)
            c, p = c[free], p[free]
            for key in np.unique(of[c]).tolist():
                at = of[c] == key
                above = p[at][np.argsort(c[at])]
                if len(np.unique(above)) == 1:
                    continue
                _, first, inverse = np.unique(above, return_index=True, return_inverse=True)
                partition = np.argsort(np.argsort(first))[inverse].astype(np.int64).tobytes()
                known = self.parents[key].get(partition)
                if known is None:
                    self.parents[key][partition] = above
                elif not np.array_equal(known, above):
                    self.atoms.merge(known, above)
                    merged = True
        if merged:
            return True
        simplified = [self._simplify(key) for key in self.classes]
        return any(simplified)

    def _simplify(self, key: int) -> bool:
        """Drop parents of parents; pin units that do not form a grid under the rest."""
        found = sorted(self.parents[key].items(), key=lambda item: -len(np.unique(item[1])))
        kept: list[tuple[bytes, Ids]] = []
        for partition, above in found:
            codes = np.frombuffer(partition, np.int64)
            finer = next(
                (known for known in kept if _determines(np.frombuffer(known[0], np.int64), codes)), None
            )
            if finer is None:
                kept.append((partition, above))
                continue
            pairs = np.unique(np.stack([finer[1], above]), axis=1)
            name = pairs[0].tobytes(), pairs[1].tobytes()
            if name not in self.known_links:
                self.known_links.add(name)
                if not any(
                    np.array_equal(c, pairs[0]) and np.array_equal(p, pairs[1]) for c, p in self.pairs
                ):
                    self.links.append((pairs[0], pairs[1]))
                    return True
        self.parents[key] = dict(kept)
        if len(kept) > 1:
            codes = np.stack([np.frombuffer(partition, np.int64) for partition, _ in kept])
            cells, counts = np.unique(codes, axis=1, return_counts=True)
            whole = int(np.prod([codes_.max() + 1 for codes_ in codes]))
            if cells.shape[1] != whole or len(set(counts.tolist())) > 1:
                self.pin(
                    np.concatenate([self.classes[key], *(above for _, above in kept)]),
                    TWO_WAYS,
                )
                return True
        return False

    def result(self) -> Structure:
        size = self.atoms.size
        group, unit, part = (np.full(size, -1, np.int64) for _ in range(3))
        # units that move with one parent each are parts of it
        chain: dict[int, tuple[int, Ids]] = {}
        for key, members in self.classes.items():
            known = list(self.parents[key].values())
            if len(known) == 1 and len(np.unique(known[0])) == len(members):
                chain[key] = int(self.of[known[0][0]]), known[0]
        keys = [key for key, members in self.classes.items() if key not in chain and len(members) > 1]
        numbers = {key: i for i, key in enumerate(keys)}
        for key in keys:
            members = self.classes[key]
            group[members], unit[members], part[members] = numbers[key], np.arange(len(members)), key
        for key, members in self.classes.items():
            above, at = members, key
            while at in chain:
                parent, ups = chain[at]
                place = np.searchsorted(self.classes[at], above)
                above, at = ups[place], parent
            if at in numbers and at != key:
                group[members], unit[members], part[members] = group[above], unit[above], key
        groups = []
        for key in keys:
            parents = []
            for above in self.parents[key].values():
                if group[above[0]] >= 0:
                    parents.append((int(group[above[0]]), unit[above]))
            groups.append(Group(len(self.classes[key]), tuple(parents)))
        return Structure(
            tuple(groups), group[self.root], unit[self.root], part[self.root], self.root, self.reasons
        )


def _determines(fine: Ids, coarse: Ids) -> bool:
    return len(np.unique(np.stack([fine, coarse]), axis=1).T) == len(np.unique(fine))


def _hash(x: Colours) -> Colours:
    """Return a mix of the bits (the finaliser of MurmurHash3)."""
    with np.errstate(over="ignore"):
        x = x ^ (x >> np.uint64(33))
        x = x * np.uint64(0xFF51AFD7ED558CCD)
        x = x ^ (x >> np.uint64(33))
        x = x * np.uint64(0xC4CEB9FE1A85EC53)
        return x ^ (x >> np.uint64(33))
