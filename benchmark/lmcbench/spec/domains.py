"""Domains of images (hospitals, cameras, styles): names, counts and groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmcbench.errors import UserError, counted, printable, unknown
from lmcbench.spec.canonical import canonical_json

FOLDER = "folder"
"""Value of `domain` under [data] for image folders whose first level is the domain."""

SHOWN = 12
"""Most domains that a message lists."""


@dataclass(frozen=True)
class Domains:
    """The domain of each image of a split.

    Attributes:
        names: the domains that occur, in the order of `sort_names`.
        codes: the position in `names` of each image's domain, `[n]` int64.
        classes: names of the classes, for messages; empty: classes are shown by number.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str]) -> Domains:
        """Return the domains of images, given the name of each.

        Examples:
            >>> Domains.of(["photo", "art", "photo"]).counts
            {'art': 1, 'photo': 2}
        """
        names = sort_names(texts)
        position = {name: i for i, name in enumerate(names)}
        return cls(names, np.array([position[text] for text in texts], np.int64))

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def counts(self) -> dict[str, int]:
        """Images of each domain, in order."""
        counted = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counted, strict=True))

    @property
    def texts(self) -> NDArray[np.str_]:
        """The name of each image's domain, `[n]`."""
        return np.asarray(self.names, dtype=np.str_)[self.codes]

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Domains:
        """Return the domains of some of the images."""
        kept = self.codes[index]
        present = np.unique(kept)
        return Domains(tuple(self.names[i] for i in present), np.searchsorted(present, kept))

    @staticmethod
    def join(*parts: Domains) -> Domains:
        """Return the domains of several splits in order."""
        names = sort_names(name for part in parts for name in part.names)
        position = {name: i for i, name in enumerate(names)}
        codes = [np.array([position[n] for n in part.names], np.int64)[part.codes] for part in parts]
        return Domains(names, np.concatenate(codes))

    def isin(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Return for each image whether its domain is one of `names`, `[n]`."""
        chosen = [i for i, name in enumerate(self.names) if name in set(names)]
        return np.isin(self.codes, chosen)

    def class_name(self, label: int) -> str:
        """Return the name of a class."""
        return repr(self.classes[label]) if label < len(self.classes) else str(label)

    def content(self) -> bytes:
        """Return names and codes as bytes, for hashes."""
        return canonical_json(self.names).encode() + np.ascontiguousarray(self.codes, dtype="<i8").tobytes()


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names in order: by value if all are whole numbers, else as text.

    Examples:
        >>> sort_names(["10", "2", "2"]), sort_names(["sketch", "art"])
        (('2', '10'), ('art', 'sketch'))
    """
    found = set(names)
    return tuple(sorted(found, key=int) if all(n.isdecimal() for n in found) else sorted(found))


def strata(labels: NDArray[np.int64], domains: Domains | None) -> NDArray[np.int64]:
    """Return a number for each (domain, class), `[n]`; without domains the labels themselves."""
    if domains is None or not len(labels):
        return labels
    return domains.codes * (int(labels.max()) + 1) + labels


def counts_text(counts: Mapping[str, int]) -> str:
    """Return domains with their numbers of images: `art 20, photo 35`; the first `SHOWN` of many."""
    listed = [f"{printable(name, 60)} {n:,}" for name, n in list(counts.items())[:SHOWN]]
    rest = len(counts) - len(listed)
    return ", ".join(listed) + (f" and {rest:,} more" if rest else "")


def refusal(problem: str, counts: Mapping[str, int], advice: str, kind: str = "training images") -> UserError:
    """Return the error for a problem with domains: it lists the domains with their numbers of images."""
    return UserError(f"{problem} The {kind} by domain: {counts_text(counts) or 'none'}. {advice}".rstrip())


def check_known(what: str, name: str, counts: Mapping[str, int], kind: str = "training images") -> None:
    """Raise `UserError` if a domain does not occur; it suggests close names and lists those that do."""
    if name not in counts:
        problem = str(unknown("domain", name, counts))
        raise refusal(f"{what}: {problem}", counts, "", kind)


def parse_groups(shift: str, groups: str, counts: Mapping[str, int], k: int) -> list[tuple[str, ...]]:
    """Return the domains of each sibling.

    Args:
        shift: name of the shift, for messages.
        groups: `A+B/C`: a slash between siblings, a plus between the domains of one; empty: one domain each.
        counts: images of each training domain, in order.
        k: number of siblings.

    Raises:
        UserError: if the groups are not one for each sibling, or one is empty, names an unknown domain or a
            domain of another group.
    """
    found = len(counts)
    if found < 2:
        raise refusal(
            f"Shift {shift} needs at least two domains.", counts, "Choose another shift, or other data."
        )
    if not groups:
        if found != k:
            raise refusal(
                f"Shift {shift} gives each sibling one domain, but there are {k} siblings and {found} "
                "domains.",
                counts,
                f"Set siblings = {found} in the suite, or divide the domains among {k} siblings by groups, "
                'as in groups = "A+B/C".',
            )
        return [(name,) for name in counts]
    write = "Write the domains of each sibling with a slash between siblings and a plus within: "
    write += 'groups = "A+B/C".'
    parsed = _split_groups(groups, counts)
    owner: dict[str, int] = {}
    for i, group in enumerate(parsed):
        if not all(group):
            raise refusal(f"Shift {shift}: group {i} of {groups!r} is empty.", counts, write)
        for name in group:
            check_known(f"Shift {shift}, groups {printable(groups)!r}", name, counts)
            if name in owner:
                where = "twice in one group" if owner[name] == i else "in two groups"
                raise refusal(f"Shift {shift}: {name!r} is {where} of {groups!r}.", counts, write)
            owner[name] = i
    if len(parsed) != k:
        advice = f"Set siblings = {len(parsed)} in the suite, or give" if len(parsed) > 1 else "Give"
        raise refusal(
            f"Shift {shift}: {counted(len(parsed), 'group')} for {k} siblings in {groups!r}.",
            counts,
            f"{advice} one group for each sibling.",
        )
    return parsed


def _split_groups(groups: str, known: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names in each group; a known name may itself have a slash or a plus.

    >>> _split_groups("A+B/C", ["A", "B", "C"]), _split_groups("A+B/C/D", ["A", "B", "C/D"])
    ([('A', 'B'), ('C',)], [('A', 'B'), ('C/D',)])
    """
    plain = [tuple(group.split("+")) for group in groups.split("/")]
    unusual = sorted((name for name in known if re.search("[+/]", name)), key=len, reverse=True)
    if not unusual or {name for group in plain for name in group} <= set(known):
        return plain
    names = "|".join([*map(re.escape, unusual), "[^+/]*"])
    parts: list[list[str]] = [[]]
    for name, separator in re.findall(rf"({names})([+/]|\Z)", groups):
        parts[-1].append(name)
        if separator == "/":
            parts.append([])
        elif not separator:
            break
    return [tuple(part) for part in parts]
