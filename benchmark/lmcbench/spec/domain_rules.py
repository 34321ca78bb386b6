"""Training shifts by domain: each sibling sees the images of its domains, or as many of all of them."""

from __future__ import annotations

import numpy as np

from lmcbench.spec.domains import Domains, counts_text, parse_groups, refusal, strata
from lmcbench.spec.seeds import permutation
from lmcbench.spec.shift_rules import Indices, ShiftKind, View, by_class

DOMAINS = "domains"
MIXED = "mixed(domains)"


def _domains(labels: Indices, k: int, seed: int, domains: Domains, *, groups: str = "") -> list[View]:
    """Give sibling i the images of the i-th group of domains, by default of the i-th domain."""
    return [View(by_class(labels, part)) for part in _parts(DOMAINS, labels, k, domains, groups)]


def _mixed(labels: Indices, k: int, seed: int, domains: Domains, *, groups: str = "") -> list[View]:
    """Deal the images of all groups into parts as large as the groups, stratified over domain and class.

    Positions in the order of strata are divided evenly: those of a part of n images are spaced as
    (j + 1/2) / n, j = 0 .. n - 1, so that its share of each stratum is that of the whole up to rounding.

    Raises:
        UserError: if a part would miss a domain or a class.
    """
    groups_of = _parts(MIXED, labels, k, domains, groups)
    pool = np.concatenate(groups_of)
    shuffled = pool[permutation(seed, 0, len(pool))]
    dealt = shuffled[np.argsort(strata(labels, domains)[shuffled], kind="stable")]
    owner = np.repeat(np.arange(k), [len(part) for part in groups_of])
    place = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in groups_of])
    owner = owner[np.argsort(place, kind="stable")]
    views = [View(by_class(labels, dealt[owner == i])) for i in range(k)]
    for what, of in (("domain", domains.codes), ("class", labels)):
        wanted = np.unique(of[pool])
        for i, view in enumerate(views):
            lost = np.setdiff1d(wanted, of[view.indices])
            if len(lost):
                name = repr(domains.names[lost[0]]) if what == "domain" else domains.class_name(lost[0])
                raise refusal(
                    f"Shift {MIXED}: the part of sibling {i}, {len(view.indices)} images, has none of {what} "
                    f"{name}.",
                    domains.counts,
                    "Use more images of it, or put small domains into one group.",
                )
    return views


def _parts(shift: str, labels: Indices, k: int, domains: Domains, groups: str) -> list[Indices]:
    """Return the positions of each group's images, which must have the same classes.

    Raises:
        UserError: for invalid groups, or a group without a class that others have.
    """
    counts = domains.counts
    named = parse_groups(shift, groups, counts, k)
    parts = [np.flatnonzero(domains.isin(group)) for group in named]
    classes = np.unique(labels[np.concatenate(parts)])
    for group, part in zip(named, parts, strict=True):
        lost = np.setdiff1d(classes, labels[part])
        if len(lost):
            what = "class" if len(lost) == 1 else "classes"
            few = ", ".join(map(domains.class_name, lost[:5])) + (" ..." if len(lost) > 5 else "")
            others = [name for name in counts if name not in group]
            having = {name: int((labels[domains.isin([name])] == lost[0]).sum()) for name in others}
            raise refusal(
                f"Shift {shift}: {'+'.join(group)} has no image of {what} {few}, which other domains have "
                f"({counts_text(having)}).",
                counts,
                "Remove the class, hold the domain out (hold_out), or put it into a group with another.",
            )
    return parts


DOMAIN_SHIFTS: dict[str, ShiftKind] = {
    DOMAINS: ShiftKind(
        _domains,
        "each sibling sees its own domains (groups) of the data: one hospital, camera or style each",
        "Gulrajani & Lopez-Paz 2021 (arXiv 2007.01434), multiple environments; Koh et al. 2021 (arXiv "
        "2012.07421)",
        needs_domains=True,
    ),
    MIXED: ShiftKind(
        _mixed,
        "control of domains: parts of the same sizes, stratified over domain and class",
        "control of size",
        needs_domains=True,
    ),
}
"""Shifts of data with domains, by name."""
