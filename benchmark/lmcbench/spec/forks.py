"""Forks: where siblings leave the trunk, or what stands in for one."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from lmcbench.errors import UserError

INDEPENDENT = "independent"
EQUAL_COST = "independent-equal-cost"
WHOLE_BUDGET = "whole-budget"

COMPARATORS = {
    INDEPENDENT: "K networks of their own initialisations, each trained at full length",
    EQUAL_COST: "the same, together as dear as the siblings of the suite's latest fork and their trunk",
    WHOLE_BUDGET: "one network as dear as all of them, trained on everything they see",
}
"""What siblings are compared with (design 3.10): no trunk, no fork."""

FROM = "from:"
SUFFIX = ".safetensors"
_CHECKPOINT = re.compile(rf"{FROM}(.+?)(?:@([0-9a-f]{{8}}))?")


@dataclass(frozen=True)
class Fork:
    """An epoch of the trunk, a comparator by name, or a given checkpoint in place of a trunk.

    Attributes:
        epoch: of the trunk; None for the others.
        comparator: a key of `COMPARATORS`, else None.
        checkpoint: file of the weights that all siblings start from, else None.
        mark: the first 8 hex digits of its sha256, where the fork is known from a record alone.
    """

    epoch: float | None
    comparator: str | None = None
    checkpoint: Path | None = None
    mark: str | None = None

    @classmethod
    def parse(cls, text: str | float) -> Fork:
        """A fork from its name; a checkpoint's file is not opened.

        Raises:
            UserError: for anything but an epoch of at least 0, a comparator or `from:FILE.safetensors`.
        """
        if text in COMPARATORS:
            return cls(None, comparator=str(text))
        given = _CHECKPOINT.fullmatch(str(text))
        if given is not None and given[1].endswith(SUFFIX):
            return cls(None, checkpoint=Path(given[1]), mark=given[2])
        if isinstance(text, bool) or not re.fullmatch(r"\d+(\.\d+)?", str(text)):
            names = ", ".join(f"'{name}'" for name in COMPARATORS)
            raise UserError(
                f"Unknown fork {text!r}. Allowed: an epoch (0, 2, 0.5) or {names}; "
                f"in a command also {FROM}FILE{SUFFIX}."
            )
        return cls(float(text))

    @property
    def name(self) -> str:
        """The fork as records and commands write it: `0`, `0.5`, `independent`, `from:FILE@MARK`.

        Of a checkpoint the file's name without its folder, and what tells it from others of that name.

        Raises:
            UserError: where the checkpoint cannot be read.
        """
        if self.checkpoint is not None:
            return f"{FROM}{self.checkpoint.name}@{self.mark or self.sha256[:8]}"
        if self.epoch is None:
            return self.comparator or INDEPENDENT
        return str(int(self.epoch)) if self.epoch == int(self.epoch) else str(self.epoch)

    @property
    def identity(self) -> str:
        """The fork as keys hold it: a checkpoint by its content, wherever it lies."""
        return f"{FROM}{self.sha256}" if self.checkpoint is not None else self.name

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint's file, 64 hex digits.

        Raises:
            UserError: where it cannot be read.
        """
        assert self.checkpoint is not None
        try:
            return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"Fork {FROM}{self.checkpoint}: {error.strerror}.") from None

    def step(self, steps_per_epoch: int) -> int:
        """The step at which siblings start, 0 without a trunk; whole epochs fall on full passes."""
        # as a fraction of what was written: 0.29 * 100 is 28.99... in floating point
        return 0 if self.epoch is None else math.floor(Fraction(str(self.epoch)) * steps_per_epoch)

    @property
    def is_cost_matched(self) -> bool:
        """Whether its networks' length is set by what siblings cost."""
        return self.comparator in (EQUAL_COST, WHOLE_BUDGET)

    @property
    def order(self) -> tuple[float, int, str]:
        """A sort key: epochs first, then checkpoints, then comparators as they are listed."""
        if self.epoch is not None:
            return self.epoch, 0, ""
        if self.checkpoint is not None:
            return math.inf, 0, self.name
        return math.inf, 1 + list(COMPARATORS).index(self.name), ""


def equal_share(fork_step: int, siblings: int, length: int, networks: int) -> int:
    """Steps of each of `networks` that together cost what `siblings` of a fork and their trunk do.

    k + K (T - k) steps in all (design 3.10); shares go to the nearest whole step, halves up.
    """
    total = fork_step + siblings * (length - fork_step)
    return (2 * total + networks) // (2 * networks)
