"""Forks: where siblings leave the trunk."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from lmcbench.errors import UserError

INDEPENDENT = "independent"


@dataclass(frozen=True)
class Fork:
    """An epoch of the trunk, or `independent` (epoch None): no trunk, own initialisations."""

    epoch: float | None

    @classmethod
    def parse(cls, text: str | float) -> Fork:
        """A fork from its name.

        Raises:
            UserError: for anything but `independent` or an epoch of at least 0.
        """
        if text == INDEPENDENT:
            return cls(None)
        if isinstance(text, bool) or not re.fullmatch(r"\d+(\.\d+)?", str(text)):
            raise UserError(f"Unknown fork {text!r}. Allowed: an epoch (0, 2, 0.5) or '{INDEPENDENT}'.")
        return cls(float(text))

    @property
    def name(self) -> str:
        """The fork as records and commands write it: `0`, `2`, `0.5`, `independent`."""
        if self.epoch is None:
            return INDEPENDENT
        return str(int(self.epoch)) if self.epoch == int(self.epoch) else str(self.epoch)

    def step(self, steps_per_epoch: int) -> int:
        """The step at which siblings start, 0 for independent ones; whole epochs fall on full passes."""
        # as a fraction of what was written: 0.29 * 100 is 28.99... in floating point
        return 0 if self.epoch is None else math.floor(Fraction(str(self.epoch)) * steps_per_epoch)

    @property
    def order(self) -> float:
        """A sort key: epochs first, independent last."""
        return float("inf") if self.epoch is None else self.epoch
