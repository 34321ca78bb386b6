"""Forks: the point where siblings leave the trunk, or a comparator without a trunk."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from lmcbench.errors import UserError, printable
from lmcbench.spec.checkpoint_kinds import HEAD_BYTES, checkpoint_kind
from lmcbench.untrusted import open_regular

INDEPENDENT = "independent"
EQUAL_COST = "independent-equal-cost"
WHOLE_BUDGET = "whole-budget"

COMPARATORS = {
    INDEPENDENT: "K networks with their own initialisations, each trained at full length",
    EQUAL_COST: "K such networks with the total training cost of trunk and siblings at the latest fork",
    WHOLE_BUDGET: "one network with that total training cost, trained on the union of the views",
}
"""Comparators of the siblings; they have no trunk (docs/design.md, section 3.10)."""

FROM = "from:"
_CHECKPOINT = re.compile(rf"{FROM}(.+?)(?:@([0-9a-f]{{8}}))?")
_EPOCH = re.compile(r"\d{1,9}(\.\d{1,12})?", re.ASCII)
_SHARE = re.compile(r"(\d{1,2}(?:\.\d{1,6})?)%", re.ASCII)

CHECKPOINT_BYTES = 2**36
"""Largest checkpoint that siblings start from; only its hash is computed here, part by part."""


_INDEX = (
    "is JSON: the index of a checkpoint in parts does not identify its weights. Save them as one file: "
    "torch.save(state_dict, FILE)."
)


@dataclass(frozen=True)
class Fork:
    """A point of the trunk, a comparator, or a checkpoint given in place of a trunk.

    Attributes:
        epoch: epoch of the trunk, or None.
        percent: share of training in percent, more than 0 and less than 100, or None.
        comparator: a key of `COMPARATORS`, or None.
        checkpoint: file of the weights that all siblings start from, or None.
        mark: the first 8 hex digits of the checkpoint's sha256, if the fork was read from a record.
    """

    epoch: float | None
    comparator: str | None = None
    checkpoint: Path | None = None
    mark: str | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str | float) -> Fork:
        """Parse the name of a fork; the file of a checkpoint is not opened.

        Raises:
            UserError: if it is not an epoch of at least 0, a share of training (`3%`), a comparator or
                `from:FILE`, a checkpoint of any kind that is one file.
        """
        if isinstance(text, str) and text in COMPARATORS:
            return cls(None, comparator=text)
        is_number = isinstance(text, int | float) and not isinstance(text, bool)
        # long numbers have no decimal text
        name = str(text) if isinstance(text, str) or (is_number and abs(text) < 10**9) else ""
        given = _CHECKPOINT.fullmatch(name)
        if given is not None and Path(given[1]).name not in ("", ".."):
            if given[1].endswith(".json"):
                raise UserError(f"Fork {printable(name)!r} {_INDEX}")
            return cls(None, checkpoint=Path(given[1]), mark=given[2])
        share = _SHARE.fullmatch(name)
        if share is not None and float(share[1]) > 0:
            return cls(None, percent=float(share[1]))
        if share is not None:  # the beginning of training has one name
            return cls(0.0)
        if not _EPOCH.fullmatch(name):
            names = ", ".join(f"'{name}'" for name in COMPARATORS)
            found = printable(repr(text)) if isinstance(text, str | int | float) else type(text).__name__
            raise UserError(
                f"Unknown fork {found}. Allowed: an epoch (0, 2, 0.5), a share of training below "
                f"100% ('3%') or {names}; "
                f"on the command line also {FROM}FILE."
            )
        return cls(float(text))

    @property
    def name(self) -> str:
        """The name in records and commands: `0`, `0.5`, `3%`, `independent`, `from:FILE@MARK`.

        The folder of a checkpoint is not part of it.

        Raises:
            UserError: if the checkpoint cannot be read.
        """
        if self.checkpoint is not None:
            return f"{FROM}{self.checkpoint.name}@{self.mark or self.sha256[:8]}"
        if self.percent is not None:
            return f"{_short(self.percent)}%"
        if self.epoch is None:
            return self.comparator or INDEPENDENT
        return _short(self.epoch)

    @property
    def identity(self) -> str:
        """The name in keys, where a checkpoint is identified by its content and not by its path."""
        return f"{FROM}{self.sha256}" if self.checkpoint is not None else self.name

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the checkpoint's file, 64 hex digits.

        Raises:
            UserError: if it cannot be read, or its first bytes are not those of a checkpoint.
        """
        assert self.checkpoint is not None
        try:
            with open_regular(self.checkpoint, limit=CHECKPOINT_BYTES) as file:
                # before a large file is read
                if checkpoint_kind(self.checkpoint, file.read(HEAD_BYTES)) == "parts":
                    raise UserError(f"{printable(str(self.checkpoint))} {_INDEX}")
                file.seek(0)
                return hashlib.file_digest(file, "sha256").hexdigest()
        except UserError as error:
            raise UserError(f"Fork {FROM}{error}") from None

    @property
    def has_trunk(self) -> bool:
        """Whether siblings leave a trunk: an epoch or a share of training."""
        return self.epoch is not None or self.percent is not None

    def step(self, steps_per_epoch: int, length: int) -> int:
        """Return the step at which siblings start, rounded down; 0 without a trunk.

        Args:
            steps_per_epoch: full batches in the whole training set.
            length: T, steps of a full training.
        """
        # exact, because 0.29 * 100 is 28.99... in floating point
        if self.percent is not None:
            return math.floor(Fraction(str(self.percent)) * length / 100)
        return 0 if self.epoch is None else math.floor(Fraction(str(self.epoch)) * steps_per_epoch)

    def share(self, epochs: float) -> float | None:
        """Return the nominal share of training, 0 to 1, of a recipe of `epochs`; None without a trunk.

        It is the float nearest to the exact share, so that 2.7 of 9 epochs equals `30%`.
        """
        # exact, because 2.7 / 9 is 0.30000000000000004 in floating point
        if self.percent is not None:
            return float(Fraction(str(self.percent)) / 100)
        if self.epoch is None or not 0 < epochs < math.inf:
            return None
        return float(Fraction(str(self.epoch)) / Fraction(str(epochs)))

    @property
    def is_cost_matched(self) -> bool:
        """Whether the length of its networks follows from the training cost of siblings."""
        return self.comparator in (EQUAL_COST, WHOLE_BUDGET)

    def order(self, epochs: float) -> tuple[int, float, str]:
        """Return a sort key: the share of a training of `epochs`, then checkpoints, then `COMPARATORS`."""
        share = self.share(epochs)
        if share is not None:
            return 0, share, ""
        if self.epoch is not None:  # the length is not known
            return int(self.epoch > 0), self.epoch, ""
        if self.checkpoint is not None:
            return 2, 0.0, self.name
        return 3 + list(COMPARATORS).index(self.name), 0.0, ""


def _short(number: float) -> str:
    # without an exponent, which is not a name of a fork
    return f"{number:.12f}".rstrip("0").rstrip(".")


def equal_share(fork_step: int, siblings: int, length: int, networks: int) -> int:
    """Return the steps of each of `networks` that together cost as much as trunk and siblings.

    Trunk and siblings take k + K (T - k) steps, with fork step k, K siblings and full length T. Halves are
    rounded up.
    """
    total = fork_step + siblings * (length - fork_step)
    return (2 * total + networks) // (2 * networks)
