"""What a split lists without its images: labels, classes and domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmcbench.data.dataset import Labels
from lmcbench.errors import UserError, printable
from lmcbench.spec.domains import Domains

LONGEST = 200
"""Longest name of a domain, in characters; it is part of the names of splits in records."""


@dataclass(frozen=True)
class Listed:
    """A split without its images.

    Attributes:
        labels: `[n]`, 0 to classes - 1.
        classes: names of the classes, in order.
        domains: domains of the images; None: they have none.
    """

    labels: Labels
    classes: tuple[str, ...]
    domains: Domains | None = None

    def counts(self) -> dict[str, list[int]]:
        """Return for each domain its number of images of every class; without domains an empty table."""
        if self.domains is None:
            return {}
        table = np.zeros((len(self.domains.names), len(self.classes)), np.int64)
        np.add.at(table, (self.domains.codes, self.labels), 1)
        return dict(zip(self.domains.names, table.tolist(), strict=True))


def name_domains(texts: Sequence[str]) -> Domains:
    """Return the domains of images, given the name of each.

    Raises:
        UserError: for a name that is too long for records.
    """
    found = Domains.of([text.strip() for text in texts])
    for name in found.names:
        if not name or len(name) > LONGEST:
            raise UserError(
                f"The name of a domain must have 1 to {LONGEST} characters, found "
                f"{printable(repr(name), 60)}."
            )
    return found
